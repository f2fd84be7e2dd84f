"""The records of a flow's steps: small JSON files on a storage, which are the whole state of the workflow.

flows/<flow>/<name>/<fingerprint, 16 digits>/
    flow.json                     what the flow is of, and its steps in order (put-if-absent)
    done/<step>-<16 digits>.json  what was done, by which version, how long it took, what it cost (put-if-absent);
                                  the digits are the fingerprint of the step's inputs; places in it are relative to
                                  this folder
    attempts/<step>/<NNNN>.json   written when an attempt starts, and again when it ends, with exit code and reason

Times are for information only; ages are measured by the storage's own clock.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from flows.engine.step_places import absolute_places, relative_places
from mhim_core.errors import IntegrityError
from mhim_core.fingerprint import canonical_json, neutral_fields, to_plain
from mhim_core.json_files import SCHEMA, read_json
from mhim_core.records import read_record
from mhim_core.registry.clock import store_time_s
from mhim_core.registry.names import check_name
from mhim_core.storage import Storage
from mhim_core.types import ExitCode

FLOWS = "flows"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The resources that a step used, as far as known."""

    num_slides: int | None = None
    num_tiles: int | None = None
    num_bytes: int | None = None
    device_seconds: float | None = None
    """Seconds of CPU or GPU workers, summed over them."""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What a step returns to the flow."""

    identity: Mapping[str, Any] = field(default_factory=dict)
    """What was made, plain JSON: digests, versions, verdicts. Equal inputs give equal values; later steps follow it."""
    places: Mapping[str, str] = field(default_factory=dict)
    """What → where, an absolute folder or file, or s3://."""
    exit_code: ExitCode = ExitCode.OK
    """0 or 3; any other ends the flow, and the step is not done."""
    cost: Cost = Cost()
    note: str = ""
    """One sentence for people. No label, path or patient in it."""
    is_last: bool = False
    """The flow is complete after this step, though steps are left."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A done record."""

    step: str
    fingerprint: str
    output: StepOutput
    seconds: float
    attempt: int
    ended_at: str
    """UTC, by the clock of the machine that did it."""
    versions: dict[str, str]
    folder: str = field(default="", metadata={"neutral": ""})
    """Where the flow's records lay when the step was done; empty: an earlier version wrote it, with absolute places."""


@neutral_fields(started_at="", versions={}, exit_code=None, reason="", seconds=None, ended_at="")
class Attempt(NamedTuple):
    """One attempt at a step, as far as it came; neutral is what a record without a start or an end leaves out."""

    fingerprint: str
    started_at: str
    versions: dict[str, str]
    exit_code: int | None
    """None: it is running, or its process was killed."""
    reason: str
    seconds: float | None
    ended_at: str


class State(StrEnum):
    """Of one step."""

    done = "done"
    failed = "failed"
    started = "started"
    """No end is recorded: it is running, or its process was killed."""
    missing = "missing"
    not_needed = "not needed"
    """An earlier step found that there was nothing to do."""


class StepState(NamedTuple):
    """The state of one step, from its records."""

    step: str
    state: State
    seconds: float | None
    """Of the last attempt."""
    age_s: float | None
    """Since its newest record, by the storage's clock."""
    num_attempts: int
    exit_code: int | None
    note: str
    """What was done, or the reason why not."""
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class FlowPlace:
    """One run of a flow: the folder of its records, named by the fingerprint of the flow's inputs."""

    storage: Storage
    flow: str
    """pipeline or retrain."""
    name: str
    """The model's."""
    fingerprint: str = "0" * 64
    """Of the flow's inputs."""

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def folder(self) -> str:
        """The key prefix of its records in the storage."""
        return f"{flow_prefix(self.flow, self.name)}/{self.fingerprint[:16]}"

    @property
    def uri(self) -> str:
        """The address of its records."""
        return self.storage.locate(self.folder)

    def begin(self, steps: Sequence[str], inputs: Mapping[str, Any]) -> None:
        """Record the flow's steps and inputs, unless a runner has done so before."""
        record = {
            "schema": SCHEMA,
            "flow": self.flow,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "steps": list(steps),
            "inputs": inputs,
        }
        self.storage.put_if_absent(f"{self.folder}/flow.json", canonical_json(record))

    def read_flow(self) -> dict[str, Any] | None:
        """What `begin` recorded, or None."""
        return read_json(self.storage, f"{self.folder}/flow.json")

    def done_key(self, step: str, digest: str) -> str:
        """The key of a step's done record; `digest`: the fingerprint of the step's inputs."""
        return f"{self.folder}/done/{step}-{digest[:16]}.json"

    def read_done(self, step: str, digest: str) -> Done | None:
        """The step's done record, or None. Raises IntegrityError if it is damaged."""
        key = self.done_key(step, digest)
        raw = read_json(self.storage, key)
        if raw is None:
            return None
        done = self._parse_done(raw, key)
        if (done.step, done.fingerprint) != (step, digest):
            raise IntegrityError(f"{self.storage.locate(key)} is the record of another step or of other inputs")
        return done

    def write_done(self, done: Done) -> Done:
        """Put the record if there is none; returns the one that is there, which may be another runner's."""
        output = replace(done.output, places=relative_places(done.output.places, self.uri))
        record = {"schema": SCHEMA, **to_plain(replace(done, output=output, folder=self.uri))}
        if self.storage.put_if_absent(self.done_key(done.step, done.fingerprint), canonical_json(record)):
            return done
        standing = self.read_done(done.step, done.fingerprint)
        assert standing is not None
        return standing

    def done_steps(self) -> dict[str, Done]:
        """The newest done record of each step that has one, whatever its inputs."""
        keys = sorted(self.storage.list(f"{self.folder}/done"), key=lambda entry: (entry.modified_s, entry.key))
        records = [self._parse_done(read_json(self.storage, entry.key) or {}, entry.key) for entry in keys]
        return {done.step: done for done in records}

    def start_attempt(self, step: str, digest: str) -> int:
        """Record that an attempt at the step has started; returns its number."""
        prefix = f"{self.folder}/attempts/{step}"
        number = sum(1 for _ in self.storage.list(prefix)) + 1
        record = {"schema": SCHEMA, "fingerprint": digest, "started_at": utc_now(), "versions": mhim_version()}
        while not self.storage.put_if_absent(f"{prefix}/{number:04d}.json", canonical_json(record)):
            number += 1
        return number

    def end_attempt(self, step: str, digest: str, number: int, code: ExitCode, reason: str, seconds: float) -> None:
        """Record how the attempt ended."""
        key = f"{self.folder}/attempts/{step}/{number:04d}.json"
        record = read_json(self.storage, key) or {"schema": SCHEMA, "fingerprint": digest}
        ended = {"exit_code": int(code), "reason": reason, "seconds": round(seconds, 3), "ended_at": utc_now()}
        self.storage.put(key, canonical_json(record | ended))

    def states(self, now_s: float | None = None) -> list[StepState]:
        """The state of every step of the flow, in order. Empty if there is no such flow."""
        record = self.read_flow()
        if record is None:
            return []
        now_s = store_time_s(self.storage) if now_s is None else now_s
        modified = {entry.key: entry.modified_s for entry in self.storage.list(self.folder)}
        states: list[StepState] = []
        is_over = False
        for step in record["steps"]:
            attempts = [key for key in sorted(modified) if key.startswith(f"{self.folder}/attempts/{step}/")]
            if not attempts:
                state = State.not_needed if is_over else State.missing
                states.append(StepState(step, state, None, None, 0, None, "", Cost()))
                continue
            last = _parse_attempt(read_json(self.storage, attempts[-1]) or {}, attempts[-1])
            done_key = self.done_key(step, last.fingerprint)
            done = self.read_done(step, last.fingerprint) if done_key in modified else None
            age_s = max(0.0, now_s - modified[attempts[-1] if done is None else done_key])
            states.append(_state(step, last, done, len(attempts), age_s))
            is_over = is_over or (done is not None and done.output.is_last)
        return states

    def _parse_done(self, raw: Mapping[str, Any], key: str) -> Done:
        origin = self.storage.locate(key)
        try:
            done = read_record(Done, {name: raw[name] for name in raw if name != "schema"}, origin)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{origin} is no done record: {error!r}") from error
        places = absolute_places(done.output.places, self.uri, done.folder) if done.folder else done.output.places
        return replace(done, output=replace(done.output, places=places))


def _state(step: str, last: Attempt, done: Done | None, num_attempts: int, age_s: float) -> StepState:
    if done is not None:
        output, code = done.output, int(done.output.exit_code)
        return StepState(step, State.done, done.seconds, age_s, num_attempts, code, output.note, output.cost)
    state = State.started if last.exit_code is None else State.failed
    return StepState(step, state, last.seconds, age_s, num_attempts, last.exit_code, last.reason, Cost())


def list_flows(storage: Storage, flow: str, name: str) -> Iterator[FlowPlace]:
    """Every run of the flow of that name, the newest (by the storage's clock) first."""
    entries = [entry for entry in storage.list(flow_prefix(flow, name)) if entry.key.endswith("/flow.json")]
    for entry in sorted(entries, key=lambda entry: (-entry.modified_s, entry.key)):
        record = read_json(storage, entry.key)
        if record is not None:
            yield FlowPlace(storage=storage, flow=flow, name=name, fingerprint=record["fingerprint"])


def flow_prefix(flow: str, name: str) -> str:
    """The key prefix of every run of the flow of that name. Raises ConfigError for what cannot be a name."""
    return f"{FLOWS}/{flow}/{check_name(name)}"


def utc_now() -> str:
    """This machine's time, such as 2026-01-31T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def mhim_version() -> dict[str, str]:
    """{mhim: its version}, of the program that runs."""
    try:
        return {"mhim": version("mhim")}
    except PackageNotFoundError:
        return {"mhim": "unknown"}


def _parse_attempt(raw: Mapping[str, Any], origin: str) -> Attempt:
    return read_record(Attempt, {name: raw[name] for name in raw if name != "schema"}, origin)
