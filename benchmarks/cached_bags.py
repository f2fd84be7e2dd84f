"""How fast an epoch's bags reach the step: from Parquet, and from each cache that training has (`cache=`).

    python benchmarks/cached_bags.py [--bags 12] [--tiles 12000] [--dim 1024] [--epochs 5] [--threads 1]
                                     [--clock wall|cpu]

Prints one JSON object. An epoch is every bag once, in the medians over `--epochs`, the forms taking turns; the page
cache is warm. GB are of float16 features, as they are stored. `…_gb_per_s`: read and copied into one tensor of the same
size, as stored; `…_float32_gb_per_s`: as the step gets them, a float32 tensor of its own for each bag (twice the bytes
are written). `cached_…` are those of the memory-mapped files on disk. `first_epoch_s` builds them: Parquet decoded,
verified, written and compared; `verified_gb_per_s` is a process's first reading of a file, which compares its sha256.
`--clock cpu`: by seconds of all of the process's threads, for a busy machine.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from read_bag import make_features

from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.store.bag_cache import BagCache
from mhim_core.store.bags import ParquetBags, bag_files
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.train.allocation import keep_freed_memory
from mhim_core.train.feed import BagFeed
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.preparation import make_setup
from mhim_core.types import BagId, SlideId


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=12)
    parser.add_argument("--tiles", type=int, default=12_000)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as a training worker does
    print(json.dumps(measure(args.bags, args.tiles, args.dim, args.epochs, args.clock)))


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(
    num_bags: int = 12, num_tiles: int = 12_000, dim: int = 1_024, num_epochs: int = 5, clock: str = "wall"
) -> dict[str, float | str]:
    """The figures by name. Torch's threads, and whether freed memory is kept, are the caller's to set."""
    now_s = CLOCKS[clock]
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder, "store"))
        entries = write_bags(storage, num_bags, num_tiles, dim)
        files = bag_files(entries.values())
        gigabytes = sum(bag.num_bytes for bag in files) / 1e9
        cache, room = str(Path(folder, "cache")), 2 * sum(bag.num_bytes for bag in files)
        with BagCache(cache, files, room, print, lasting=True) as disk:
            start_s = now_s()
            read_stored(ParquetBags(storage, entries, disk=disk), num_tiles, dim)
            first_epoch_s = now_s() - start_s
        with BagCache(cache, files, room, print, lasting=True) as disk:
            sources = {
                "parquet": ParquetBags(storage, entries),
                "memory": ParquetBags(storage, entries, cache_gib=room / 2**30),
                "cached": ParquetBags(storage, entries, disk=disk),
            }
            start_s = now_s()
            read_stored(sources["cached"], num_tiles, dim)
            verified_s = now_s() - start_s
            forms: dict[str, Callable[[], object]] = {}
            for name, source in sources.items():
                forms[name] = partial(read_stored, source, num_tiles, dim)
                forms[f"{name}_float32"] = partial(read_fed, feed_of(source), tuple(source.lengths()))
            seconds = medians(forms, num_epochs, now_s)
    rates = {f"{name}_gb_per_s": round(gigabytes / value, 2) for name, value in seconds.items()}
    return {
        **rates,
        "cached_over_parquet": round(seconds["parquet_float32"] / seconds["cached_float32"], 1),
        "parquet_epoch_s": round(seconds["parquet_float32"], 3),
        "cached_epoch_s": round(seconds["cached_float32"], 3),
        "first_epoch_s": round(first_epoch_s, 3),
        "verified_gb_per_s": round(gigabytes / verified_s, 2),
        "clock": clock,
        "gb": round(gigabytes, 3),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
    }


def write_bags(storage: LocalStorage, num_bags: int, num_tiles: int, dim: int) -> dict[SlideId, CommitRecord]:
    """Committed feature files, equal but for their first feature and their names."""
    card = {"id": "benchmark", "dim": dim}
    feature_set = FeatureSet(tiling={}, encoder=card, encoder_identity=card)
    features = make_features(num_tiles, feature_set)
    entries = {}
    for index in range(num_bags):
        slide_id = SlideId(f"slide-{index:04d}")
        values = features.features.copy()
        values[0, 0] = np.float16(index)
        own = replace(features, slide_id=slide_id, features=values)
        entries[slide_id] = commit(storage, feature_set, own).record
    return entries


def read_stored(source: ParquetBags, num_tiles: int, dim: int) -> None:
    """Every bag once, into one tensor."""
    place = torch.empty(num_tiles, dim, dtype=torch.float16)
    for bag_id in source.lengths():
        place.copy_(source.read_half(bag_id))


def feed_of(source: ParquetBags) -> BagFeed:
    """A fit's feed of the source, in float32."""
    bags = tuple(LabelledBag(bag_id, ClassTarget(index % 2)) for index, bag_id in enumerate(source.lengths()))
    task = Task(kind=TaskKind.classification, classes=("a", "b"))
    plan = TrainPlan(
        fits=plan_fits([FoldBags(0, bags[:-2], bags[-2:])], Stage.plain, task, [0]),
        d_in=source.dim,
        task=task,
        model=ModelOptions(),
        mhim=MhimOptions(),
        fit=FitOptions(),
    )
    return BagFeed(source, make_setup(plan, plan.fits[0]), torch.device("cpu"))


def read_fed(feed: BagFeed, bag_ids: tuple[BagId, ...]) -> None:
    """Every bag once, as the step gets it."""
    for bag_id in bag_ids:
        feed.read(LabelledBag(bag_id, ClassTarget(0)))


def medians(forms: dict[str, Callable[[], object]], num_epochs: int, now_s: Callable[[], float]) -> dict[str, float]:
    """Seconds of each, after one round of all that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for epoch in range(num_epochs + 1):
        for name, form in forms.items():
            start_s = now_s()
            form()
            if epoch:
                times[name].append(now_s() - start_s)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
