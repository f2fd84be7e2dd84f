"""mhim demo: every step on a painted cohort, and what the models find of what was painted."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.runs.demo_foci import foci_lines
from mhim_core.demo.cohort import FociKind
from mhim_core.demo.truth import read_truth

STEPS = ["slides", "embed", "train", "evaluate", "predict", "report", "foci"]
QUICK = ("num_slides=28", "num_new=2", "encoder=hed-texture", "epochs=2")


@pytest.fixture
def demo(mhim: Callable[..., Any], embed_here: None, train_here: None, tmp_path: Path) -> Callable[..., Any]:
    return lambda *words: mhim("demo", f"out={tmp_path / 'demo'}", *QUICK, *words)


def test_the_demo_ends_with_its_evidence_and_a_second_run_makes_nothing_anew(
    demo: Callable[..., Any], tmp_path: Path
) -> None:
    ended = demo()
    assert ended.code == 0, ended
    out = tmp_path / "demo"
    assert [line[3:] for line in ended.out.splitlines() if line.startswith("── ")] == STEPS
    document = json.loads((out / "foci.json").read_bytes())
    summary = document["summary"]
    shown = [slide.shows for slide in read_truth((out / "slides/truth.json").read_bytes()).values()]
    assert summary["num"] == {"none": 6, "quiet": 4, "loud": 2}
    assert summary["num"]["quiet"] < shown.count(FociKind.quiet)  # one more is among the new slides
    assert set(summary["models"]) == {"plain", "mhim"}
    for model in summary["models"].values():
        figures = [value for group in model.values() for value in group.values()]
        assert all(0 <= value <= 1 for value in figures)
        assert len(figures) == 7
    assert all(line in ended.out for line in foci_lines(summary))
    page = (out / "foci.html").read_text()
    assert len(set(re.findall('src="(foci/slides/[^"]+)"', page))) == 6
    assert all((out / picture).is_file() for picture in re.findall('src="([^"]+)"', page))
    assert (out / "foci.jpg").read_bytes().startswith(b"\xff\xd8")

    def written() -> dict[Path, int]:
        files = (path for path in out.rglob("*") if path.is_file() and "reports" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in files}

    before = written()
    again = demo()
    assert again.code == 0, again
    assert written() == before
    assert all(line in again.out for line in foci_lines(summary))
