"""The runner of a flow, which is a list of steps: it runs the missing ones and stops at the first failure.

A step is a plain function. The place of its output carries the fingerprint of its inputs, and a done record, put if
absent, says what was done (`flows.engine.records`). A flow that was killed at any point resumes when it is run again;
two runners at once waste time but do no harm; and any machine that can reach the storage can show the state.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from flows.engine.records import Done, FlowPlace, StepOutput, mhim_version, utc_now
from flows.engine.result import FlowResult
from flows.engine.signals import interruption_code
from mhim_core.errors import ConfigError, ConflictError, IntegrityError, MhimError, NotFoundError, StorageError
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.printable import one_line
from mhim_core.types import ExitCode

Before = Mapping[str, StepOutput]
"""The outputs of earlier steps, by name."""
GOES_ON = (ExitCode.OK, ExitCode.PARTIAL)
_TOLD = (ConfigError, ConflictError, StorageError)
"""Errors whose message is recorded: it names keys, addresses, classes and at most a slide's id, but no patient and no
slide's label."""
_MAX_REASON = 400


class StepCall(NamedTuple):
    """The argument of a step's function."""

    fingerprint: str
    """Of the step's inputs; the place of its output carries it."""
    before: Before


class Step(NamedTuple):
    """One step of a flow."""

    name: str
    inputs: Mapping[str, Any]
    """What its output depends on, plain JSON, beside the outputs of the steps in `after`."""
    work: Callable[[StepCall], StepOutput]
    after: tuple[str, ...] = ()
    """The steps whose outputs are inputs too."""


class RetryPolicy(NamedTuple):
    """How often and how soon a step is retried within one run of the flow."""

    retries: int = 1
    wait_s: float = 5.0
    """Before the first retry; doubled before each further one."""


def run_steps(
    place: FlowPlace,
    steps: Sequence[Step],
    retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
    known: Before = MappingProxyType({}),
) -> FlowResult:
    """Run the steps in order; those that are done are skipped. After exit code 3 of a step, the flow continues and ends
    with 3.

    A step that raises or ends with another code ends the flow; run again, the flow resumes with that step. `known`:
    outputs of earlier steps, which are not looked up.
    """
    before = dict(known)
    places: dict[str, str] = {"flow": place.uri}
    code, recomputed = ExitCode.OK, False
    for step in steps:
        call = StepCall(step_fingerprint(step, before), before)
        done = place.read_done(step.name, call.fingerprint)
        if done is None:
            print(f"── {step.name}", flush=True)
            recomputed = True
            output = _try(place, step, call, retry_policy)
            if output.note:
                print(f"   {one_line(output.note)}", flush=True)
        else:
            output = done.output
            note = f"done {done.ended_at}" + (f": {output.note}" if output.note else "")
            print(f"── {step.name}: {one_line(note)}", flush=True)
        before[step.name] = output
        places |= output.places
        if output.exit_code is not ExitCode.OK:
            code = output.exit_code
        if output.is_last or output.exit_code not in GOES_ON:
            break
    return FlowResult(exit_code=code, outputs=places, recomputed=recomputed)


def step_fingerprint(step: Step, before: Before) -> str:
    """Of the step's own inputs and the outputs of the steps that it follows."""
    return fingerprint(
        {"step": step.name, "inputs": step.inputs, "after": {name: before[name].identity for name in step.after}}
    )


def may_be_retried(error: BaseException) -> bool:
    """Whether the error may pass: storage that does not answer, or lost workers (the cause is then an error of Ray).

    Bad input, too many failed slides and conflicts would recur however often the step is retried.
    """
    if isinstance(error, StorageError):
        return not isinstance(error, NotFoundError)
    cause = error.__cause__
    return isinstance(error, MhimError) and type(cause).__module__.partition(".")[0] == "ray"


def _try(place: FlowPlace, step: Step, call: StepCall, retry_policy: RetryPolicy) -> StepOutput:
    """Attempts until one succeeds, fails for good, or the retry policy allows no more."""
    for retry in range(retry_policy.retries + 1):
        try:
            return _attempt(place, step, call)
        except MhimError as error:
            if retry == retry_policy.retries or not may_be_retried(error):
                raise
            wait_s = retry_policy.wait_s * 2**retry
            print(f"{step.name}: {one_line(error)}; once more in {wait_s:g} s", flush=True)
            time.sleep(wait_s)
    raise AssertionError("the last retry returns or raises")


def _attempt(place: FlowPlace, step: Step, call: StepCall) -> StepOutput:
    """One attempt between its two records; returns the recorded output, which may be another runner's."""
    number = place.start_attempt(step.name, call.fingerprint)
    start_s = time.monotonic()
    try:
        output = _as_read_back(step.work(call))
    except BaseException as error:
        _end(place, step, call, number, _exit_code(error), _reason(error), time.monotonic() - start_s)
        raise
    seconds = time.monotonic() - start_s
    if output.exit_code in GOES_ON:
        ours = Done(
            step=step.name,
            fingerprint=call.fingerprint,
            output=output,
            seconds=round(seconds, 3),
            attempt=number,
            ended_at=utc_now(),
            versions=mhim_version(),
        )
        standing = place.write_done(ours).output
        if standing.identity != output.identity:
            print(f"{step.name}: another runner was quicker, with another result; its result is taken", flush=True)
        output = standing
    _end(place, step, call, number, output.exit_code, output.note, seconds)
    return output


def _end(
    place: FlowPlace, step: Step, call: StepCall, number: int, code: ExitCode, reason: str, seconds: float
) -> None:
    """Record an attempt's end if possible: a failure to do so must neither hide an error nor undo a done record.

    If the storage itself is unreachable, the attempt is shown as one without an end.
    """
    try:
        place.end_attempt(step.name, call.fingerprint, number, code, reason, seconds)
    except (StorageError, IntegrityError) as error:
        print(f"{step.name}: the end of attempt {number} is not on record: {error}", flush=True)


def _as_read_back(output: StepOutput) -> StepOutput:
    """The output as read back from a done record, so that fingerprints are equal at the first run and later."""
    identity: dict[str, Any] = json.loads(canonical_json(output.identity))
    return StepOutput(**vars(output) | {"identity": identity, "places": dict(output.places)})


def _exit_code(error: BaseException) -> ExitCode:
    if isinstance(error, KeyboardInterrupt):
        return interruption_code(error)
    return error.exit_code if isinstance(error, MhimError) else ExitCode.BUG


def _reason(error: BaseException) -> str:
    """The type of the error for the record, with its message if that cannot quote labels or patients of the table."""
    kind = type(error).__name__
    if isinstance(error, _TOLD):
        return f"{kind}: {' '.join(str(error).split())}"[:_MAX_REASON]
    return f"{kind} (the command's own output has the sentence)"
