"""How the viewer's list behaves for a large cohort: a made-up run, its start, its queries, the weight of its pages.

    python benchmarks/viewer_list.py [--slides 10000] [--repeats 20]

Prints one JSON object; seconds are of this process's CPU, medians over the repeats. The run is evaluated (student,
teacher and stage-1 model of five folds, three seeds), its manifest names feature files that are not there: the list
reads none.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from flows.config.view import ViewConfig
from flows.runs.evaluation import METRICS_KEY, PREDICTIONS_KEY
from flows.runs.folder import start_run
from flows.viewing.app import Viewer, ViewerOptions, make_app
from flows.viewing.opening import open_source
from flows.viewing.static_files import static_files
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.splits import Split
from mhim_core.cohort.task_options import BagUnit
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.prediction_table import encode_held_out
from mhim_core.evaluation.summary import SCHEMA
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideReading, SourceHint, SourceIdentity
from mhim_core.fingerprint import canonical_json, to_plain
from mhim_core.slides.spec import TileSpec, tiling_identity
from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.layout import features_key
from mhim_core.store.manifest import ManifestRef, write_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.types import PatientId, SlideId, Status

TASK = Task(kind=TaskKind.classification, classes=("normal", "tumour"))
FOLDS, SEEDS = 5, (1, 2, 3)
QUERIES: dict[str, dict[str, Any]] = {
    "first page": {},
    "last page": {"offset": 10**9},
    "sorted by error": {"sort": "error", "descending": True},
    "search": {"text": "p0012"},
    "wrong at a site, by probability": {"outcome": "wrong", "site": "site 3", "sort": "value"},
    "patients": {"by_patient": True, "sort": "error", "descending": True},
}


def made_store(folder: Path, slide_ids: list[SlideId]) -> tuple[FeatureSet, ManifestRef]:
    """The manifest of slides whose feature files are not there."""
    card = {"id": "made-up", "dim": 1024, "licence": "none"}
    feature_set = FeatureSet(tiling=tiling_identity(TileSpec()), encoder=card, encoder_identity=card)
    storage = LocalStorage(folder)
    register(storage, feature_set)
    entries: dict[SlideId, CommitRecord | None] = {}
    for number, slide_id in enumerate(slide_ids):
        digest = f"{number:064x}"
        entries[slide_id] = CommitRecord(
            slide_id=slide_id,
            status=Status.OK,
            key=features_key(feature_set.fingerprint, slide_id, digest),
            sha256=digest,
            num_bytes=15_600_000,
            num_tiles=8_000 + number % 8_000,
            dim=1024,
            dtype="float16",
            reading=SlideReading(
                source=SourceIdentity(10**9, digest),
                hint=SourceHint(f"s3://bucket/slides/{slide_id}.svs", 10**9, digest),
                source_sha256="",
                mpp=MppUsed(0.25, 0.25, "slide"),
                effective_mpp=(0.5, 0.5),
                upsample=1.0,
                backend=BACKEND_OF_0_1,
            ),
            num_bad_tiles=0,
            feature_set=feature_set.fingerprint,
            tiling=feature_set.tiling_fingerprint,
            encoder=feature_set.encoder_fingerprint,
            versions={"mhim": "0"},
            committed_by="mhim 0",
        )
    return feature_set, write_manifest(storage, feature_set, entries)


def made_run(folder: Path, num_slides: int) -> Path:
    """The run, evaluated."""
    rng = np.random.default_rng(0)
    rows = [
        CohortRow(
            SlideId(f"slide-{number:06d}"),
            f"s3://bucket/slides/slide-{number:06d}.svs",
            PatientId(f"P{number // 2:06d}"),
            TASK.classes[int(rng.random() < 0.4)],
            site=f"site {number % 12}",
        )
        for number in range(num_slides)
    ]
    feature_set, ref = made_store(folder / "store", [row.slide_id for row in rows])
    parts = [tuple(row.slide_id for row in rows if int(row.patient_id[1:]) % FOLDS == fold) for fold in range(FOLDS)]
    splits = []
    for fold in range(FOLDS):
        others = [part for number, part in enumerate(parts) if number not in (fold, (fold + 1) % FOLDS)]
        train = tuple(slide_id for part in others for slide_id in part)
        splits.append(Split(fold, train, parts[(fold + 1) % FOLDS], parts[fold]))
    identity = {"task": to_plain(TASK), "seeds": list(SEEDS), "target": {"bags": "slide"}, "method": "mhim"}
    record = {
        "identity": identity | {"feature_set": feature_set.fingerprint},
        "store": str(folder / "store"),
        "manifest": {"version": ref.version, "sha256": ref.sha256},
        "encoder": feature_set.encoder,
        "tiling": feature_set.tiling,
        "cohort_name": "made up",
        "excluded": {"not embedded": 0, "unlabelled": 0, "without tissue": 0},
        "config": {},
    }
    storage = LocalStorage(folder / "run")
    start_run(storage, record, tuple(rows), tuple(splits))
    held_out = []
    for row in rows:
        fold, label = int(row.patient_id[1:]) % FOLDS, TASK.classes.index(str(row.label))
        for model in ("mhim", "mhim teacher", "plain"):
            for seed in SEEDS:
                logit = float(rng.normal((2 * label - 1) * 1.2))
                target = ClassTarget(label)
                held_out.append(
                    HeldOut(model, seed, fold, row.slide_id, row.patient_id, row.site, target, (-logit / 2, logit / 2))
                )
    storage.put(PREDICTIONS_KEY, encode_held_out(held_out, TASK, BagUnit.slide))
    storage.put(METRICS_KEY, canonical_json({"schema": SCHEMA, "reported": "mhim"}))
    return folder / "run"


def cpu_s(work: Callable[[], Any], repeats: int = 1) -> float:
    """The median over the repeats."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return round(statistics.median(times), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = made_run(Path(folder), asked.slides)
        config = ViewConfig(run=str(run))
        sources: list[Any] = []
        start_s = cpu_s(lambda: sources.append(open_source(config)))
        client = TestClient(make_app(Viewer(sources[0], None, ViewerOptions())), headers={"x-mhim-view": "1"})

        def ask(query: dict[str, Any]) -> bytes:
            answer = client.post("/api/worklist", json=query)
            assert answer.status_code == 200, answer.text
            return bytes(answer.content)

        queries = {
            name: {"s": cpu_s(lambda q=query: ask(q), asked.repeats), "bytes": len(ask(query))}
            for name, query in QUERIES.items()
        }
    files = {path: len(file.data) for path, file in static_files().items()}
    page = {"own": sum(size for path, size in files.items() if "vendor" not in path)}
    page["openseadragon"] = files["vendor/openseadragon/openseadragon.min.js"]
    print(
        json.dumps(
            {
                "slides": asked.slides,
                "cpus": os.cpu_count(),
                "start_s": start_s,
                "queries": queries,
                "page_bytes": page,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
