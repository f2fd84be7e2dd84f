"""Seconds to the first status row of a cohort, rows per second, and the driver's memory, with an encoder of no work.

    python benchmarks/first_row.py [--slides 2000 8000 100000] [--rows 1000]

Runs the graph of `mhim embed` on a local Ray of two CPUs, up to so many rows (0: all), with an actor that answers
at once. `driver_peak_mb` is the peak since the process began.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import cluster.embedding
from cluster.embedding import Batch, EmbedJob, JobEncoder
from cluster.session import ray_session
from flows.config.keys import EmbedExecution
from flows.embed import status_rows
from mhim_core.embed.registry import encoder_card
from mhim_core.fingerprint import canonical_json
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.types import SlideId, SlideTask, Status, StatusRow


class NoWork:
    """In place of the SlideActor."""

    def __init__(self, job: EmbedJob, watch: Any) -> None:
        pass

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        for text in batch["task"]:
            row = StatusRow(SlideTask(*json.loads(text)).slide_id, Status.OK)
            yield {"status": np.array([canonical_json(row).decode()])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, nargs="+", default=[2000, 8000, 100_000])
    parser.add_argument("--rows", type=int, default=1000)
    options = parser.parse_args()
    cluster.embedding.SlideActor = NoWork  # type: ignore[misc,assignment]
    card, spec = encoder_card("hed-texture"), TileSpec()
    feature_set = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
    job = EmbedJob("unused", (JobEncoder(feature_set, card, None),), spec, SlidePolicy(), 300.0, None)
    for num_slides in options.slides:
        tasks = [SlideTask(SlideId(f"s{number:06d}"), f"/slides/s{number:06d}.svs") for number in range(num_slides)]
        with ray_session("local", 2) as resources:
            print(json.dumps(measured(tasks, job, resources, options.rows)), flush=True)


def measured(tasks: list[SlideTask], job: EmbedJob, resources: Any, max_rows: int) -> dict[str, float]:
    start_s = last_s = time.monotonic()
    first_s = longest_gap_s = 0.0
    num_rows = 0
    for num_rows, _ in enumerate(status_rows(tasks, job, EmbedExecution(), resources), start=1):
        now_s = time.monotonic()
        if num_rows == 1:
            first_s = now_s - start_s
        else:
            longest_gap_s = max(longest_gap_s, now_s - last_s)
        last_s = now_s
        if num_rows == max_rows:
            break
    return {
        "slides": len(tasks),
        "rows": num_rows,
        "first_row_s": round(first_s, 1),
        "rows_per_s": round((num_rows - 1) / max(last_s - start_s - first_s, 1e-9), 1),
        "longest_gap_s": round(longest_gap_s, 2),
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
