"""Bags on their way into the step."""

from collections.abc import Callable

import pytest
import torch

from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.task import ClassTarget
from mhim_core.train.feed import BagFeed
from mhim_core.train.fit_options import Precision
from mhim_core.train.plan import LabelledBag, TrainPlan
from mhim_core.train.preparation import make_setup
from mhim_core.types import BagId

BAG = LabelledBag(BagId("bag-03"), ClassTarget(1))


@pytest.fixture
def feed_of(plan_of: Callable[..., TrainPlan]) -> Callable[..., BagFeed]:
    def make(bags, **fit: object) -> BagFeed:  # type: ignore[no-untyped-def]
        plan = plan_of(**fit)
        return BagFeed(bags, make_setup(plan, plan.fits[0]), torch.device("cpu"))

    return make


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_by_name(bags, feed_of, value: float) -> None:  # type: ignore[no-untyped-def]
    bags.bags[BAG.bag_id][2, 3] = value
    with pytest.raises(IntegrityError, match=r"bag-03.*NaN"):
        feed_of(bags).read(BAG)


def test_a_bag_of_another_width_is_refused_by_name(bags, feed_of) -> None:  # type: ignore[no-untyped-def]
    bags.bags[BAG.bag_id] = torch.zeros(4, 5)
    with pytest.raises(IntegrityError, match=r"bag-03.*\(4, 5\)"):
        feed_of(bags).read(BAG)


def test_absent_bags_and_another_dimension_are_refused_before_any_work(bags, feed_of) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="missing-slide"):
        feed_of(bags).require([BAG, LabelledBag(BagId("missing-slide"), ClassTarget(0))])
    bags.dim, narrow = 1024, feed_of(bags)
    with pytest.raises(ConfigError, match="features per tile"):
        narrow.require([BAG])
    assert bags.reads == 0


def test_bags_come_in_the_fits_precision(bags, feed_of) -> None:  # type: ignore[no-untyped-def]
    bag = feed_of(bags, precision=Precision.float64).read(BAG)
    assert bag.x_NF.dtype == torch.float64
    assert int(bag.label.category) == 1
