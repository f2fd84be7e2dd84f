"""`mhim status` tells from another terminal how far an embedding is, and when one was cut off."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.store_status import status_lines
from mhim_core.storage import LocalStorage
from mhim_core.store import progress
from mhim_core.store.progress import Progress, ToldProgress, Work, read_progress
from mhim_core.types import ExitCode

Mhim = Callable[..., Any]
NOW_S = 1_764_000_000.0


def told(work: Work, silent_s: float = 0.0, **fields: Any) -> ToldProgress:
    facts: dict[str, Any] = {
        "host": "node7",
        "pid": 4711,
        "started_s": NOW_S - 3600,
        "updated_s": NOW_S,
        "num_todo": 100_000,
        "counts": {"ok": 39_900, "empty": 20, "failed": 80, "skipped": 0},
        "num_tiles": 360_000,
        "left_s": 5400.0,
        "waited_s": 10.0,
        "encoded_s": 80.0,
        "stored_s": 10.0,
        "failures": ("s17: read: torn",),
    }
    return ToldProgress("reports/1/progress.json", Progress(work=work, **(facts | fields)), NOW_S - silent_s)


def test_a_running_embedding_says_how_far_it_is() -> None:
    lines = list(status_lines(told(Work.running, silent_s=12), NOW_S))
    assert re.search(r"node7 \(process 4711\): running$", lines[0])
    assert "40,000/100,000 slides" in lines[1]
    assert "100 tiles/s" in lines[1]
    assert "about 1 h 30 min left" in lines[1]
    assert lines[2:] == [
        "  encoders: 80 % encoding, 10 % waiting for tiles, 10 % storing",
        "  failed: s17: read: torn",
    ]


def test_one_that_was_killed_says_nothing_any_more_and_that_is_told() -> None:
    (first, *_) = status_lines(told(Work.running, silent_s=720), NOW_S)
    assert "cut off" in first
    assert "12 min" in first
    (first, second, *_) = status_lines(told(Work.ended, silent_s=86_400, left_s=None), NOW_S)
    assert first.endswith(": ended")
    assert "left" not in second


@pytest.mark.usefixtures("embed_here")
def test_status_of_a_real_embedding(mhim: Mhim, painted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    assert mhim("status", f"store={store}").code == ExitCode.BAD_INPUT
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    mhim("embed", f"cohort={painted.cohort}", f"store={store}", "encoder=hed-texture", "target_mpp=0.5")
    ended = mhim("status", f"store={store}")
    assert ended.code == ExitCode.OK
    assert ": ended\n" in ended.out
    assert "12/12 slides: 12 ok, 0 empty, 0 failed, 0 skipped" in ended.out
    assert re.search(r"encoders: [1-9]\d? % encoding, \d+ % waiting for tiles, \d+ % storing", ended.out)
    state = read_progress(LocalStorage(store), 1)[0].progress
    assert isinstance(state, Progress)
    assert min(state.waited_s, state.encoded_s, state.stored_s) > 0
    (store / "reports" / "9").mkdir()
    (store / "reports" / "9" / "progress.json").write_text("{")
    mixed = mhim("status", f"store={store}")
    assert mixed.code == ExitCode.OK
    assert "cannot be read" in mixed.out
    assert "12/12 slides" in mixed.out
