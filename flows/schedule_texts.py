"""A schedule in the words of other machinery: a crontab line, a Kubernetes CronJob, a RayCronJob."""

import shlex
import sys
from importlib.metadata import version
from typing import Any

import yaml

from flows.schedule_records import Schedule

_DEADLINE_S = 24 * 3600
"""How long a job may take before Kubernetes ends it."""
_LATE_S = 6 * 3600
"""How late a job may still start, when the controller was away."""
_TOKEN = {"name": "mhim-ray-token", "key": "token"}
"""The secret with the Ray cluster's token."""


def crontab_line(schedule: Schedule) -> str:
    """With comments above it. What the flow says is mailed by cron, or goes where you redirect it."""
    command = shlex.join([sys.executable, "-P", "-m", "flows.cli", schedule.flow, *schedule.words])
    # % is a line's end to cron, unless escaped
    line = f"cd {shlex.quote(schedule.folder)} && {command}".replace("%", r"\%")
    return (
        f"# {schedule.id}: cron takes these times in the machine's own zone; they are meant in {schedule.timezone}\n"
        f"{schedule.cron} {line}"
    )


def cron_job(schedule: Schedule, image: str, submit_to: str) -> str:
    """A Kubernetes CronJob whose pod submits the flow to a Ray cluster that is there, and waits for its end."""
    command = ["python", "-m", "flows.cli", "submit", schedule.flow, *schedule.words]
    command += [f"ray_address={submit_to}", "--wait"]
    container = {
        "name": "submit",
        "image": image,
        "command": command,
        "env": [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": _TOKEN}},
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
    }
    spec = {
        "schedule": schedule.cron,
        "timeZone": schedule.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": _LATE_S,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {
            "spec": {
                "backoffLimit": 1,
                "activeDeadlineSeconds": _DEADLINE_S,
                "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            }
        },
    }
    return _text(
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": schedule.id}, "spec": spec},
        f"{schedule.id}: submits to {submit_to}, with the token of the secret {_TOKEN['name']}",
        "store, registry and cohort must be reachable from every node of that cluster",
    )


def ray_cron_job(schedule: Schedule, image: str) -> str:
    """A RayCronJob: KubeRay makes a Ray cluster for each run and takes it down again."""
    ray_version = version("ray")
    resources = {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"}}
    head = {"name": "ray-head", "image": image, "resources": {"requests": {"cpu": "2", "memory": "8Gi"}}}
    worker = {"name": "ray-worker", "image": image, "resources": resources}
    cluster = {
        "rayVersion": ray_version,
        "enableInTreeAutoscaling": True,
        # the head runs no tasks
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": {"containers": [head]}}},
        "workerGroupSpecs": [
            {
                "groupName": "cpu",
                "replicas": 1,
                "minReplicas": 1,
                "maxReplicas": 8,
                "rayStartParams": {},
                "template": {"spec": {"containers": [worker]}},
            }
        ],
    }
    job = {
        "entrypoint": shlex.join(["python", "-m", "flows.cli", schedule.flow, *schedule.words]),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "activeDeadlineSeconds": _DEADLINE_S,
        "backoffLimit": 1,
        "rayClusterSpec": cluster,
    }
    spec = {"schedule": schedule.cron, "timeZone": schedule.timezone, "jobTemplate": job}
    return _text(
        {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": schedule.id}, "spec": spec},
        "RayCronJob is alpha: KubeRay 1.6 or later, started with --feature-gates=RayCronJob=true",
        "change the groups' sizes to your nodes; deploy/ has a cluster with GPU workers to copy from",
    )


def _text(document: dict[str, Any], *comments: str) -> str:
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in comments) + body
