"""The command line: `mhim <flow> key=value … [--debug] [--help]`.

`flows.commands` turns the words into a config; this file runs the flow, prints an error as one sentence, and exits with
the flow's code. Nothing heavy is imported before a flow runs, so that help is instant.
"""

import importlib
import io
import os
import re
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
from typing import Any

from flows.commands import FLOWS, IN_JOB, config_class, find_command, group_of, plain_flows, read_words
from flows.engine.library_warnings import warnings_logged
from flows.engine.machine_errors import machine_error
from flows.engine.signals import farewell, interruption_code, terminable
from flows.engine.state_folder import open_private, private_folder
from flows.engine.terminal import printable_output
from mhim_core.errors import MhimError
from mhim_core.printable import one_line
from mhim_core.types import ExitCode

_FOREIGN_LINE_END = re.compile(r"\n(?!  )")
_HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 ok … 143 terminated: see `mhim --help`)."""
    _escape_unencodable()
    with printable_output(), warnings_logged():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(words: list[str]) -> int:
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with terminable():
            code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interruption:
        _say(farewell(interruption))
        return interruption_code(interruption)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return ExitCode.INTERRUPTED
        if debug:
            traceback.print_exc()
        known = error if isinstance(error, MhimError) else machine_error(error)
        if known is None:
            return _unexpected(error)
        if known.exit_code is ExitCode.BUG:  # foreseen, such as a damaged file or a lost node: named, with its log
            _say(f"{known}; {_log_traceback(error)}")
            return ExitCode.BUG
        _say(str(known))
        return known.exit_code


def _run(words: Sequence[str]) -> int:
    # without a key, help can be the name of nothing: commands that take a name need keys as well
    is_asked = words[:1] == ["help"] or ("help" in words and not any("=" in word for word in words))
    wants_help = is_asked or any(word in _HELP for word in words)
    names = [word for word in words if word not in _HELP and word != "help"]
    if "--version" in words:
        print(_version())
    elif not names:
        print(_general_help())
        return ExitCode.OK if wants_help else ExitCode.BAD_INPUT
    elif wants_help and len(names) == 1 and (members := group_of(names[0])):
        own = [_flow_help(names[0]), ""] if names[0] in FLOWS else []
        print("\n".join([*own, *(f"  mhim {name:<17} {FLOWS[name].summary}" for name in members)]))
    else:
        name = find_command(names)
        if wants_help:
            print(_flow_help(name))
        else:
            return _run_flow(name, words[len(name.split()) :])
    return ExitCode.OK


def _run_flow(name: str, words: Sequence[str]) -> int:
    config: Any = read_words(name, words)
    flow = importlib.import_module(f"flows.{FLOWS[name].module}")
    before: AbstractContextManager[None] = nullcontext()
    if os.environ.get(IN_JOB) and name in plain_flows():
        before = importlib.import_module("flows.submission.start").first_step(config)
    with before:
        exit_code: int = getattr(flow, FLOWS[name].function)(config).exit_code
    return exit_code


def _general_help() -> str:
    lines: list[str] = []
    for name, flow in FLOWS.items():
        lines += [*(["", f"{flow.heading}:"] if flow.heading else []), f"  mhim {name:<17} {flow.summary}"]
    flows = "\n".join(lines[1:])
    return f"""\
mhim: whole-slide images → tile features → MHIM-MIL models → predictions, heat maps, an HTML page. Research use only.

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
            4 more failed · 5 conflict with another run or store · 6 storage, or a job's cluster, unreachable, or disk
            or memory full · 130 interrupted (Ctrl-C) · 143 ended by SIGTERM; after both, run again to resume.
            A command that was started with SIGINT ignored (a script's background job) goes on ignoring it."""


def _flow_help(name: str) -> str:
    from flows.config.flat import keys_of
    from flows.config.words import CONFIG

    command = FLOWS[name]
    keys = [*keys_of(config_class(name)).values(), *([] if command.wraps_flow else [CONFIG])]
    lines = [f"mhim {name}: {command.summary}", "", f"  mhim {name} {command.example}", ""]
    for title, chosen in (
        ("required", [key for key in keys if key.required]),
        ("optional", [key for key in keys if not key.required]),
    ):
        if chosen:
            lines.append(f"{title}:")
        for key in chosen:
            default = "" if key.required else f"={_show(key.default)}"
            doc = f"{key.doc} [{' | '.join(key.choices)}]" if key.choices else key.doc
            lines += _wrapped(f"{key.name}{default}", "  ", "    ")
            lines += _wrapped(doc, "      ", "      ")
    return "\n".join(lines)


def _wrapped(text: str, first_indent: str, indent: str) -> list[str]:
    """Names such as `hed-texture` stay whole: people copy them."""
    return textwrap.wrap(
        text, _HELP_COLUMNS, initial_indent=first_indent, subsequent_indent=indent, break_on_hyphens=False
    )


_HELP_COLUMNS = 112


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def _unexpected(error: BaseException) -> int:
    """Write the traceback to a log and one sentence to the terminal."""
    first = one_line(str(error).strip().split("\n")[0])
    _say(f"unexpected {type(error).__name__}: {first}; {_log_traceback(error)}")
    return ExitCode.BUG


def _log_traceback(error: BaseException) -> str:
    """Log the traceback; returns where it is, as the end of a sentence."""
    text = "".join(traceback.format_exception(error))
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for find_folder in (private_folder, _temporary_folder):
        try:
            path = find_folder() / name
            with os.fdopen(open_private(path, os.O_WRONLY | os.O_EXCL), "wb") as file:
                file.write(text.encode(errors="backslashreplace"))
        except OSError:  # a full or read-only disk may be the very cause
            continue
        return f"the traceback is in {path}"
    return "no log could be written: --debug prints the traceback"


def _temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _reader_is_gone() -> bool:
    """Whether the reader of a pipe (`mhim … | head`) has closed it; if so, nothing more is written to it."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream of a notebook or a test
        return False
    pipe = select.poll()
    pipe.register(descriptor, 0)  # errors are reported without being asked for
    if not pipe.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def _escape_unencodable() -> None:
    """Print an escape sequence instead of failing where the terminal's encoding lacks a character such as →."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _version() -> str:
    from importlib.metadata import version

    return f"mhim {version('mhim')}"


def _say(message: str) -> None:
    # further lines of ours are indented; what begins at the margin was quoted from elsewhere
    text = _FOREIGN_LINE_END.sub(r"\\n", message)
    print(f"mhim: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
