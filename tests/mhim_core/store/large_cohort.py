"""A hundred thousand slides in a process of its own: seconds to know what is left to do, and its peak of memory.

Prints one JSON object: seconds, peak_gib, todo, done.
"""

import dataclasses
import json
import resource
import sys
import time
from pathlib import Path

from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideReading, SourceHint, SourceIdentity
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.ledger import Ledger
from mhim_core.store.manifest import write_manifest
from mhim_core.store.record import CommitRecord, skipped_row
from mhim_core.types import SlideId, SlideTask, Status


def main(root: Path, num_slides: int) -> None:
    card = {"id": "toy", "dim": 4}
    feature_set = FeatureSet(tiling={"target_mpp": 0.5}, encoder=card, encoder_identity=card)
    storage = LocalStorage(root)
    register(storage, feature_set)
    tasks = [SlideTask(SlideId(f"s{number:06}"), f"/slides/s{number:06}.svs") for number in range(num_slides)]
    hints = {task.slide_id: SourceHint(task.uri, 10**9, "1") for task in tasks}
    reading = SlideReading(
        source=SourceIdentity(10**9, "0" * 64),
        hint=SourceHint("", 10**9, "1"),
        source_sha256="",
        mpp=MppUsed(0.5, 0.5, "slide"),
        effective_mpp=(0.5, 0.5),
        upsample=1.0,
        backend=BACKEND_OF_0_1,
    )
    embedded = {
        task.slide_id: CommitRecord(
            slide_id=task.slide_id,
            feature_set=feature_set.fingerprint,
            status=Status.EMPTY,
            key="",
            sha256="",
            num_bytes=0,
            num_tiles=0,
            dim=4,
            dtype="float16",
            reading=dataclasses.replace(
                reading, source=SourceIdentity(10**9, f"{number:064x}"), hint=hints[task.slide_id]
            ),
            num_bad_tiles=0,
            tiling="t",
            encoder="toy",
            versions={},
            committed_by="",
        )
        for number, task in enumerate(tasks[: num_slides * 3 // 5])
    }
    write_manifest(storage, feature_set, embedded)
    start_s = time.monotonic()
    ledger = Ledger(storage, feature_set)
    pending = ledger.pending(tasks, hints=lambda task: hints[task.slide_id], policy=SlidePolicy())
    seconds = time.monotonic() - start_s
    entries = ledger.cohort_entries(pending, [skipped_row(record) for record in pending.done.values()])
    write_manifest(storage, feature_set, entries)
    figures = {
        "seconds": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "todo": len(pending.todo),
        "done": len(pending.done),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
