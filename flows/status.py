"""mhim flow status lung registry=…: the progress of the steps of a pipeline or retraining, from their records.

Inputs: the records below `flows/` in the registry (or in the out= of a pipeline without one), from any machine that can
reach it. Outputs: one line per step. Cost: one or two requests per step. Exit code: 0, 2, 6.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from cluster.storage import open_storage
from flows.config.lifecycle import FlowStatusConfig
from flows.engine.records import FlowPlace, State, StepState, list_flows
from flows.engine.result import FlowResult
from mhim_core.errors import InputError, StorageError
from mhim_core.printable import one_line
from mhim_core.registry.clock import store_time_s
from mhim_core.storage import Storage

FLOW_NAMES = ("pipeline", "retrain")


def run(config: FlowStatusConfig) -> FlowResult:
    """Raises InputError (2) if no such flow was ever started."""
    storage = open_storage(config.registry)
    places = [place for flow in FLOW_NAMES for place in islice(list_flows(storage, flow, config.name), config.last)]
    if not places:
        raise InputError(f"{storage.uri} has no records of a pipeline or retraining named {config.name}")
    now_s = _now(storage)
    for place in places:
        print("\n".join(status_lines(place, place.states(now_s))))
    return FlowResult(outputs={"records": storage.locate("flows")}, recomputed=False)


def status_lines(place: FlowPlace, states: Sequence[StepState]) -> Iterator[str]:
    """A heading for the flow, then one line per step."""
    yield f"{place.flow} {place.name}  {place.uri}"
    width = max(len(state.step) for state in states)
    for state in states:
        seconds = "" if state.seconds is None else f"{state.seconds:,.1f} s"
        age = "" if state.age_s is None else f"{_duration(state.age_s)} ago"
        tries = f"attempt {state.num_attempts}" if state.num_attempts > 1 else ""
        line = f"  {state.step:<{width}}  {_word(state):<20} {seconds:>10}  {age:<16} {tries:<10} {_details(state)}"
        yield one_line(line.rstrip())


def _word(state: StepState) -> str:
    if state.state is State.failed:
        return f"failed, exit code {state.exit_code}"
    if state.state is State.started:
        return "started, no end"
    return str(state.state) + (f", exit code {state.exit_code}" if state.exit_code else "")


def _details(state: StepState) -> str:
    cost = state.cost
    numbers = [
        f"{value:,} {noun}"
        for value, noun in ((cost.num_slides, "slides"), (cost.num_tiles, "tiles"), (cost.num_bytes, "bytes"))
        if value is not None
    ]
    if cost.device_seconds is not None:
        numbers.append(f"{cost.device_seconds:,.1f} device-seconds")
    return "; ".join(part for part in (state.note, ", ".join(numbers)) if part)


def _duration(seconds: float) -> str:
    """In whole numbers of the largest unit."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _now(storage: Storage) -> float:
    """The storage's clock; without write access its newest record, so that ages come out too small."""
    try:
        return store_time_s(storage)
    except StorageError:
        return max((entry.modified_s for entry in storage.list("flows")), default=0.0)
