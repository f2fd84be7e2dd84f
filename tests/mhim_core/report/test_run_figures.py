"""A run's figures: those of its task, none of what is undefined, the same bytes each time."""

import io

import pytest
from PIL import Image

from mhim_core.evaluation.summary import summarise
from mhim_core.metrics import auroc
from mhim_core.report import run_figures as module
from mhim_core.report.figures import FitCurve
from mhim_core.report.run_figures import run_figures

FITS = [FitCurve("plain", 2021, fold, [0.7, 0.5], [0.6, 0.8], 1) for fold in range(3)]
TITLES = {
    "binary": ["ROC", "Scores", "Calibration", "Training"],
    "multiclass": ["ROC", "Scores", "Calibration", "Training"],
    "survival": ["Risk groups", "Training"],
    "regression": ["Predicted and true", "Training"],
}


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("kind", TITLES)
def test_every_task_has_its_figures(evaluated, kind, seeds):
    figures = list(run_figures(evaluated(kind, seeds=seeds, unit="patient"), FITS, "auroc"))
    assert [figure.title for figure in figures] == TITLES[kind]
    for figure in figures:
        assert min(Image.open(io.BytesIO(figure.image)).size) > 200
    assert any("patient" in figure.caption for figure in figures)
    assert ("seed" in " ".join(figure.caption.lower() for figure in figures)) == (seeds > 1)
    again = list(run_figures(evaluated(kind, seeds=seeds, unit="patient"), FITS, "auroc"))
    assert again == figures


def test_held_out_bags_of_one_class_have_no_roc_curve_but_the_rest(evaluated):
    run = evaluated("binary")
    rows = [row for row in run.test_rows if row.target.class_index == 1]
    figures = run_figures(run._replace(test_rows=rows), FITS, "auroc")
    assert [figure.title for figure in figures] == ["Scores", "Calibration", "Training"]


def test_a_fit_without_temperature_leaves_the_probabilities_as_they_are(evaluated, monkeypatch):
    run = evaluated("binary")
    drawn = []
    monkeypatch.setattr(module, "reliability_figure", lambda truth, before, after: drawn.append(after) or b"")
    list(run_figures(run, FITS, "auroc"))
    run.metrics["models"]["mhim"]["calibration"]["fits"][1]["value"] = None
    list(run_figures(run, FITS, "auroc"))
    assert drawn[0].shape == (24, 2)
    assert drawn[1] is None


def test_risks_without_validation_have_no_groups_to_draw(evaluated):
    figures = run_figures(evaluated("survival")._replace(validation_rows=[]), FITS, "harrell_c")
    assert [figure.title for figure in figures] == ["Training"]


def test_the_training_figure_is_named_by_what_chose_the_epoch(evaluated, monkeypatch):
    titles = []
    monkeypatch.setattr(module, "training_figure", lambda curves, title: titles.append(title) or b"")
    for selected_by in ("auroc", "harrell_c", "loss"):
        list(run_figures(evaluated("regression"), FITS, selected_by))
    assert titles == ["Validation AUROC", "Validation Harrell's C", "Validation loss"]


def held_out_again(run):
    """The first of its folds once more, as another."""
    again = {
        name: [*rows, *(row._replace(fold=3) for row in rows if row.fold == 0)]
        for name, rows in (("test_rows", run.test_rows), ("validation_rows", run.validation_rows))
    }
    metrics = summarise(again["test_rows"], again["validation_rows"], run.task, replicates=20)
    return run._replace(**again, metrics=metrics | {"reported": "mhim"})


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "survival"])
def test_bags_that_several_folds_hold_out_leave_what_needs_no_pooling(evaluated, kind):
    figures = list(run_figures(held_out_again(evaluated(kind, seeds=2)), FITS, "auroc"))
    assert [figure.title for figure in figures] == [title for title in TITLES[kind] if title != "Risk groups"]
    if kind == "binary":
        assert "thin: single fits, thick: their mean" in figures[0].caption


def test_the_roc_curves_of_repeated_folds_are_those_of_fits_with_both_classes(evaluated, monkeypatch):
    run = held_out_again(evaluated("binary"))
    rows = [row for row in run.test_rows if row.fold != 1 or row.target.class_index == 1]
    drawn = []
    monkeypatch.setattr(module, "roc_figure", lambda series: drawn.extend(series) or b"")
    list(run_figures(run._replace(test_rows=rows), FITS, "auroc"))
    assert [len(curves.pooled) for curves in drawn] == [3, 3]
    assert all(curves.estimate.value is None for curves in drawn)


def test_roc_curves_rank_by_logits_where_probabilities_are_all_one(evaluated, monkeypatch):
    run = evaluated("binary")
    rows = [row._replace(logits=(0.0, 40.0 + int(row.bag_id[1:]))) for row in run.test_rows]
    drawn = []
    monkeypatch.setattr(module, "roc_figure", lambda series: drawn.extend(series) or b"")
    list(run_figures(run._replace(test_rows=rows), FITS, "auroc"))
    for curves in drawn:
        assert auroc(*curves.pooled[0]) == 1.0
