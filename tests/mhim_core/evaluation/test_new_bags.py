"""New bags are judged by the very protocol of held-out ones."""

import json

import pytest

from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import class_probabilities
from mhim_core.evaluation.new_bags import Chosen, summarise_new
from mhim_core.evaluation.row_metrics import Bootstrap
from mhim_core.evaluation.summary import summarise
from mhim_core.fingerprint import canonical_json

QUICK = Bootstrap(100)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "survival", "regression"])
def test_the_numbers_are_those_of_a_fold_that_holds_out_the_same_bags(make, kind):
    data = make(kind, sites=("north", "south", ""))
    rows = [row._replace(fold=0) for row in data.test]
    train = [target for targets in data.train_targets.values() for target in targets]
    summary = summarise_new(data.test, data.task, train_targets=train, bootstrap=QUICK)
    document = summarise(rows, [], data.task, train_targets={0: train}, replicates=100)
    expected = document["models"]["mhim"]
    plain = json.loads(canonical_json(summary))
    assert plain["estimates"] == expected["pooled"]
    for key in ("num_bags", "num_patients", "num_bags_without_site", "replicates", "bootstrap_seed", "uno_tau"):
        assert plain[key] == document[key]
    assert set(plain["sites"]) == {"north", "south"}
    for site, figures in plain["sites"].items():
        assert figures["estimates"] == expected["sites"][site]["pooled"]
        assert (figures["num_bags"], figures["num_patients"]) == (20, 20)
    assert "sites" not in summarise_new(make(kind).test, data.task, bootstrap=QUICK)


def test_choices_are_looked_up_by_bag_in_any_order(make):
    data = make("binary", sites=("north", "south"))
    probability = dict(
        zip([row.bag_id for row in data.test], class_probabilities(data.test, 2.0).tolist(), strict=True)
    )
    decided = {row.bag_id: int(row.probabilities[1] >= 0.2) for row in data.test}
    summary = summarise_new(data.test, data.task, chosen=Chosen(probability, decided), bootstrap=QUICK)
    again = summarise_new(data.test[::-1], data.task, chosen=Chosen(probability, decided), bootstrap=QUICK)
    assert summary == again
    halved = [row._replace(logits=tuple(logit / 2 for logit in row.logits)) for row in data.test]
    cool = summarise_new(halved, data.task, bootstrap=QUICK)
    for name, estimate in summary["calibration"]["after"].items():
        assert estimate == pytest.approx(cool["estimates"][name], abs=1e-12)
    true_positives = sum(decided[row.bag_id] for row in data.test if row.target.class_index == 1)
    num_positive = sum(row.target.class_index for row in data.test)
    assert summary["thresholded"]["sensitivity"].value == pytest.approx(true_positives / num_positive)
    for part in summary["sites"].values():
        assert part["thresholded"]["sensitivity"].value is not None


def test_without_choices_they_are_null_and_say_so(make):
    summary = summarise_new(make("binary").test, make("binary").task, bootstrap=QUICK)
    assert "no temperature" in summary["calibration"]["after"]["brier"].reason
    assert "no threshold" in summary["thresholded"]["accuracy"].reason


def test_a_bag_that_is_there_twice_is_refused(make):
    data = make("binary")
    with pytest.raises(InputError, match="bag s000 is held out twice"):
        summarise_new([*data.test, data.test[0]], data.task, bootstrap=QUICK)
