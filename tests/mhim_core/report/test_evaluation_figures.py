"""Figures of an evaluation: deterministic, with the numbers that lifelines gives, odd input does not break them."""

import io

import numpy as np
import pytest
from PIL import Image

from mhim_core import metrics
from mhim_core.evaluation.comparison import Difference
from mhim_core.metrics import LogRank
from mhim_core.report import evaluation_figures
from mhim_core.report.evaluation_figures import FollowedGroup, comparison_figure, reliability_figure, survival_figure

GROUPS = (
    FollowedGroup("high risk", [1.0, 2.0, 2.0, 5.0, 7.5], [1, 1, 0, 1, 1]),
    FollowedGroup("low risk", [3.0, 6.0, 9.0, 11.0], [0, 1, 0, 1]),
)
PROBABILITY = np.stack([1 - np.linspace(0, 1, 40), np.linspace(0, 1, 40)], axis=1)
TRUTH = (np.linspace(0, 1, 40) + np.tile([0.2, -0.2], 20) > 0.5).astype(int)


def difference(metric="auroc", a="mhim", b="plain", **changes) -> Difference:
    row = Difference(metric, a, b, 0.9, 0.8, 0.1, 0.02, 0.18, None, "paired bootstrap", 0, "")
    return row._replace(**changes)


UNDEFINED = difference("kappa", difference=None, low=None, high=None, reason="all 3 slides are of class 1")


def ink(png: bytes) -> float:
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert min(image.shape) > 100
    return float((image < 200).mean())


def drawn_axes(monkeypatch, draw):
    """The axes that a figure was made of."""
    kept = []
    original = evaluation_figures.png_bytes
    monkeypatch.setattr(evaluation_figures, "png_bytes", lambda figure: kept.append(figure) or original(figure))
    draw()
    return kept[0].axes


def test_figures_have_ink_and_the_same_bytes_each_time():
    def all_of_them() -> list[bytes]:
        return [
            survival_figure(GROUPS, LogRank(3.2, 1, 0.07), "Months"),
            reliability_figure(TRUTH, PROBABILITY, PROBABILITY**2 / (PROBABILITY**2).sum(axis=1, keepdims=True)),
            comparison_figure([difference(), difference("brier", low=-0.1), UNDEFINED]),
        ]

    first = all_of_them()
    assert all(0.002 < ink(png) < 0.5 for png in first)
    assert all_of_them() == first
    assert not any(b"Software" in png or b"Creation" in png for png in first)


def test_the_survival_curve_is_kaplan_meiers_by_hand(monkeypatch):
    curve, table = drawn_axes(monkeypatch, lambda: survival_figure(GROUPS, LogRank(3.2, 1, 0.07)))
    steps = curve.lines[0]
    assert list(steps.get_xdata()) == [0.0, 1.0, 2.0, 5.0, 7.5]
    # 5 at risk, 1 dies; 4 at risk, 1 dies (one is censored); 2 at risk, 1 dies; the last dies
    np.testing.assert_allclose(steps.get_ydata(), [1.0, 0.8, 0.6, 0.3, 0.0])
    assert any(text.get_text() == "log-rank p = 0.07" for text in curve.texts)
    numbers = [int(text.get_text()) for text in table.texts]
    ticks = [text.get_position()[0] for text in table.texts]
    high = [number for number, text in zip(numbers, table.texts, strict=True) if text.get_position()[1] == 0]
    assert high == [sum(time >= tick for time in GROUPS[0].time) for tick in ticks[: len(high)]]
    assert high[0] == 5


def test_a_tiny_p_and_a_missing_test_and_an_empty_group_are_drawn(monkeypatch):
    axes = drawn_axes(monkeypatch, lambda: survival_figure(GROUPS, LogRank(99.0, 1, 1e-9)))
    assert any("p < 0.0001" in text.get_text() for text in axes[0].texts)
    ink(survival_figure([*GROUPS, FollowedGroup("nobody", [], [])]))
    ink(survival_figure([FollowedGroup("one", [3.0], [False])]))
    with pytest.raises(ValueError, match="no group has a patient"):
        survival_figure([FollowedGroup("nobody", [], [])])


def test_zero_lies_in_the_middle_and_only_intervals_without_it_are_coloured(monkeypatch):
    members = [difference(), difference(b="teacher", low=-0.05), UNDEFINED, difference("brier", low=None, high=None)]
    panels = drawn_axes(monkeypatch, lambda: comparison_figure(members))
    assert len(panels) == 3
    for panel in panels:
        low, high = panel.get_xlim()
        assert low == -high
    zero, first, _, second, _ = panels[0].lines
    assert list(zero.get_xdata()) == [0, 0]
    assert first.get_color() != second.get_color()
    assert any("all 3 slides" in text.get_text() for text in panels[1].texts)


@pytest.mark.parametrize("name", ["$x_{", "a\nb", "腫瘍", "x" * 300, "<b>", "", "_x"])
def test_untrusted_names_are_drawn_as_text(name):
    ink(comparison_figure([difference(a=name)]))
    ink(survival_figure([GROUPS[0]._replace(name=name)], time_label=name))


def test_no_differences_are_refused():
    with pytest.raises(ValueError, match="no difference"):
        comparison_figure([])


def test_the_reliability_diagram_has_the_bins_of_the_calibration_error(monkeypatch):
    from mhim_core.report import evaluation_figures as module

    asked = []

    def curve(truth, probability, num_bins):
        asked.append(num_bins)
        return metrics.reliability_curve(truth, probability, num_bins)

    monkeypatch.setattr(module, "reliability_curve", curve)
    module.reliability_figure([0, 1], [[0.9, 0.1], [0.3, 0.7]])
    assert asked == [metrics.NUM_CALIBRATION_BINS]
