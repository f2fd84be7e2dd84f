"""Every real slide goes through the path, and the atlas cohort trains on the features of each neural encoder."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from mhim_core.types import ExitCode, FailureReason

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

ENCODERS = {  # hed-texture embeds every slide above, and the tests of the pipeline train on it
    "efficientnet-lite0": "",
    "timm/mobilenetv2_100": "encoders/mobilenetv2_100_imagenet.safetensors",
}


def newest_report(store: Path) -> Path:
    return max((store / "reports").iterdir())


def summary_of(store: Path) -> dict[str, Any]:
    return json.loads((newest_report(store) / "summary.json").read_text())


def test_every_shared_slide_is_embedded_empty_or_refused_with_a_listed_reason(
    shared_data: Path, tmp_path: Path, run_here: Callable[..., Any]
) -> None:
    slides = shared_data / "slides"
    files = sorted(path for path in slides.rglob("*") if path.suffix in (".svs", ".tiff", ".tif", ".ndpi"))
    rows = [{"slide_id": f"{path.parent.name}.{path.stem}", "path": str(path), "mpp": ""} for path in files]
    table = tmp_path / "all.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["slide_id", "path", "mpp"])
        writer.writeheader()
        writer.writerows(rows)
    store = tmp_path / "store"
    ended = run_here("embed", f"cohort={table}", "encoder=hed-texture", f"store={store}", "target_mpp=2.0")
    assert ended.code == ExitCode.TOO_MANY_FAILED
    summary = summary_of(store)
    assert summary["num_input"] == len(files) == sum(summary["counts"].values())
    assert summary["counts"]["ok"] >= 16 + 3 + 1
    assert set(summary["failures_by_reason"]) <= {reason.value for reason in FailureReason}
    with (newest_report(store) / "failed.csv").open() as file:
        reason_of = {row["slide_id"]: row["reason"] for row in csv.DictReader(file)}
    assert reason_of["odd.unreadable"] == "read"
    assert reason_of["odd.unopenable"] == reason_of["odd.gcp_lfs_or_stub"] == "open"
    assert reason_of["slides.tcga-cr-7395-01a-01-ts1"] == "no_mpp"


def one_slide_a_patient(atlas: Path, table: Path) -> tuple[Path, int]:
    """The table of each patient's first slide, and their number."""
    with atlas.open() as file:
        first = {row["patient_id"]: row for row in reversed(list(csv.DictReader(file)))}
    for row in first.values():
        row["path"] = str(atlas.parent / row["path"])
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(next(iter(first.values()))))
        writer.writeheader()
        writer.writerows(first.values())
    return table, len(first)


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=pytest.mark.thorough if ENCODERS[name] else ()) for name in ENCODERS]
)
def test_the_atlas_cohort_trains_on_the_features_of_each_encoder(
    shared_data: Path, tmp_path: Path, encoder: str, run_here: Callable[..., Any]
) -> None:
    table, num_patients = one_slide_a_patient(shared_data / "slides/atlas10x_mpp.csv", tmp_path / "atlas.csv")
    store, run = tmp_path / "store", tmp_path / "run"
    weights = [f"encoder_weights={shared_data / ENCODERS[encoder]}"] if ENCODERS[encoder] else []
    # at 4 µm/px some 200 tiles: the path is the same, and all slides are fine enough
    embedding = ["embed", f"cohort={table}", f"encoder={encoder}", f"store={store}", "target_mpp=4.0", *weights]
    assert run_here(*embedding).code == ExitCode.OK
    assert summary_of(store)["counts"]["ok"] == num_patients
    training = ["train", f"cohort={table}", f"store={store}", f"out={run}", "method=mhim", "folds=3", "epochs=2"]
    assert run_here(*training, "embed_dim=32").code == ExitCode.OK
    assert main(["evaluate", f"run={run}", "bootstrap_replicates=100"]) == ExitCode.OK
    metrics = json.loads((run / "evaluation/metrics.json").read_text())
    assert metrics["num_bags"] == metrics["num_patients"] == num_patients == 13
    assert all(model["pooled"]["auroc"]["value"] is not None for model in metrics["models"].values())
