"""mhim status store=./features: how far an embedding has come, from another terminal or machine.

Inputs: the records that an embedding of more than half a minute puts beside the store's reports. Outputs: some lines
for each. Cost: a listing of the reports, and a request for each record. Exit code: 0, 2, 6.
"""

import time
from collections.abc import Iterator

from cluster.storage import open_storage
from flows.config.store import StoreStatusConfig
from flows.engine.result import FlowResult
from mhim_core.errors import InputError, StorageError
from mhim_core.printable import one_line
from mhim_core.report.numbers import format_duration as duration
from mhim_core.storage import Storage, clock_s
from mhim_core.store.progress import EVERY_S, REPORTS, ToldProgress, Work, read_progress
from mhim_core.types import Status

_SILENT_S = 5 * EVERY_S
"""Without word for longer, an embedding counts as cut off."""


def run(config: StoreStatusConfig) -> FlowResult:
    """Raises InputError (2) if the store has no such record."""
    storage = open_storage(config.store)
    told = read_progress(storage, config.last)
    if not told:
        raise InputError(
            f"{storage.uri} has no record of an embedding: none has run there for more than {EVERY_S:.0f} s yet; "
            "mhim store ls lists what the store has"
        )
    now_s = _now(storage)
    for record in told:
        print("\n".join(status_lines(record, now_s)))
    return FlowResult(outputs={"reports": storage.locate(REPORTS)}, recomputed=False)


def status_lines(told: ToldProgress, now_s: float) -> Iterator[str]:
    """What it is, how far it is, what its encoders do, and its last failures. `now_s`: by the store's clock."""
    progress, silent_s = told.progress, max(0.0, now_s - told.modified_s)
    if isinstance(progress, str):
        yield one_line(f"a record of progress cannot be read: {progress}")
        return
    words = {Work.ended: "ended", Work.stopped: "stopped", Work.running: "running"}
    state = words[progress.work]
    if progress.work is Work.running and silent_s > _SILENT_S:
        state = f"cut off, or out of reach: no word for {duration(silent_s)}; the same command goes on with it"
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(progress.started_s))
    yield one_line(f"embedding of {begun} UTC on {progress.host} (process {progress.pid}): {state}")
    counts = ", ".join(f"{progress.counts.get(status.value, 0)} {status.value}" for status in Status)
    elapsed_s = max(progress.updated_s - progress.started_s, 1e-9)
    rate = f"{progress.num_tiles / elapsed_s:.0f} tiles/s"
    left = f", about {duration(progress.left_s)} left" if progress.left_s and progress.work is Work.running else ""
    yield f"  {progress.num_done:,}/{progress.num_todo:,} slides: {counts}, {rate}, {duration(elapsed_s)}{left}"
    if shares := progress.shares():
        yield f"  {shares}"
    for failure in progress.failures:
        yield one_line(f"  failed: {failure}")


def _now(storage: Storage) -> float:
    """The store's clock; without write access its newest record, so that silences come out too short."""
    try:
        return clock_s(storage)
    except StorageError:
        return max((entry.modified_s for entry in storage.list(REPORTS)), default=0.0)
