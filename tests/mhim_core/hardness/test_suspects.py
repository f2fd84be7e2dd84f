"""Points judged in held-out spaces, and the list of suspect labels."""

import numpy as np
import pytest

from mhim_core.hardness.hardness_type import HardnessType
from mhim_core.hardness.neighbours import Points, find_neighbours
from mhim_core.hardness.spaces import HeldOutSpace, judge_in_spaces
from mhim_core.hardness.suspects import confidently_wrong, judge

NUM, K = 30, 6
PATIENTS = [f"p{row}" for row in range(NUM)]
LABELS = np.arange(NUM) % 2


def space(fold: int, held_out: range, seed: int = 0, shift: float = 6.0) -> HeldOutSpace:
    """Two clouds by label; logits in favour of the label."""
    random = np.random.default_rng([fold, seed])
    x_ND = random.normal(size=(NUM, 4)) + shift * LABELS[:, None]
    is_held_out = np.isin(np.arange(NUM), held_out)
    logits_NC = np.stack([1.0 - LABELS, LABELS], axis=1) * 4.0
    return HeldOutSpace(fold, np.arange(NUM), x_ND, is_held_out, logits_NC)


def test_a_bag_is_judged_by_the_model_that_held_it_out_alone() -> None:
    first, second = space(0, range(15)), space(1, range(15, NUM))
    judged = judge_in_spaces([first, second], LABELS, PATIENTS, K)
    turned = second._replace(x_MD=second.x_MD[:, ::-1] * 3, logits_MC=-second.logits_MC)
    other = judge_in_spaces([first, turned], LABELS, PATIENTS, K)
    assert (judged.num_models_N == 1).all()
    assert judged.fold_N.tolist() == [0] * 15 + [1] * 15
    assert (judged.probability_NC[:15] == other.probability_NC[:15]).all()
    assert (judged.probability_NC[15:] != other.probability_NC[15:]).all()
    assert judged.nearest[:15] == other.nearest[:15]
    own = Points(first.x_MD, LABELS, PATIENTS)
    assert judged.num_same_N[:15].tolist() == find_neighbours(own, own, K).num_same_Q[:15].tolist()


def test_several_models_count_by_their_mean_and_unjudged_bags_have_no_figure() -> None:
    spaces = [space(0, range(10), seed, shift=1.0) for seed in range(3)]
    judged = judge_in_spaces(spaces, LABELS, PATIENTS, K)
    each = [judge_in_spaces([one], LABELS, PATIENTS, K) for one in spaces]
    assert judged.num_same_N[:10] == pytest.approx(np.mean([one.num_same_N[:10] for one in each], axis=0))
    assert judged.judged_rows.tolist() == list(range(10))
    assert np.isnan(judged.num_same_N[10:]).all()
    assert judged.nearest[:10] == each[0].nearest[:10]


def test_a_flipped_label_leads_the_list_and_is_suspect() -> None:
    given = LABELS.copy()
    given[7] = 1 - given[7]
    judged = judge_in_spaces([space(0, range(NUM))], given, PATIENTS, K)
    judgement = judge(judged.probability_NC, given, judged.num_same_N, K)
    assert judgement.order[0] == 7
    assert np.flatnonzero(judgement.is_suspect_N).tolist() == [7]
    assert judgement.types[7] is HardnessType.outlier
    own = judged.probability_NC[7, given[7]]
    assert judgement.suspicion_N[7] == pytest.approx((1 - own + 1 - judged.num_same_N[7] / (K - 1)) / 2)


def test_confidently_wrong_is_measured_by_each_class_s_own_confidence() -> None:
    """Class 1 is never given more than .4: of it .4 is confident; of class 0, .9 is not less than usual."""
    label_N = np.array([0, 0, 0, 1, 1])
    probability_N = np.array([0.1, 0.1, 0.4, 0.4, 0.3])
    wrong = confidently_wrong(np.stack([1 - probability_N, probability_N], axis=1), label_N)
    assert wrong.tolist() == [False, False, True, False, False]


def test_a_class_without_a_point_is_no_candidate() -> None:
    probability_NC = np.array([[0.2, 0.7, 0.1], [0.9, 0.05, 0.05]])
    assert confidently_wrong(probability_NC, np.array([0, 0])).tolist() == [False, False]
