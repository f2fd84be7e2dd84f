import math

import numpy as np
import pytest

from mhim_core.evaluation.localisation import attention_dice, most_of_top, share_of_top


def test_dice_is_one_where_attention_covers_the_foci_and_zero_where_it_covers_none() -> None:
    share = np.array([1.0, 1, 0, 0])
    assert attention_dice([0.5, 0.5, 0, 0], share) == 1
    assert attention_dice([0, 0, 0.5, 0.5], share) == 0
    assert attention_dice([0.6, 0.2, 0.1, 0.1], share) == pytest.approx(2 / 3)  # one attended, two inside
    assert attention_dice([0.4, 0.4, 0.1, 0.1], [0.5, 0.5, 0, 0]) == pytest.approx(2 / 3)  # areas, not tiles


def test_dice_asks_for_more_than_an_even_share_whatever_attention_sums_to() -> None:
    share = np.array([1.0, 0, 0, 0])
    assert attention_dice([5, 1, 1, 1], share) == attention_dice([0.5, 0.1, 0.1, 0.1], share) == 1
    assert attention_dice([0.25, 0.25, 0.25, 0.25], share) == 0
    assert math.isnan(attention_dice([0.5, 0.5], [0.0, 0.0]))


def test_the_top_ten_are_the_most_attended_and_a_quarter_of_a_tile_is_inside() -> None:
    attention = np.arange(20.0)
    share = np.zeros(20)
    share[10:13], share[13], share[0] = 0.25, 0.24, 1
    assert share_of_top(attention, share) == pytest.approx(0.3)
    assert most_of_top(share) == pytest.approx(0.4)
    assert share_of_top([1.0, 1.0, 1.0], [1, 0, 0], num=1) == 1  # ties by the lower index
    assert share_of_top([1.0, 2.0], [1, 1]) == most_of_top([1, 1]) == 1  # fewer tiles than ten


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N,\)"):
        attention_dice([0.5, 0.5], [1.0])
