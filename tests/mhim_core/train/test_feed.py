"""Bags on their way into the step."""

import pytest
import torch

from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.train.feed import BagFeed
from mhim_core.train.plan import LabelledBag
from mhim_core.types import BagId

BAG = LabelledBag(BagId("bag-03"), 1)


def feed_of(bags, dtype: torch.dtype = torch.float32) -> BagFeed:  # type: ignore[no-untyped-def]
    return BagFeed(bags, 2, dtype, torch.device("cpu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_by_name(bags, value: float) -> None:  # type: ignore[no-untyped-def]
    bags.bags[BAG.bag_id][2, 3] = value
    with pytest.raises(IntegrityError, match=r"bag-03.*NaN"):
        feed_of(bags).read(BAG)


def test_a_bag_of_another_width_is_refused_by_name(bags) -> None:  # type: ignore[no-untyped-def]
    bags.bags[BAG.bag_id] = torch.zeros(4, 5)
    with pytest.raises(IntegrityError, match=r"bag-03.*\(4, 5\)"):
        feed_of(bags).read(BAG)


def test_absent_bags_and_another_dimension_are_refused_before_any_work(bags) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="missing-slide"):
        feed_of(bags).require([BAG, LabelledBag(BagId("missing-slide"), 0)], bags.dim)
    with pytest.raises(ConfigError, match="features per tile"):
        feed_of(bags).require([BAG], 1024)
    assert bags.reads == 0


def test_bags_come_in_the_fits_precision(bags) -> None:  # type: ignore[no-untyped-def]
    bag = feed_of(bags, torch.float64).read(BAG)
    assert bag.x_NF.dtype == torch.float64
    assert int(bag.label_index) == 1
