"""The command line: `mhim <flow> key=value … [--debug] [--help]`.

A flow is a function config → FlowResult; this file only finds it, reads its words, prints what went wrong in one
sentence and ends with its exit code. Nothing heavy is imported before a flow really runs, so that help is instant.
"""

import dataclasses
import difflib
import importlib
import io
import os
import select
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from mhim_core.errors import ConfigError, MhimError
from mhim_core.types import ExitCode


class FlowCommand(NamedTuple):
    """Where a flow lies and what it is for; `flows.<module>.<function>(config)` runs it."""

    module: str
    config: str
    summary: str
    example: str
    function: str = "run"
    positional: tuple[str, ...] = ()
    """Keys that may be given as bare words, in this order: `mhim model show lung` is `name=lung`."""
    wraps_flow: bool = False
    """The words that are no keys of its own are another flow's, checked as that flow would, and kept in `overrides`."""


_HELP = ("-h", "--help")
IN_JOB = "MHIM_IN_JOB"
"""Set in a job of a cluster: no flow starts there before every node is known to reach what it names."""

FLOWS = {
    "check": FlowCommand("check", "CheckConfig", "validate a cohort table and its slides", "cohort=my.csv"),
    "embed": FlowCommand(
        "embed", "EmbedConfig", "slides → tile features in a store", "cohort=my.csv store=./features target_mpp=0.5"
    ),
    "train": FlowCommand(
        "train",
        "TrainConfig",
        "features → one model per fold and seed",
        "cohort=my.csv store=./features folds=5 out=runs/first",
    ),
    "evaluate": FlowCommand("evaluate", "EvaluateConfig", "held-out predictions and metrics", "run=runs/first"),
    "predict": FlowCommand(
        "predict",
        "PredictConfig",
        "new slides through a run's models, or a registered model",
        "run=runs/first cohort=new.csv out=predictions/new",
    ),
    "report": FlowCommand("report", "ReportConfig", "one HTML page with heat maps", "run=runs/first"),
    "compare": FlowCommand(
        "compare",
        "CompareConfig",
        "paired differences between runs, or between one run's models",
        "runs=[runs/first,runs/second] out=comparisons/first",
    ),
    "convert": FlowCommand(
        "convert",
        "ConvertConfig",
        "published MHIM-MIL checkpoints in and out",
        "checkpoint=theirs.pt out=model.safetensors classes=normal,tumour",
    ),
    "pipeline": FlowCommand(
        "pipeline",
        "retrain_config.PipelineConfig",
        "embed, train, evaluate, report; the first champion of a name",
        "cohort=my.csv store=./features out=runs registry=./registry name=lung",
    ),
    "retrain": FlowCommand(
        "retrain",
        "retrain_config.RetrainConfig",
        "what is new → a challenger → promoted or kept",
        "name=lung registry=./registry cohort=my.csv store=./features",
    ),
    "flow status": FlowCommand(
        "flow_status",
        "retrain_config.FlowStatusConfig",
        "how the steps of a pipeline or retraining stand",
        "lung registry=./registry",
        positional=("name",),
    ),
    "schedule add": FlowCommand(
        "schedule",
        "schedule_config.ScheduleAddConfig",
        "a flow at its times: here, in crontab or on Kubernetes",
        'retrain cron="0 2 * * 0" registry=./registry name=lung cohort=my.csv store=./features',
        function="add",
        positional=("flow",),
        wraps_flow=True,
    ),
    "schedule ls": FlowCommand(
        "schedule", "schedule_config.ScheduleLsConfig", "what runs when, and how it went", "registry=./registry", "ls"
    ),
    "schedule rm": FlowCommand(
        "schedule",
        "schedule_config.ScheduleRmConfig",
        "no further run",
        "retrain-1a2b3c4d registry=./registry",
        function="rm",
        positional=("schedule",),
    ),
    "schedule run-now": FlowCommand(
        "schedule",
        "schedule_config.ScheduleRunNowConfig",
        "once, at once",
        "retrain-1a2b3c4d registry=./registry",
        function="run_now",
        positional=("schedule",),
    ),
    "schedule serve": FlowCommand(
        "scheduler_service", "schedule_config.ScheduleServeConfig", "run what is due", "registry=./registry"
    ),
    "model ls": FlowCommand(
        "model",
        "registry_config.ModelListConfig",
        "the models of a registry, and which is champion",
        "registry=./registry",
        function="ls",
        positional=("name",),
    ),
    "model show": FlowCommand(
        "model",
        "registry_config.ModelShowConfig",
        "a model's card, and who was champion when",
        "lung registry=./registry",
        function="show",
        positional=("name",),
    ),
    "model register": FlowCommand(
        "model",
        "registry_config.ModelRegisterConfig",
        "a finished run becomes a model",
        "lung run=runs/first registry=./registry",
        function="register",
        positional=("name",),
    ),
    "model promote": FlowCommand(
        "model",
        "registry_config.ModelPromoteConfig",
        "a person makes a model champion",
        "lung version=1f0c9a3e registry=./registry",
        function="promote_by_hand",
        positional=("name",),
    ),
    "model rollback": FlowCommand(
        "model",
        "registry_config.ModelRollbackConfig",
        "a champion of the past is champion again",
        "lung to=1f0c9a3e registry=./registry",
        function="rollback_to",
        positional=("name",),
    ),
    "submit": FlowCommand(
        "submit",
        "job_config.SubmitConfig",
        "any flow as a job of a Ray cluster",
        "embed cohort=my.csv store=s3://bucket/features ray_address=http://host:8265 --wait",
        positional=("flow",),
        wraps_flow=True,
    ),
    "jobs ls": FlowCommand(
        "jobs", "job_config.JobsLsConfig", "the jobs of a cluster", "ray_address=http://host:8265", function="ls"
    ),
    "jobs logs": FlowCommand(
        "jobs",
        "job_config.JobsLogsConfig",
        "what a job has written",
        "embed-0123456789ab-1 --follow ray_address=http://host:8265",
        function="logs",
        positional=("job",),
    ),
    "jobs stop": FlowCommand(
        "jobs",
        "job_config.JobsStopConfig",
        "end a job",
        "embed-0123456789ab-1 ray_address=http://host:8265",
        function="stop",
        positional=("job",),
    ),
    "demo": FlowCommand("demo", "DemoConfig", "check to report on a made cohort", "out=demo"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 ok … 130 interrupted: see `mhim --help`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    _escape_unprintable()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _say("interrupted; what was committed is kept, the same command goes on from there")
        return ExitCode.INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return ExitCode.INTERRUPTED
        if debug:
            traceback.print_exc()
        if not isinstance(error, MhimError) or error.exit_code is ExitCode.BUG:
            return _unexpected(error)
        _say(str(error))
        return error.exit_code


def _run(words: Sequence[str]) -> int:
    wants_help = any(word in _HELP for word in words) or words[:1] == ["help"]
    names = [word for word in words if word not in _HELP and word != "help"]
    if "--version" in words:
        print(_version())
    elif not names:
        print(_general_help())
        return ExitCode.OK if wants_help else ExitCode.BAD_INPUT
    else:
        name = _command(names)
        if wants_help:
            print(_flow_help(name))
        else:
            return _run_flow(name, words[len(name.split()) :])
    return ExitCode.OK


def _command(names: Sequence[str]) -> str:
    """The command that the first word or two are. Raises ConfigError with what was probably meant."""
    for candidate in (" ".join(names[:2]), names[0]):
        if candidate in FLOWS:
            return candidate
    members = [name for name in FLOWS if name.split()[0] == names[0]]
    if members:
        raise ConfigError(f"mhim {names[0]} needs one of {', '.join(name.split()[1] for name in members)}")
    close = difflib.get_close_matches(names[0], FLOWS, n=1)
    suggestion = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"unknown command {names[0]!r}{suggestion}; commands: {', '.join(FLOWS)}")


def _run_flow(name: str, words: Sequence[str]) -> int:
    config: Any = _read(name, words)
    flow = importlib.import_module(f"flows.{FLOWS[name].module}")
    before: AbstractContextManager[None] = nullcontext()
    if os.environ.get(IN_JOB) and name in _plain_flows():
        before = importlib.import_module("flows.job_start").first_step(config)
    with before:
        exit_code: int = getattr(flow, FLOWS[name].function)(config).exit_code
    return exit_code


def _read(name: str, words: Sequence[str]) -> Any:
    """The command's config: bare words, `--flag`s, `key=value`s and, where it wraps a flow, that flow's words."""
    from flows.overrides import keys_of, parse

    command, kind = FLOWS[name], config_class(name)
    keys = keys_of(kind)
    free = iter(key for key in command.positional if not any(word.startswith(f"{key}=") for word in words))
    own: list[str] = []
    others: list[str] = []
    for word in words:
        key, separator, _ = word.partition("=")
        flag = key.removeprefix("--").replace("-", "_")
        if word.startswith("--") and not separator and flag in keys and keys[flag].kind is bool:
            own.append(f"{flag}=true")
        elif not separator and not word.startswith("-") and (position := next(free, None)) is not None:
            own.append(f"{position}={word}")
        else:
            (others if command.wraps_flow and key not in keys else own).append(word)
    preset = name.replace(" ", "_").replace("-", "_")
    if not command.wraps_flow:
        return parse(kind, own, preset=preset, command=name)
    return dataclasses.replace(parse(kind, own, preset=preset, command=name), overrides=tuple(others))


def read_flow(name: str, words: Sequence[str]) -> Any:
    """A flow's config from the words that a wrapping command was given for it. Raises ConfigError as the flow would."""
    if name not in FLOWS or FLOWS[name].wraps_flow or " " in name:
        raise ConfigError(f"{name!r} is no flow that can be run for you; flows: {', '.join(_plain_flows())}")
    return _read(name, words)


def _plain_flows() -> list[str]:
    return [name for name, command in FLOWS.items() if " " not in name and not command.wraps_flow]


def config_class(name: str) -> type:
    """`flows.config` holds them, or the light module that the command names: `job_config.SubmitConfig`."""
    module, _, kind = FLOWS[name].config.rpartition(".")
    found: type = getattr(importlib.import_module(f"flows.{module or 'config'}"), kind)
    return found


def _general_help() -> str:
    flows = "\n".join(f"  mhim {name:<17} {flow.summary}" for name, flow in FLOWS.items())
    return f"""\
mhim: whole-slide images → tile features → MHIM-MIL models → predictions, heat maps, a page. Research use only.

{flows}

  mhim <command> --help     its keys, with meaning, unit and default
  --debug                   the traceback of an error
  --version

A first run on your own slides, from one table (columns slide_id, path, patient_id, label; optional mpp, split, site):

  mhim check    cohort=my.csv
  mhim embed    cohort=my.csv encoder=efficientnet-lite0 store=./features
  mhim train    cohort=my.csv store=./features method=mhim folds=5 out=runs/first
  mhim evaluate run=runs/first
  mhim report   run=runs/first

Exit codes: 0 ok · 1 unexpected · 2 bad configuration or input · 3 some slides failed, within max_failed_fraction ·
            4 more failed · 5 conflict with another run or store · 6 storage unreachable or denied · 130 interrupted"""


def _flow_help(name: str) -> str:
    from flows.overrides import keys_of

    command = FLOWS[name]
    keys = keys_of(config_class(name)).values()
    lines = [f"mhim {name}: {command.summary}", "", f"  mhim {name} {command.example}", ""]
    for title, chosen in (
        ("required", [key for key in keys if key.required]),
        ("optional", [key for key in keys if not key.required]),
    ):
        if chosen:
            lines.append(f"{title}:")
        for key in chosen:
            default = "" if key.required else f"={_show(key.default)}"
            choices = " | ".join(key.kind.__members__) if hasattr(key.kind, "__members__") else ""
            doc = f"{key.doc} [{choices}]" if choices else key.doc
            lines.append(f"  {key.name}{default}")
            lines += textwrap.wrap(doc, 112, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    return "none" if value is None else str(value)


def _unexpected(error: BaseException) -> int:
    """The traceback goes to a log, the terminal gets one sentence."""
    first = str(error).strip().split("\n")[0]
    _say(f"unexpected {type(error).__name__}: {first}; {_log_traceback(error)}")
    return ExitCode.BUG


def _log_traceback(error: BaseException) -> str:
    """Where the traceback is, as the end of a sentence."""
    text = "".join(traceback.format_exception(error))
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "mhim")
    for folder in (state, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:  # a full or read-only disk may be the very cause
            continue
        return f"the traceback is in {folder / name}"
    return "no log could be written: --debug prints the traceback"


def _reader_is_gone() -> bool:
    """Did `mhim … | head` see enough? Then nothing more is written, at the interpreter's end neither."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream of a notebook or a test
        return False
    pipe = select.poll()
    pipe.register(descriptor, 0)  # an error is reported whatever is asked for
    if not pipe.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def _escape_unprintable() -> None:
    """A terminal that knows no → gets an escape, not a crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _version() -> str:
    from importlib.metadata import version

    return f"mhim {version('mhim')}"


def _say(message: str) -> None:
    print(f"mhim: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
