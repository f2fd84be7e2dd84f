"""Seconds of one `mhim sweep` of several ABMIL configurations, beside one `mhim train` of one of them: whole commands.

    python benchmarks/sweep.py [--bags 40] [--instances 2000] [--dim 512] [--epochs 10] [--folds 2] [--repeats 1]
                               [--workers 1] [--keep DIR]

Both read one store of made-up features and end with the same bytes for the configuration that they share, which is
checked. Each repeat runs the training, then the sweep, both from nothing; the figures are medians.
`eight_models_over_one` is the ratio of the commands' wall times; `fits_over_one` that of the time within the sweep's
fits (all, over those of one configuration with its stage 1), which leaves out what starting a command and Ray takes.
Prints one JSON object as its last line.
"""

import argparse
import csv
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from read_bag import make_features

from mhim_core.features import SourceIdentity
from mhim_core.storage import LocalStorage
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.manifest import write_manifest
from mhim_core.types import SlideId

VARY = "high_mask_ratio=0.01,0.03 random_mask_ratio=0.1,0.8 consistency_weight=0.05,0.5"
ONE = {"high_mask_ratio": "0.03", "random_mask_ratio": "0.1", "consistency_weight": "0.05"}
"""The configuration that is trained alone as well."""
NUM_CONFIGURATIONS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=40)
    parser.add_argument("--instances", type=int, default=2_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="work there and leave it; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        cohort, store = make_cohort(folder, args.bags, args.instances, args.dim)
        words = [f"cohort={cohort}", f"store={store}", f"epochs={args.epochs}", "patience=0", f"folds={args.folds}"]
        words += [f"workers={args.workers}", f"global_batch={args.workers}"]
        measured = [measure(folder, words) for _ in range(args.repeats)]
    medians = {name: statistics.median(run[name] for run in measured) for name in measured[0]}
    result = {
        **{name: getattr(args, name) for name in ("bags", "instances", "dim", "epochs", "folds", "repeats", "workers")},
        "configurations": NUM_CONFIGURATIONS,
        **{name: round(value, 2) for name, value in medians.items()},
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


def make_cohort(folder: Path, num_bags: int, num_instances: int, dim: int) -> tuple[Path, Path]:
    """A table of as many patients as slides, two classes, and a store of their features; bags of one size."""
    cohort, store = folder / "cohort.csv", folder / "store"
    if cohort.exists():
        return cohort, store
    card = {"id": "benchmark", "dim": dim, "licence": "none"}
    feature_set = FeatureSet(tiling={}, encoder=card, encoder_identity=card)
    storage = LocalStorage(store)
    register(storage, feature_set)
    pattern = make_features(num_instances, feature_set)
    rng = np.random.default_rng(0)
    entries, rows = {}, []
    for number in range(num_bags):
        slide_id = SlideId(f"s{number:04d}")
        values = pattern.features[rng.permutation(num_instances)]
        values[: num_instances // 20, number % 2 : 8 : 2] += np.float16(1.5)
        reading = dataclasses.replace(pattern.reading, source=SourceIdentity(1, slide_id))
        features = dataclasses.replace(pattern, slide_id=slide_id, features=values, reading=reading)
        entries[slide_id] = commit(storage, feature_set, features).record
        rows.append(
            {"slide_id": slide_id, "path": f"{slide_id}.svs", "patient_id": slide_id, "label": "ab"[number % 2]}
        )
    write_manifest(storage, feature_set, entries)
    with cohort.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return cohort, store


def measure(folder: Path, words: list[str]) -> dict[str, float]:
    """Seconds of both commands, run one after the other from nothing."""
    train, sweep = folder / "train", folder / "sweep"
    for place in (train, sweep):
        shutil.rmtree(place, ignore_errors=True)
    train_s = run("train", f"out={train}", *words, *(f"{key}={value}" for key, value in ONE.items()))
    sweep_s = run("sweep", f"out={sweep}", *words, f"vary={VARY}")
    shared = "+".join(f"{key}={value}" for key, value in ONE.items())
    own = sweep / "runs" / shared
    assert fits(own) == fits(train), "the sweep's configuration is not the training's"
    costs = json.loads((sweep / "costs.json").read_text())
    stage_one_s = sum(s for seconds in costs.values() for fit, s in seconds.items() if fit.endswith("/plain"))
    one_s = stage_one_s + sum(s for fit, s in costs[shared].items() if fit.endswith("/mhim"))
    sweep_fits_s = sum(s for seconds in costs.values() for s in seconds.values())
    return {
        "train_s": train_s,
        "sweep_s": sweep_s,
        "eight_models_over_one": sweep_s / train_s,
        "train_fits_s": one_s,
        "sweep_fits_s": sweep_fits_s,
        "fits_over_one": sweep_fits_s / one_s,
    }


def run(*words: str) -> float:
    """Seconds of a command."""
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "flows.cli", *words], check=True, stdout=sys.stderr)
    return time.perf_counter() - started_s


def fits(run_folder: Path) -> dict[str, bytes]:
    """Every file of a run's fits."""
    paths = [path for path in (run_folder / "fits").rglob("*") if path.is_file()]
    return {path.relative_to(run_folder).as_posix(): path.read_bytes() for path in paths}


if __name__ == "__main__":
    main()
