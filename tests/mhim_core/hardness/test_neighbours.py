"""Types by nearest neighbours: who counts as one, and what a count means."""

import numpy as np
import pytest

from mhim_core.errors import ConfigError, InputError
from mhim_core.hardness.hardness_type import HardnessType, TypeWeights, type_of
from mhim_core.hardness.neighbours import Points, find_neighbours, standardise, types_among


def points(x: object, labels: object, patients: object = None) -> Points:
    x_ND = np.asarray(x, dtype=np.float64).reshape(len(np.asarray(x)), -1)
    own = [f"p{row}" for row in range(len(x_ND))] if patients is None else list(patients)  # type: ignore[call-overload]
    return Points(x_ND, np.asarray(labels), own)


@pytest.mark.parametrize(
    ("k", "types"),
    [
        (5, {4: "safe", 3: "borderline", 2: "rare", 1: "rare", 0: "outlier"}),
        (10, {9: "safe", 8: "safe", 7: "borderline", 5: "borderline", 4: "rare", 2: "rare", 1: "outlier"}),
        (7, {6: "safe", 5.5: "borderline", 3.5: "borderline", 3: "rare", 1.4: "rare", 1: "outlier"}),
    ],
)
def test_a_type_is_the_share_of_k_that_the_others_of_the_same_label_are(k: int, types: dict[float, str]) -> None:
    assert {num: type_of(num, k).value for num in types} == types


def test_in_the_midst_of_its_own_a_point_is_safe_and_among_others_an_outlier() -> None:
    x = [*np.arange(8) * 0.1, *(100 + np.arange(8) * 0.1)]
    labels = [0] * 8 + [1] * 7 + [0]
    types = types_among(points(x, labels), 7)
    assert types[:8] == [HardnessType.safe] * 8
    assert types[-1] is HardnessType.outlier


def test_neighbours_are_the_nearest_by_brute_force_on_standardised_features() -> None:
    random = np.random.default_rng(0)
    x_ND, labels = random.normal(size=(40, 3)) * [1, 100, 0.01], random.integers(0, 3, 40)
    scaled_ND = (x_ND - x_ND.mean(axis=0)) / x_ND.std(axis=0)
    found = find_neighbours(points(x_ND, labels), points(x_ND, labels), 6)
    for row in range(40):
        distance_N = np.linalg.norm(scaled_ND - scaled_ND[row], axis=1)
        distance_N[row] = np.inf
        nearest = np.argsort(distance_N)[:5]
        assert found.nearest_QK[row].tolist() == nearest.tolist()
        assert found.num_same_Q[row] == (labels[nearest] == labels[row]).sum()


def test_slides_of_the_same_patient_do_not_vouch_for_each_other() -> None:
    x = [0, 0, 0, 0, 0, 0, *range(5, 12)]
    labels = [1] * 6 + [0] * 7
    alone = points(x, labels)
    together = points(x, labels, ["same"] * 6 + [f"p{i}" for i in range(7)])
    assert types_among(alone, 6)[0] is HardnessType.safe
    assert types_among(together, 6)[0] is HardnessType.outlier


def test_equal_distances_go_by_the_order_of_the_reference() -> None:
    x = [0.0] * 9
    assert find_neighbours(points(x, range(9)), points(x, range(9)), 5).nearest_QK[8].tolist() == [0, 1, 2, 3]


def test_a_constant_feature_says_nothing() -> None:
    x_ND = np.array([[0.1, 1.0], [0.1, 3.0]])
    assert standardise(x_ND, x_ND)[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize(("k", "num"), [(4, 20), (7, 6)])
def test_too_few_neighbours_are_refused(k: int, num: int) -> None:
    with pytest.raises(InputError):
        types_among(points(range(num), [0] * num), k)


def test_weights_by_type_read_as_they_are_written() -> None:
    weights = TypeWeights.parse("outlier:0, rare:2.5")
    assert [weights.of(kind) for kind in HardnessType] == [1, 1, 2.5, 0]
    assert TypeWeights.parse(str(weights)) == weights
    assert TypeWeights.parse("").is_even
    assert TypeWeights.parse("safe:2,borderline:2,rare:2,outlier:2").is_even


@pytest.mark.parametrize(
    "text", ["hard:2", "rare", "rare:x", "rare:-1", "rare:nan", "rare:1,rare:2", "safe:0,borderline:0,rare:0,outlier:0"]
)
def test_what_are_no_weights_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        TypeWeights.parse(text)
