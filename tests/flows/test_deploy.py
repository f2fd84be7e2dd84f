"""deploy/: the plain objects fit Kubernetes' own schemas, the others KubeRay's fields, and nothing is a secret."""

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from flows.commands import read_flow
from mhim_core.types import ExitCode

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)

POD_TEMPLATE = {"type": "object", "required": ["spec"], "properties": {"metadata": {}, "spec": {"type": "object"}}}
START = {"type": "object", "additionalProperties": {"type": "string"}}
"""KubeRay takes numbers of `ray start` as text."""


def fields(required: str, **properties: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


COUNT, TEXT, FLAG = {"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}, {"type": "boolean"}
CLUSTER = fields(
    "rayVersion headGroupSpec workerGroupSpecs enableInTreeAutoscaling",
    rayVersion=TEXT,
    authOptions=fields("mode", mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        "idleTimeoutSeconds",
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    ),
    headGroupSpec=fields("rayStartParams template", rayStartParams=START, template=POD_TEMPLATE),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": fields(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas={"type": "integer", "minimum": 1},
            rayStartParams=START,
            template=POD_TEMPLATE,
        ),
    },
)
JOB = fields(
    "entrypoint rayClusterSpec submissionMode backoffLimit activeDeadlineSeconds",
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
    backoffLimit={"type": "integer", "minimum": 0, "maximum": 1},
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes={"const": True},  # the time to live is heeded with it alone
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER,
)
KUBERAY = {
    "RayCluster": CLUSTER,
    "RayJob": JOB,
    "RayCronJob": fields("schedule jobTemplate", schedule=TEXT, suspend=FLAG, jobTemplate=JOB),
}


def objects() -> list[Any]:
    return [
        pytest.param(document, id=f"{path.name}-{document['kind']}")
        for path in FILES
        for document in yaml.safe_load_all(path.read_text())
    ]


def document_of(kind: str) -> dict[str, Any]:
    (document,) = (
        document for path in FILES for document in yaml.safe_load_all(path.read_text()) if document["kind"] == kind
    )
    return dict(document)


def clusters() -> list[dict[str, Any]]:
    return [
        document_of("RayCluster")["spec"],
        document_of("RayJob")["spec"]["rayClusterSpec"],
        document_of("RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"],
    ]


def pod_templates() -> list[dict[str, Any]]:
    cluster = clusters()[0]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [*(group["template"] for group in groups), document_of("CronJob")["spec"]["jobTemplate"]["spec"]["template"]]


@pytest.mark.parametrize("document", objects())
def test_every_object_is_what_its_api_takes(document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith("ray.io/"):
        assert document["apiVersion"] == "ray.io/v1"
        jsonschema.validate(document["spec"], KUBERAY[document["kind"]])
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_an_unknown_field_would_be_noticed_in_either() -> None:
    wrong = document_of("CronJob")
    wrong["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)
    spec = document_of("RayJob")["spec"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec | {"backofLimit": 1}, JOB)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec | {"backoffLimit": 2}, JOB)


def test_the_pods_inside_the_ray_clusters_are_kubernetes_pods() -> None:
    for number, template in enumerate(pod_templates()):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_pods_run_as_nobody_special_and_take_no_keys() -> None:
    for template in pod_templates():
        spec = template["spec"]
        assert spec["serviceAccountName"] == document_of("ServiceAccount")["metadata"]["name"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            for variable in container.get("env", []):
                assert not variable["name"].startswith("AWS_")
                assert "valueFrom" in variable or not re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"])


def test_one_cluster_is_described_three_times_alike() -> None:
    first, *others = clusters()
    assert all(other == first for other in others)


def test_the_head_runs_no_tasks_and_workers_come_from_none_cpu_and_gpu_spot() -> None:
    cluster = clusters()[0]
    assert cluster["rayVersion"] == PINNED["ray"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    cpu, gpu = cluster["workerGroupSpecs"]
    assert cpu["minReplicas"] == gpu["minReplicas"] == 0
    (worker,) = gpu["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "SPOT" in gpu["template"]["spec"]["nodeSelector"].values()


def commands() -> list[list[str]]:
    """Every mhim command of the manifests, without what starts it."""
    (container,) = document_of("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    submitted = [*container["command"], *container["args"]]
    assert submitted[:2] == ["mhim", "submit"]
    words = [submitted[2:]]
    for job in (document_of("RayJob")["spec"], document_of("RayCronJob")["spec"]["jobTemplate"]):
        line = shlex.split(job["entrypoint"])
        assert line[:5] == ["env", "MHIM_IN_JOB=1", "python", "-m", "flows.cli"]
        words.append(line[5:])
    return words


def test_every_command_is_one_that_mhim_takes_and_ends_with_0_where_some_slides_failed() -> None:
    for flow, *words in commands():
        own = [word for word in words if not word.startswith(("--wait", "ray_address=http"))]
        config = read_flow(flow, own)
        assert config.failures.partial_ok is True
        assert config.store.startswith("s3://"), "a pod's own disk goes with the pod"
    assert any(word == "ray_address=auto" for word in commands()[1])


def test_the_cron_job_gives_up_where_trying_again_cannot_help() -> None:
    job = document_of("CronJob")["spec"]["jobTemplate"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [ExitCode.BAD_INPUT, ExitCode.TOO_MANY_FAILED, ExitCode.CONFLICT]
    (container,) = job["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["backoffLimit"] <= 1
    assert document_of("CronJob")["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_feature_gate_is_named_and_every_place_to_change_is_marked() -> None:
    assert "featureGates[0].name=RayCronJob" in (ROOT / "deploy/kubernetes/raycronjob.yaml").read_text()
    for path in FILES:
        for line in path.read_text().splitlines():
            if re.search(r"^\s*(- )?(image|schedule|activeDeadlineSeconds|maxReplicas|eks\.|nodeSelector)\b.*:", line):
                marked = "CHANGE" in line or "123456789012" in line
                assert marked, f"{path.name}: {line}"


def test_the_image_is_of_a_digest_built_from_hashes_run_by_nobody_special_and_holds_no_secret() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    *_, base = (line for line in lines if line.startswith("FROM "))
    assert re.fullmatch(r"FROM python:3\.11\.\d+-slim-\w+@\$\{BASE_DIGEST\}", base)
    assert "ARG BASE_DIGEST" in lines, "none by default: what is built from is looked at"
    assert [line for line in lines if "pip install" in line and not re.search("--require-hashes|--no-deps", line)] == []
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1] == "1000"
    assert not re.search(r"(ARG|ENV)\s+\S*(KEY|TOKEN|SECRET|PASSWORD)", text)
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    allowed = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} == {line for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
