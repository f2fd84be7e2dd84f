"""The command line: `mhim <flow> key=value … [--debug] [--help]`.

A flow is a function config → FlowResult; this file only finds it, reads its words, prints what went wrong in one
sentence and ends with its exit code. Nothing heavy is imported before a flow really runs, so that help is instant.
"""

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
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from mhim_core.errors import ConfigError, MhimError
from mhim_core.types import ExitCode


class FlowCommand(NamedTuple):
    """Where a flow lies and what it is for; `flows.<module>.run(config)` runs it."""

    module: str
    config: str
    summary: str
    example: str


_HELP = ("-h", "--help")

FLOWS = {
    "check": FlowCommand("check", "CheckConfig", "validate a cohort table and its slides", "cohort=my.csv"),
    "embed": FlowCommand(
        "embed", "EmbedConfig", "slides → tile features in a store", "cohort=my.csv store=./features target_mpp=0.5"
    ),
    "train": FlowCommand(
        "train", "TrainConfig", "features → one model per fold", "cohort=my.csv store=./features folds=5 out=runs/first"
    ),
    "evaluate": FlowCommand("evaluate", "EvaluateConfig", "held-out predictions and metrics", "run=runs/first"),
    "predict": FlowCommand(
        "predict",
        "PredictConfig",
        "new slides through a run's models",
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
    "demo": FlowCommand("demo", "DemoConfig", "everything above on a made cohort", "out=demo"),
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
    elif names[0] not in FLOWS:
        close = difflib.get_close_matches(names[0], FLOWS, n=1)
        suggestion = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"unknown command {names[0]!r}{suggestion}; commands: {', '.join(FLOWS)}")
    elif wants_help:
        print(_flow_help(names[0]))
    else:
        return _run_flow(names[0], words[1:])
    return ExitCode.OK


def _run_flow(name: str, words: Sequence[str]) -> int:
    from flows.overrides import parse

    config: Any = parse(_config_class(name), words, preset=name)
    flow = importlib.import_module(f"flows.{FLOWS[name].module}")
    exit_code: int = flow.run(config).exit_code
    return exit_code


def _config_class(name: str) -> type:
    found: type = getattr(importlib.import_module("flows.config"), FLOWS[name].config)
    return found


def _general_help() -> str:
    flows = "\n".join(f"  mhim {name:<9} {flow.summary}" for name, flow in FLOWS.items())
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
    keys = keys_of(_config_class(name)).values()
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
