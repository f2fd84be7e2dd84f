"""Nothing that a table, a file's name, a library or a record says reaches the terminal raw; our own bar still moves."""

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.engine.state_folder import state_folder
from flows.engine.terminal import PrintableStream, printable_output
from mhim_core.errors import CohortError, IntegrityError, SlideError, StorageError
from mhim_core.types import FailureReason

Mhim = Callable[..., Any]
EVIL = "x\x1b]0;owned\x07\r\u202emhim: ok"
SHOWN = r"x\x1b]0;owned\x07\r\u202emhim: ok"
BAR = """
import sys
from flows.engine.terminal import printable_output
from flows.runs.progress import SlideProgress
from mhim_core.types import Status, StatusRow

evil = "EVIL\\x1b]0;owned\\x07\\rEND"
with printable_output():
    with SlideProgress({"s1": 1.0, "s2": 1.0}, 1) as progress:
        progress.update(StatusRow("s1", Status.FAILED, reason="read", message=evil + chr(10) + "forged"))
        print("out " + evil, flush=True)
        print("err " + evil, file=sys.stderr, flush=True)
    print("after " + evil)
assert type(sys.stdout).__name__ == "TextIOWrapper"
"""


def test_a_stream_shows_what_is_written_and_is_otherwise_the_stream_it_wraps() -> None:
    inner = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    stream = PrintableStream(inner)
    print(EVIL, "ä", file=stream, flush=True)  # type: ignore[arg-type]
    stream.writelines(["a\x1b", "\n"])
    stream.flush()
    assert inner.buffer.getvalue().decode() == rf"{SHOWN} \xe4" + "\na\\x1b\n"  # type: ignore[attr-defined]
    assert (stream.encoding, stream.rich_proxied_file) == ("ascii", inner)


def test_streams_are_wrapped_once_and_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with printable_output(), printable_output():
        assert isinstance(sys.stdout, PrintableStream)
        assert not isinstance(sys.stdout.stream, PrintableStream)
        print("a\x1b")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "a\\x1b\n"


@pytest.mark.parametrize("error", [CohortError, StorageError, IntegrityError, ZeroDivisionError])
@pytest.mark.fault(49)
def test_the_message_of_an_error_is_shown_and_begins_no_line(
    monkeypatch: pytest.MonkeyPatch, mhim: Mhim, error: type[Exception]
) -> None:
    def run(config: object) -> None:
        raise error(f"2 errors\n  of ours\n{EVIL}\nmhim: forged")

    monkeypatch.setattr("flows.check.run", run)
    for words in ((), ("--debug",)):
        err = mhim("check", "cohort=x", *words).err
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", err)
    lines = mhim("check", "cohort=x").err.splitlines()
    assert all(line.startswith(("mhim: 2 errors", "mhim: unexpected ", "  of ours")) for line in lines)
    if error is CohortError:
        assert lines[1] == rf"  of ours\n{SHOWN}\nmhim: forged"


@pytest.mark.fault(49)
def test_what_a_flow_prints_is_shown(
    monkeypatch: pytest.MonkeyPatch, mhim: Mhim, write_table: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [
        {"slide_id": f"s{i}", "path": f"s{i}.svs", "patient_id": f"p{i}{EVIL}", "label": f"{EVIL}\n{i % 2}"}
        for i in range(4)
    ]
    table = write_table(rows, name=f"a{EVIL}.csv")

    def fail(*_: object, **__: object) -> None:
        raise SlideError(FailureReason.READ, f"{EVIL}\nmhim: forged")

    monkeypatch.setattr("flows.check._inspect", fail)
    ended = mhim("check", f"cohort={table}")
    everything = ended.out + ended.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", everything)
    assert not re.search(r"^mhim: (ok|forged)", everything, re.MULTILINE)


def test_beside_a_bar_on_a_terminal_texts_are_shown_and_the_bar_moves() -> None:
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen([sys.executable, "-c", BAR], stdout=child, stderr=child, stdin=child, env=environment) as run:
        os.close(child)
        data = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            data += chunk
    os.close(parent)
    text = data.decode()
    assert run.returncode == 0, text
    assert "\x1b]0;" not in text
    assert "\x07" not in text
    assert text.count(r"EVIL\x1b]0;owned\x07\rEND") == 4
    assert r"END\nforged" in text
    assert re.search(r"\x1b\[[0-9;?]*[A-Za-z]", text), "the bar's own codes are kept"
    assert r"\x1b[" not in text, "all of them"


def test_a_traceback_s_log_is_for_this_user_alone(monkeypatch: pytest.MonkeyPatch, mhim: Mhim, tmp_path: Path) -> None:
    def run(config: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("flows.check.run", run)
    mhim("check", "cohort=x")
    (log,) = state_folder().iterdir()
    assert (log.stat().st_mode & 0o777, state_folder().stat().st_mode & 0o777) == (0o600, 0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    mhim("check", "cohort=x")
    (log,) = (tmp_path / "tmp").iterdir()
    assert log.stat().st_mode & 0o777 == 0o600
