"""Figures: the same numbers give the same bytes, odd input does not break them."""

import io

import numpy as np
import pytest
from PIL import Image

from mhim_core.metrics import Estimate, UndefinedMetricError
from mhim_core.report.figures import (
    FitCurve,
    RocSeries,
    Scores,
    calibration_figure,
    roc_figure,
    score_figure,
    training_figure,
)

TRUTH = [0, 1, 0, 1, 1, 0]
SCORE = [0.1, 0.8, 0.4, 0.35, 0.9, 0.6]
COLUMNS = np.stack([1 - np.array(SCORE), SCORE], axis=1)
SERIES = RocSeries("MHIM", Scores(TRUTH, SCORE), (Scores([0, 1], [0.2, 0.1]), Scores([1, 1], [0.2, 0.1])))


def ink(png: bytes) -> float:
    """Share of the picture that is not white."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert min(image.shape) > 200
    return float((image < 200).mean())


def figures() -> list[bytes]:
    curves = [
        FitCurve(stage, fold, [0.7, 0.5, 0.4], [None, 0.6, 0.8], 2) for stage in ("plain", "mhim") for fold in (0, 1)
    ]
    return [
        roc_figure([SERIES._replace(estimate=Estimate(0.9, 0.8, 1.0))]),
        training_figure(curves),
        score_figure(TRUTH, COLUMNS, ("normal", "tumour")),
        calibration_figure(TRUTH, COLUMNS),
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
    ink(training_figure([FitCurve("plain", 0, [0.7], [None], 0)]))


def test_a_pooled_curve_of_one_class_is_undefined():
    with pytest.raises(UndefinedMetricError):
        roc_figure([RocSeries("x", Scores([1, 1], [0.1, 0.2]))])
