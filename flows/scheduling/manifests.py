"""A schedule for other schedulers: a crontab line, a Kubernetes CronJob, a RayCronJob.

The objects are those of deploy/kubernetes with the words and times of the flow; a test compares the two.
"""

import shlex
import sys
from importlib.metadata import version
from typing import Any

import yaml

from flows.commands import IN_JOB
from flows.scheduling.records import Schedule

_DEADLINE_S = 48 * 3600
"""How long a run may take before Kubernetes ends it."""
_LATE_S = 3600
"""How late a run may still start when the controller was away."""
_KEPT_S = 7 * 24 * 3600
_CLUSTER_KEPT_S = 3600
_ACCOUNT = "mhim"
_TOKEN = {"name": "mhim", "key": "auth_token"}
"""The secret that KubeRay makes for the cluster of deploy/kubernetes/raycluster.yaml."""
_POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def crontab_line(schedule: Schedule) -> str:
    """The line with comments above it. cron mails the flow's output, unless it is redirected."""
    command = shlex.join([sys.executable, "-P", "-m", "flows.cli", schedule.flow, *schedule.words])
    # % is a line's end to cron, unless escaped
    line = f"cd {shlex.quote(schedule.folder)} && {command}".replace("%", r"\%")
    return (
        f"# {schedule.id}: cron takes these times in the machine's own zone; they are meant in {schedule.timezone}\n"
        f"{schedule.cron} {line}"
    )


def cron_job(schedule: Schedule, image: str, submit_to: str) -> str:
    """A Kubernetes CronJob whose pod submits the flow to an existing Ray cluster and waits for its end."""
    container = {
        "name": "submit",
        "image": image,
        "securityContext": _CONTAINER_SECURITY,
        "command": ["mhim", "submit", schedule.flow],
        "args": [*schedule.words, f"ray_address={submit_to}", "--wait"],
        "env": [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": _TOKEN}},
        ],
        "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    }
    # bad input, too many failed slides, a conflict: they would only fail again
    hopeless = {"containerName": "submit", "operator": "In", "values": [2, 4, 5]}
    job = {
        "backoffLimit": 1,
        "activeDeadlineSeconds": _DEADLINE_S,
        "ttlSecondsAfterFinished": _KEPT_S,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": hopeless}]},
        "template": {"spec": _pod(container) | {"restartPolicy": "Never"}},
    }
    spec = {
        "schedule": schedule.cron,
        "timeZone": schedule.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": _LATE_S,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": job},
    }
    return _text(
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": schedule.id}, "spec": spec},
        f"{schedule.id}: submits to {submit_to}, with the token of the secret {_TOKEN['name']}",
        "every node of that cluster must reach the places that are named here",
    )


def ray_cron_job(schedule: Schedule, image: str) -> str:
    """A RayCronJob: KubeRay makes a Ray cluster for each run and takes it down again."""
    entrypoint = shlex.join(["env", f"{IN_JOB}=1", "python", "-m", "flows.cli", schedule.flow, *schedule.words])
    job = {
        "entrypoint": entrypoint,
        "submissionMode": "K8sJobMode",
        "backoffLimit": 1,
        "activeDeadlineSeconds": _DEADLINE_S,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _CLUSTER_KEPT_S,
        "rayClusterSpec": _ray_cluster(image),
    }
    spec = {"schedule": schedule.cron, "timeZone": schedule.timezone, "suspend": False, "jobTemplate": job}
    return _text(
        {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": schedule.id}, "spec": spec},
        "RayCronJob is alpha: KubeRay 1.6 or newer, its operator with the feature gate RayCronJob; without it nothing",
        "happens, silently. An operator that does not know timeZone takes its own.",
        "Change what fits your nodes; deploy/kubernetes/raycronjob.yaml says what each part is for.",
    )


def _ray_cluster(image: str) -> dict[str, Any]:
    """The head runs no tasks; workers come and go."""
    ports = [{"name": "gcs-server", "containerPort": 6379}, {"name": "dashboard", "containerPort": 8265}]
    memory = {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"}}
    head = {"name": "ray-head", **_container(image), "ports": ports, "resources": memory}
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": 600, "upscalingMode": "Default"},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": {"spec": _pod(head)},
        },
        "workerGroupSpecs": [
            _workers("cpu", image),
            _workers(
                "gpu",
                image,
                more={"nvidia.com/gpu": "1"},
                nodeSelector={"eks.amazonaws.com/capacityType": "SPOT"},
                tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            ),
        ],
    }


def _workers(name: str, image: str, more: dict[str, str] | None = None, **placement: Any) -> dict[str, Any]:
    amounts = {"cpu": "15", "memory": "60Gi", "ephemeral-storage": "200Gi"} | (more or {})
    container = {
        "name": "ray-worker",
        **_container(image),
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [{"name": "staging", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "staging", "emptyDir": {"sizeLimit": "200Gi"}}]
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": 8,
        "rayStartParams": {},
        "template": {"spec": _pod(container) | placement | {"volumes": volumes}},
    }


def _pod(container: dict[str, Any]) -> dict[str, Any]:
    return {"serviceAccountName": _ACCOUNT, "securityContext": _POD_SECURITY, "containers": [container]}


def _container(image: str) -> dict[str, Any]:
    return {"image": image, "securityContext": _CONTAINER_SECURITY}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # what is said twice is written twice


def _text(document: dict[str, Any], *comments: str) -> str:
    body = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in comments) + body
