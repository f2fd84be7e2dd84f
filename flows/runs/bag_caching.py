"""Where the workers of a run keep their bags between epochs (`cache=`), and what a run tells of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from flows.config.keys import BagCaching, TrainExecution, here
from mhim_core.bags import BagReads
from mhim_core.storage import Storage
from mhim_core.store.record import CommitRecord
from mhim_core.types import BagId, SlideId, Status

if TYPE_CHECKING:  # torch, which a command that has nothing to do need not load
    from mhim_core.train.context import TrainContext
    from mhim_core.train.device_bags import CountedBags

_GIB = 2**30


class CachePlan(NamedTuple):
    """What each worker keeps where, as decided for the run; `cache=auto` is one of the others here."""

    mode: BagCaching
    memory_gib: float
    """Of each worker."""
    disk_gib: float
    """Of each node."""
    disk_lasts: bool
    folder: str
    workers_per_gpu: float
    """0: workers have none."""
    num_bytes: int
    """All bags as float16."""
    with_layouts: bool = False
    """Whether what an aggregator asks for of the tiles' places is kept on disk as well."""

    def sentence(self) -> str:
        """What is said before the work begins: where bags are kept, and what has no room there."""
        total = f"bags take {self.num_bytes / _GIB:.2f} GiB"
        room = self.memory_gib + self.disk_gib
        memory, disk = f"in memory (cache_gib={self.memory_gib:g})", f"on disk (cache_disk_gib={self.disk_gib:g})"
        if self.mode is BagCaching.none:
            return f"{total} and are read from the store in every epoch"
        if self.mode is BagCaching.device and self.workers_per_gpu:
            return f"{total} and are kept on the GPU, what has no room there {memory}"
        kept = f"{total} and are kept {memory}"
        if self.mode is BagCaching.device:
            kept += ", since cache=device needs gpus_per_worker"
        if self.mode is BagCaching.disk:
            kept = (
                f"{total} and are kept {disk} {'for later commands too' if self.disk_lasts else 'until the run ends'}"
            )
            if self.memory_gib and self.num_bytes > self.disk_gib * _GIB:
                kept += f", what has no room there {memory}"
        if self.num_bytes > room * _GIB:
            kept += f"; {1 - room * _GIB / self.num_bytes:.0%} have no room and are read from the store in every epoch"
        return kept


def plan_caching(
    execution: TrainExecution, entries: Iterable[CommitRecord], *, with_layouts: bool = False
) -> CachePlan:
    """`cache=auto`: memory where one worker has room for all bags, so that they are read once all the same; else disk.

    Several workers would each read every bag from the store, so that a node's disk serves them better.
    """
    num_bytes = sum(2 * record.num_tiles * record.dim for record in entries if record.status is Status.OK)
    mode, memory_gib = execution.cache, execution.cache_gib
    if mode is BagCaching.auto:
        in_memory = execution.num_workers().most == 1 and num_bytes <= memory_gib * _GIB
        mode = BagCaching.memory if in_memory or not execution.cache_disk_gib else BagCaching.disk
        if not execution.cache_gib and not execution.cache_disk_gib:
            mode = BagCaching.none
    elif mode in (BagCaching.disk, BagCaching.none):
        memory_gib = 0.0
    return CachePlan(
        mode=mode,
        memory_gib=memory_gib,
        disk_gib=execution.cache_disk_gib if mode is BagCaching.disk else 0.0,
        disk_lasts=execution.cache is BagCaching.disk,
        folder=here(execution.cache_dir),  # workers have current folders of their own
        workers_per_gpu=1 / min(1.0, execution.gpus_per_worker) if execution.gpus_per_worker else 0.0,
        num_bytes=num_bytes,
        with_layouts=with_layouts,
    )


@contextmanager
def cached_bags(
    storage: Storage,
    entries: Mapping[SlideId, CommitRecord],
    members: Mapping[BagId, tuple[SlideId, ...]],
    plan: CachePlan,
    context: "TrainContext",
    warn: Callable[[str], None],
) -> "Iterator[CountedBags]":
    """A worker's bags, cached as planned while the block runs."""
    from mhim_core.mil.layout import TREE_BESIDE
    from mhim_core.store.bag_cache import BagCache
    from mhim_core.store.bags import ParquetBags, PatientBags, bag_files
    from mhim_core.train.device_bags import DeviceBags, room_on

    max_bytes = int(plan.disk_gib * _GIB)
    files = bag_files(entries.values(), (TREE_BESIDE,) if plan.with_layouts else ())
    with BagCache(plan.folder, files, max_bytes, warn, lasting=plan.disk_lasts) as disk:
        bags = PatientBags(ParquetBags(storage, entries, plan.memory_gib, disk if max_bytes else None), members)
        if plan.mode is not BagCaching.device or context.device.type != "cuda":
            yield bags
        else:
            yield DeviceBags(bags, context.device, room_on(context.device, plan.workers_per_gpu), warn)


def print_reads(reads: BagReads) -> None:
    """A line about all workers, unless nothing was read."""
    counts = {
        "the GPU": reads.device,
        "memory": reads.memory,
        "the node's disk": reads.disk,
        "the store": reads.store,
    }
    total = sum(counts.values())
    if not total:
        return
    shares = ", ".join(f"{num:,} from {place}" for place, num in counts.items() if num)
    sizes = {
        "on GPUs": reads.device_bytes,
        "in memory": reads.memory_bytes,
        "written to disk": reads.disk_bytes,
    }
    kept = ", ".join(f"{num / _GIB:.2f} GiB {place}" for place, num in sizes.items() if num)
    print(f"bags were read {total:,} times: {shares}{'; kept: ' + kept if kept else ''}")
