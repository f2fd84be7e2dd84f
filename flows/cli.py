"""The command line: `mhim <flow> key=value … [--debug] [--help]`.

A flow is a function config → FlowResult; this file only finds it, reads its words, prints what went wrong in one
sentence and ends with its exit code. Nothing heavy is imported before a flow really runs, so that help is instant.
"""

import importlib
import os
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from mhim_core.errors import MhimError
from mhim_core.types import ExitCode


class FlowCommand(NamedTuple):
    """Where a flow lies and what it is for; `flows.<module>.run(config)` runs it."""

    module: str
    config: str
    summary: str
    example: str


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
    "demo": FlowCommand("demo", "DemoConfig", "everything above on a made cohort", "out=demo"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 ok … 130 interrupted: see `mhim --help`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_general_help())
        return ExitCode.OK if words else ExitCode.BAD_INPUT
    if words[0] == "--version":
        print(_version())
        return ExitCode.OK
    try:
        return _run_flow(words[0], words[1:])
    except KeyboardInterrupt:
        _say("interrupted; what was committed is kept, the same command goes on from there")
        return ExitCode.INTERRUPTED
    except MhimError as error:
        if debug:
            traceback.print_exc()
        if error.exit_code is ExitCode.BUG:
            return _unexpected(error)
        _say(str(error))
        return error.exit_code
    except BrokenPipeError:  # `mhim … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _unexpected(error)


def _run_flow(name: str, words: list[str]) -> int:
    if name not in FLOWS:
        _say(f"unknown command {name!r}; commands: {', '.join(FLOWS)}")
        return ExitCode.BAD_INPUT
    command = FLOWS[name]
    config_class = getattr(importlib.import_module("flows.config"), command.config)
    if "--help" in words or "-h" in words:
        print(_flow_help(name, command, config_class))
        return ExitCode.OK
    from flows.overrides import parse

    config = parse(config_class, words, preset=name)
    flow = importlib.import_module(f"flows.{command.module}")
    return flow.run(config).exit_code


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


def _flow_help(name: str, command: FlowCommand, config_class: type) -> str:
    from flows.overrides import keys_of

    keys = keys_of(config_class).values()
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
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "mhim")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir())
    log = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    log.write_text("".join(traceback.format_exception(error)))
    first = str(error).strip().split("\n")[0]
    _say(f"unexpected {type(error).__name__}: {first}; the traceback is in {log}")
    return ExitCode.BUG


def _version() -> str:
    from importlib.metadata import version

    return f"mhim {version('mhim')}"


def _say(message: str) -> None:
    print(f"mhim: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
