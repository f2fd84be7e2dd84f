"""What is derived from logits, and which rows belong together."""

import math

import numpy as np
import pytest

from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import HeldOut, by_fit, by_seed, class_probabilities, risks
from mhim_core.task import ClassTarget, SurvivalTarget, ValueTarget

ROW = HeldOut("mhim", 1, 0, "s1", "p1", None, ClassTarget(1), (0.0, math.log(3)))


def test_probabilities_are_the_softmax_at_any_size_of_logits():
    assert ROW.probabilities == pytest.approx((0.25, 0.75))
    huge = ROW._replace(logits=(1e4, -1e4))
    assert huge.probabilities == (1.0, 0.0)
    both = class_probabilities([ROW, ROW], np.array([1.0, 1e9]))
    np.testing.assert_allclose(both, [[0.25, 0.75], [0.5, 0.5]], atol=1e-6)


def test_risk_is_minus_the_sum_of_the_survival_curve():
    logits = (0.3, -1.2, 2.0, 0.1)
    hazards = [1 / (1 + math.exp(-logit)) for logit in logits]
    survival = np.cumprod([1 - hazard for hazard in hazards])
    row = ROW._replace(logits=logits, target=SurvivalTarget(3.0, True))
    assert row.risk == pytest.approx(-survival.sum(), abs=1e-12)
    assert risks([row._replace(logits=(-1e3,) * 4)])[0] == -4.0
    assert risks([row._replace(logits=(1e3,) * 4)])[0] == 0.0


def test_a_number_is_given_as_it_is():
    assert ROW._replace(logits=(17.5,), target=ValueTarget(20.0)).value == 17.5


def test_rows_are_grouped_by_fit_and_by_seed_and_sorted_by_bag():
    rows = [ROW._replace(seed=seed, fold=fold, bag_id=f"s{fold}") for seed in (2, 1) for fold in (1, 0)]
    assert [tuple(fit) for fit in by_fit(rows)] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert {seed: [row.bag_id for row in seed_rows] for seed, seed_rows in by_seed(rows).items()} == {
        1: ["s0", "s1"],
        2: ["s0", "s1"],
    }


def test_seeds_must_hold_out_the_same_bags_once():
    with pytest.raises(InputError, match="bag s1 is held out twice by mhim, seed 1"):
        by_seed([ROW, ROW._replace(fold=2)])
    with pytest.raises(InputError, match=r"the same bags: 1 only in seed 1 \(s1\), 1 only in seed 2 \(s2\)"):
        by_seed([ROW, ROW._replace(seed=2, bag_id="s2")])
    other = ROW._replace(seed=2, target=ClassTarget(0), patient_id="p2")
    with pytest.raises(InputError, match=r"s1: class 1 in seed 1, class 0 in seed 2.*s1: p1 in seed 1, p2 in seed 2"):
        by_seed([ROW, other])
