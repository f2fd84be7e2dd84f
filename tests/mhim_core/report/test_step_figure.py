"""The figure of a flow's steps: drawn from any state, the same bytes for the same steps."""

import pytest

from mhim_core.report.step_figure import StepBar, step_figure

BARS = [
    StepBar("embed", "done", 12.5),
    StepBar("train", "failed", 300.25),
    StepBar("judge", "started", None),
    StepBar("report", "missing", None),
]


def test_the_same_steps_give_the_same_picture_and_others_another() -> None:
    assert step_figure(BARS) == step_figure(list(BARS))
    assert step_figure(BARS)[:4] == b"\x89PNG"
    assert step_figure(BARS) != step_figure([BARS[0]._replace(seconds=99.0), *BARS[1:]])
    assert step_figure(BARS) != step_figure([BARS[0]._replace(state="failed"), *BARS[1:]])


@pytest.mark.parametrize("seconds", [None, 0.0, 1e-3, 1e7])
def test_a_step_of_any_length_is_drawn(seconds: float | None) -> None:
    assert step_figure([StepBar("embed", "done", seconds)])
