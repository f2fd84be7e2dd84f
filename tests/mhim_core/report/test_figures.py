"""Figures: the same numbers give the same bytes, odd input does not break them."""

import io

import numpy as np
import pytest
from PIL import Image

from mhim_core.metrics import Estimate, UndefinedMetricError, auroc, roc_curve
from mhim_core.report import figures as figures_module
from mhim_core.report.figures import (
    FitCurve,
    RocSeries,
    Scores,
    mean_roc,
    roc_figure,
    scatter_figure,
    score_figure,
    training_figure,
)

TRUTH = [0, 1, 0, 1, 1, 0]
SCORE = [0.1, 0.8, 0.4, 0.35, 0.9, 0.6]
COLUMNS = np.stack([1 - np.array(SCORE), SCORE], axis=1)
SERIES = RocSeries("MHIM", (Scores(TRUTH, SCORE),), (Scores([0, 1], [0.2, 0.1]), Scores([1, 1], [0.2, 0.1])))


def ink(png: bytes) -> float:
    """Share of the picture that is not white."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert min(image.shape) > 200
    return float((image < 200).mean())


def figures() -> list[bytes]:
    curves = [
        FitCurve(stage, seed, fold, [0.7, 0.5, 0.4], [None, 0.6, 0.8], 2)
        for stage in ("plain", "mhim")
        for seed in (2021, 2022)
        for fold in (0, 1)
    ]
    return [
        roc_figure([SERIES._replace(estimate=Estimate(0.9, 0.8, 1.0))]),
        training_figure(curves),
        score_figure(TRUTH, COLUMNS, ("normal", "tumour")),
        scatter_figure([1.0, 250.0, 80.0], [40.0, 200.0, 85.0], [3.0, 4.0, 0.0], "MAE 31"),
    ]


def test_figures_have_ink_and_the_same_bytes_each_time():
    first = figures()
    assert all(0.002 < ink(png) < 0.5 for png in first)
    assert figures() == first
    assert not any(b"Software" in png or b"Creation" in png for png in first)


def test_the_users_matplotlib_settings_do_not_change_a_figure():
    import matplotlib

    expected = roc_figure([SERIES])
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        assert roc_figure([SERIES]) == expected
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize("name", ["$x_{", "a\nb", "腫瘍", "x" * 300, "<b>", "", "_x"])
def test_untrusted_labels_are_drawn_as_text(name):
    ink(score_figure(TRUTH, COLUMNS, ("normal", name)))
    ink(roc_figure([SERIES._replace(name=name)]))


def test_several_classes_and_an_empty_class_are_drawn():
    ink(score_figure([0, 1, 1], np.full((3, 3), 1 / 3), ("a", "b", "c")))


def test_a_single_epoch_and_an_undefined_metric_are_drawn():
    ink(training_figure([FitCurve("plain", 2021, 0, [0.7], [None], 0)]))


def test_a_pooled_curve_of_one_class_is_undefined():
    with pytest.raises(UndefinedMetricError):
        roc_figure([RocSeries("x", (Scores([1, 1], [0.1, 0.2]),))])


def test_the_mean_curves_area_is_the_mean_of_the_areas():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 30)
    scores = [np.round(truth * 0.3 + draw.random(30), 1) for _ in range(4)]  # rounded: ties make slopes
    mean = mean_roc([roc_curve(truth, score) for score in scores])
    assert np.trapezoid(mean.true_positive_rate, mean.false_positive_rate) == pytest.approx(
        np.mean([auroc(truth, np.stack([1 - score, score], axis=1)) for score in scores])
    )
    assert (np.diff(mean.false_positive_rate) >= 0).all()
    assert (np.diff(mean.true_positive_rate) >= -1e-12).all()
    assert (mean.true_positive_rate[0], mean.true_positive_rate[-1]) == (0, 1)


def drawn_axes(monkeypatch, draw):
    """The axes that a figure was made of."""
    kept = []
    original = figures_module.png_bytes
    monkeypatch.setattr(figures_module, "png_bytes", lambda figure: kept.append(figure) or original(figure))
    draw()
    return kept[0].axes


def test_a_loss_is_not_squeezed_into_zero_to_one_and_folds_keep_their_colour_over_seeds(monkeypatch):
    curves = [FitCurve("plain", seed, fold, [9.0, 7.0], [25.0, 20.0], 1) for seed in (1, 2) for fold in (0, 1)]
    upper, lower = drawn_axes(monkeypatch, lambda: training_figure(curves, "Validation loss"))
    assert lower.get_ylim()[1] > 20
    assert lower.get_ylabel() == "Validation loss"
    lines = [line for line in upper.lines if len(line.get_xdata()) == 2]
    assert [line.get_color() for line in lines[:2]] == [line.get_color() for line in lines[2:]]
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["fold 0", "fold 1"]


def test_true_and_predicted_numbers_share_their_scale(monkeypatch):
    (axes,) = drawn_axes(monkeypatch, lambda: scatter_figure([5.0, 5.0], [5.0, 5.0]))
    assert axes.get_xlim() == axes.get_ylim() == (4.5, 5.5)
    (axes,) = drawn_axes(monkeypatch, lambda: scatter_figure([0.0, 100.0], [50.0, 200.0]))
    assert axes.get_xlim() == axes.get_ylim() == (-10.0, 210.0)
    with pytest.raises(ValueError, match="no bag"):
        scatter_figure([], [])
