"""ray_cluster.yaml is a file that `ray up` accepts, and says what its comments promise."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster_file() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


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
    assert types["gpu_worker"]["resources"]["GPU"] >= 1
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_the_images_carry_the_pinned_ray(cluster_file: dict[str, Any]) -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)[
        "ray"
    ]
    images = [cluster_file["docker"]["image"]]
    images.append(cluster_file["available_node_types"]["gpu_worker"]["docker"]["worker_image"])
    assert all(f":{pinned}-" in image for image in images)
