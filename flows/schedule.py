"""mhim schedule add | ls | allow | rm | run-now: flows on a schedule.

`mhim schedule add retrain cron="0 2 * * 0" registry=./registry …` checks the flow's words when the schedule is added,
not when it first runs. What is in the registry runs only where a person allowed it: `add` allows it on its own machine,
`allow` on another (`scheduling/allowed.py`). Outputs: with target=local a file below `schedules/` in the registry, for
`mhim schedule serve`; otherwise a crontab line or a Kubernetes object (`scheduling/manifests.py`). Cost: seconds; for
run-now that of its flow. A run-now that is interrupted is over: no service resumes it. Exit code: 0, for run-now that
of its flow, 2, 5 (run-now while a run is in progress), 6.
"""

import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from cluster.storage import open_storage
from flows.commands import FLOWS, config_class, read_flow, spelt_out
from flows.config.flat import keys_of
from flows.config.schedules import (
    ScheduleAddConfig,
    ScheduleAllowConfig,
    ScheduleLsConfig,
    ScheduleRmConfig,
    ScheduleRunNowConfig,
    Target,
)
from flows.config.words import CONFIG, given_values
from flows.engine.result import FlowResult
from flows.scheduling.allowed import AllowedLine, AllowList, check_schedule
from flows.scheduling.manifests import cron_job, crontab_line, ray_cron_job
from flows.scheduling.records import MAX_ATTEMPTS, Book, Planned, Schedule, Slot
from flows.scheduling.service import (
    StoreClock,
    launch_process,
    process_name,
    require_allowed,
    run_claimed,
)
from flows.submission.words import is_file, is_place
from mhim_core.errors import ConfigError, ConflictError, IntegrityError, StorageError
from mhim_core.printable import one_line
from mhim_core.storage import Storage
from mhim_core.types import ExitCode

_MEANING: dict[int | None, str] = {
    ExitCode.OK: "ok",
    ExitCode.BUG: "damaged file, lost node or bug",
    ExitCode.BAD_INPUT: "bad configuration or input",
    ExitCode.PARTIAL: "finished, some slides failed",
    ExitCode.TOO_MANY_FAILED: "too many slides failed",
    ExitCode.CONFLICT: "conflict with another run or store",
    ExitCode.STORAGE: "storage, cluster or machine gave out",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.TERMINATED: "ended by SIGTERM",
    137: "killed from outside",
}
"""What `ls` says of a run's exit code."""


def add(config: ScheduleAddConfig) -> FlowResult:
    """Raises ConfigError (2) for invalid words of the flow or an invalid time."""
    schedule = read_schedule(config)
    if config.target is Target.crontab:
        print(crontab_line(schedule))
        return FlowResult()
    if config.target is not Target.local:
        if not config.image:
            raise ConfigError(f"target={config.target} needs image=, such as registry.example/mhim:0.1.0")
        _refuse_relative(schedule)
        is_ray = config.target is Target.kuberay
        text = ray_cron_job(schedule, config.image) if is_ray else cron_job(schedule, config.image, config.submit_to)
        print(text, end="")
        return FlowResult()
    storage = open_storage(config.registry)
    AllowList(config.allowing.allow).add(schedule)
    is_new = Book(storage).add(schedule)
    now = StoreClock(storage)()
    print(f"{schedule.id}: {schedule.command}")
    print(f"  {schedule.cron} {schedule.timezone}, next {_shown(schedule.times.next_after(now))}")
    print("  added; it runs while" if is_new else "  is there already; it runs while", end=" ")
    print(f"`mhim schedule serve registry={config.registry}` does, as this user of this machine")
    return FlowResult(outputs={"schedule": storage.locate(f"schedules/{schedule.id}.json")}, recomputed=is_new)


def ls(config: ScheduleLsConfig) -> FlowResult:
    """One block of lines per schedule. Needs only read access to the registry."""
    allowed = AllowList(config.allowing.allow).entries()
    storage = open_storage(config.registry)
    book = Book(storage)
    schedules = book.planned()
    now = _now(storage, schedules)
    for planned in schedules:
        print("\n".join(map(one_line, _lines(book, planned, now, AllowedLine.of(planned.schedule) in allowed))))
    for message in book.damaged.values():
        print(f"warning: {one_line(message)}")
    return FlowResult(outputs={"schedules": storage.locate("schedules")}, recomputed=False)


def allow(config: ScheduleAllowConfig) -> FlowResult:
    """Show what would run, and let it run here. Raises InputError (2) where there is no such schedule."""
    storage = open_storage(config.registry)
    schedule = Book(storage).find(config.schedule).schedule
    check_schedule(schedule)
    print(f"{schedule.id}: {schedule.command}")
    print(f"  {schedule.cron} {schedule.timezone}, in {schedule.folder}")
    allowed = AllowList(config.allowing.allow)
    is_new = allowed.add(schedule)
    print(f"  {'allowed' if is_new else 'was allowed'} on this machine, in {allowed.path}")
    print(f"  to take that back: mhim schedule rm {schedule.id} registry={config.registry}")
    return FlowResult(outputs={"allow": str(allowed.path)}, recomputed=is_new)


def rm(config: ScheduleRmConfig) -> FlowResult:
    """Raises InputError (2) where there is no such schedule."""
    AllowList(config.allowing.allow).remove(config.schedule)
    storage = open_storage(config.registry)
    Book(storage).remove(config.schedule)
    print(f"{config.schedule}: removed; what it ran is kept in {storage.locate(f'schedules/{config.schedule}')}")
    return FlowResult()


def run_now(config: ScheduleRunNowConfig) -> FlowResult:
    """Raises InputError (2) where there is no such schedule or it is not allowed here, ConflictError (5) where it runs
    already."""
    storage = open_storage(config.registry)
    book = Book(storage)
    now = StoreClock(storage)()
    planned = book.find(config.schedule)
    require_allowed(planned.schedule, AllowList(config.allowing.allow), config.registry)
    if planned.is_running(now) and not config.force:
        assert planned.last is not None
        raise ConflictError(
            f"{config.schedule}: run {planned.last.run} is going on; wait for it, or force=true runs beside it"
        )
    slot = Slot(now.replace(microsecond=0))
    if not book.claim(planned.schedule, slot, process_name()):
        raise ConflictError(f"{config.schedule}: another run-now started in the same second; it is running now")
    ran = run_claimed(book, planned.schedule, slot, launch_process, goes_on=False)
    known = ran.exit_code in set(ExitCode)
    return FlowResult(exit_code=ExitCode(ran.exit_code) if known else ExitCode.BUG, outputs={"log": ran.log})


def read_schedule(config: ScheduleAddConfig) -> Schedule:
    """The schedule, with the flow's words checked. Raises ConfigError as the flow would, or for an invalid time."""
    flow_words = spelt_out(config.flow, config.overrides) if config.flow in FLOWS else []
    words = sorted([*flow_words, *_passed_on(config, flow_words)])
    read_flow(config.flow, words)
    _refuse_address(config.target, flow_words)
    schedule = Schedule(
        flow=config.flow,
        words=tuple(words),
        cron=" ".join(config.cron.split()),
        timezone=config.timezone,
        folder=os.getcwd(),
    )
    check_schedule(schedule)
    schedule.times.next_after(datetime.now().astimezone())
    return schedule


def _passed_on(config: ScheduleAddConfig, words: Sequence[str]) -> Iterator[str]:
    """The flow's words, with the keys that it shares with this command, and partial_ok=true for other schedulers."""
    keys = keys_of(config_class(config.flow)) if config.flow in FLOWS else {}
    set_keys = {word.partition("=")[0] for word in words}
    if "registry" in keys:
        yield f"registry={config.registry}"
    if config.target is not Target.local and "partial_ok" in keys and "partial_ok" not in set_keys:
        yield "partial_ok=true"
    if config.target is Target.kuberay and "ray_address" in keys and "ray_address" not in set_keys:
        yield "ray_address=auto"


def _refuse_address(target: Target, words: Sequence[str]) -> None:
    """Where the machinery says which Ray cluster it is, a second one would be refused at its first run, or be wrong."""
    for word in words:
        if not word.startswith("ray_address="):
            continue
        if target is Target.kubernetes:
            raise ConfigError(
                f"leave {word} out: with target=kubernetes the flow runs in the Ray cluster that submit_to= names"
            )
        if target is Target.kuberay and word != "ray_address=auto":
            raise ConfigError(
                f"leave {word} out: with target=kuberay the flow runs in the Ray cluster that is made for it"
            )


def _refuse_relative(schedule: Schedule) -> None:
    """Raises ConfigError for relative places: a pod has another working directory than the user."""
    kind = config_class(schedule.flow)
    keys = {**keys_of(kind), CONFIG.name: CONFIG}
    values = given_values(kind, schedule.words, schedule.flow)
    files = [(CONFIG.name, word.partition("=")[2]) for word in schedule.words if word.startswith(f"{CONFIG.name}=")]
    for name, value in (*values.items(), *files):
        is_address = is_file(keys[name], value) or is_place(keys[name], value)
        for uri in keys[name].values(value) if is_address else ():
            if "://" not in uri and not os.path.isabs(uri):
                raise ConfigError(
                    f"{name}={uri} is relative, and a pod has a folder of its own; write an s3:// or a mounted path"
                )


def _lines(book: Book, planned: Planned, now: datetime, is_allowed: bool) -> Iterator[str]:
    schedule = planned.schedule
    yield f"{schedule.id}  {schedule.cron} {schedule.timezone}, next {_shown(schedule.times.next_after(now))}"
    yield f"  {schedule.command}  (in {schedule.folder})"
    yield ("  allowed on this machine" if is_allowed else "  not allowed on this machine: it does not run here")
    last = planned.last
    if last is None:
        yield "  never ran"
    elif planned.is_over:
        yield f"  last run {last.run}: ended {_shown(_moment(planned.ended_s))}, {_end(book, schedule, last)}"
    elif planned.is_running(now):
        yield f"  last run {last.run}: running, last heard of {_shown(_moment(planned.sign_s))}"
    else:
        stopped, silent = (_shown(_moment(time_s)) for time_s in (planned.ended_s, planned.sign_s))
        ending = f"was stopped {stopped}" if planned.is_stopped else f"ended without a word, last heard of {silent}"
        left = "goes on when served" if last.attempt < MAX_ATTEMPTS else f"given up after {MAX_ATTEMPTS} attempts"
        yield f"  last run {last.run}: {ending}; {left}"


def _end(book: Book, schedule: Schedule, run: Slot) -> str:
    try:
        code = book.exit_code(schedule, run)
    except IntegrityError as error:
        return f"how is not known: {error}"
    return f"exit code {code}" if code not in _MEANING else f"exit code {code}: {_MEANING[code]}"


def _now(storage: Storage, schedules: Sequence[Planned]) -> datetime:
    """The store's time; without write access this machine's, but not earlier than the newest record."""
    try:
        return StoreClock(storage)()
    except StorageError:
        newest_s = max((max(planned.added_s, planned.sign_s) for planned in schedules), default=0.0)
        print("note: the registry cannot be written from here, so ages are counted on this machine's clock")
        return datetime.fromtimestamp(max(newest_s, time.time()), UTC)


def _moment(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
