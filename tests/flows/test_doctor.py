"""`mhim doctor`: a line a check, and the exit code that the problem would have had."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUICK = ("start_ray=false", "encoder=hed-texture")


def lines(ended: Any) -> dict[str, str]:
    """By check, ok or problem."""
    split = [line.split(None, 1) for line in ended.out.splitlines()]
    return {rest.partition(":")[0]: status for status, rest in split}


def test_a_machine_that_can_run_the_tests_is_well(
    mhim: Callable[..., Any], write_slide: Callable[..., Path], write_table: Callable[..., Path], tmp_path: Path
) -> None:
    slide = write_slide("a.tiff")
    cohort = write_table([{"slide_id": "a", "path": slide.name, "patient_id": "p", "label": "x"}])
    store = tmp_path / "store"
    store.mkdir()
    began_s = time.process_time()
    ended = mhim("doctor", *QUICK, f"store={store}", f"cohort={cohort}")
    assert time.process_time() - began_s < 20
    assert ended.code == 0, ended
    assert set(lines(ended).values()) == {"ok"}
    assert {"python", "packages", "slides", "gpu", "encoder", "store", "cohort"} <= lines(ended).keys()
    assert list(store.iterdir()) == []


def test_a_problem_is_named_with_its_exit_code_and_the_other_checks_go_on(
    mhim: Callable[..., Any], write_table: Callable[..., Path], tmp_path: Path
) -> None:
    cohort = write_table([{"slide_id": "a", "path": "gone.tiff", "patient_id": "p", "label": "x"}])
    ended = mhim("doctor", "start_ray=false", "encoder=unheard-of", f"cohort={cohort}", f"store={tmp_path}/new")
    assert ended.code == 2, ended
    statuses = lines(ended)
    assert {name for name, status in statuses.items() if status == "problem"} == {"encoder", "cohort"}
    assert statuses["store"] == "ok"
    assert not (tmp_path / "new").exists()


def test_a_store_that_takes_no_writes_is_exit_6(mhim: Callable[..., Any], tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "probe").write_text("a file is in the way, which stops root too")
    ended = mhim("doctor", *QUICK, f"store={store}")
    assert (ended.code, lines(ended)["store"]) == (6, "problem")


def test_a_package_outside_its_range_is_a_problem(mhim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy>=99", "pyarrow", 'absent>=1; extra == "x"'])
    ended = mhim("doctor", *QUICK)
    assert (ended.code, lines(ended)["packages"]) == (2, "problem")
    assert "numpy" in ended.out
    assert "absent" not in ended.out
