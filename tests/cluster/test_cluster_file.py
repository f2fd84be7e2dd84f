"""ray_cluster.yaml is a file that `ray up` accepts, and says what its comments promise."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def text() -> str:
    return (ROOT / "ray_cluster.yaml").read_text()


@pytest.fixture
def cluster_file(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)


@pytest.fixture
def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.filterwarnings("ignore")
def test_rays_own_schema_accepts_the_cluster_file(cluster_file: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster_file))


@pytest.mark.filterwarnings("ignore")
def test_rays_own_schema_rejects_an_unknown_key(cluster_file: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster_file | {"idle_timeout": 3})
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepared)


def test_the_head_runs_no_tasks_and_gpu_workers_are_spot(cluster_file: dict[str, Any]) -> None:
    types = cluster_file["available_node_types"]
    assert types[cluster_file["head_node_type"]]["resources"] == {"CPU": 0}
    assert any("--num-cpus=0" in command for command in cluster_file["head_start_ray_commands"])
    assert types["gpu_worker"]["resources"]["GPU"] >= 1
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_workers_come_from_none_within_a_limit_and_go_when_idle(cluster_file: dict[str, Any]) -> None:
    types = cluster_file["available_node_types"]
    workers = [kind for name, kind in types.items() if name != cluster_file["head_node_type"]]
    assert len(workers) == 2
    assert all(kind["min_workers"] == 0 < kind["max_workers"] <= cluster_file["max_workers"] for kind in workers)
    assert 0 < cluster_file["idle_timeout_minutes"] <= 30
    assert all("memory" not in kind["resources"] for kind in workers), "Ray finds it out"


def test_the_images_carry_the_pinned_ray_and_the_tested_python(
    cluster_file: dict[str, Any], pinned: dict[str, str]
) -> None:
    images = [cluster_file["docker"]["image"]]
    images.append(cluster_file["available_node_types"]["gpu_worker"]["docker"]["worker_image"])
    assert all(f":{pinned['ray']}-py311-" in image for image in images)
    for command in cluster_file["setup_commands"]:
        assert "--require-hashes" in command or "--no-deps" in command


def test_every_node_has_a_profile_and_the_file_holds_no_key(text: str, cluster_file: dict[str, Any]) -> None:
    for kind in cluster_file["available_node_types"].values():
        assert ":instance-profile/" in kind["node_config"]["IamInstanceProfile"]["Arn"]
    assert not re.search(r"AKIA|aws_secret|password|auth_token:\s*['\"]?[0-9a-f]{16}", text, re.IGNORECASE)


def test_without_the_token_nobody_submits(cluster_file: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster_file["docker"]["run_options"]
    assert cluster_file["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_what_a_person_must_change_is_marked(text: str) -> None:
    for line in text.splitlines():
        if re.search(r"123456789012|region:|^max_workers", line):
            assert "CHANGE" in line, line
