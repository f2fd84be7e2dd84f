"""Bags on their way into the step."""

import threading
from collections.abc import Callable

import pytest
import torch

from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.task import ClassTarget
from mhim_core.train.feed import BagFeed, one_ahead
from mhim_core.train.fit_options import Precision
from mhim_core.train.plan import LabelledBag, TrainPlan
from mhim_core.train.preparation import make_setup
from mhim_core.train.sampler import Sampled
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


class HalfBags:
    """The float32 source's bags as float16."""

    def __init__(self, bags) -> None:  # type: ignore[no-untyped-def]
        self.dim, self._bags = bags.dim, bags

    def lengths(self) -> dict[BagId, int]:
        return self._bags.lengths()

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self.read_half(bag_id).float()

    def read_half(self, bag_id: BagId) -> torch.Tensor:
        return self._bags.bags[bag_id].half()


@pytest.mark.parametrize("precision", Precision)
def test_float16_features_reach_the_step_as_the_same_numbers(bags, feed_of, precision: Precision) -> None:  # type: ignore[no-untyped-def]
    half = HalfBags(bags)
    bags.bags = {bag_id: features.half().float() for bag_id, features in bags.bags.items()}
    feeds = [feed_of(source, precision=precision, max_instances=4) for source in (bags, half)]
    plain, stored = (feed.draw(Sampled(BAG), epoch=2).x_NF for feed in feeds)
    assert plain.dtype == stored.dtype
    assert plain.shape[0] == 4
    assert torch.equal(plain, stored)
    half._bags.bags[BAG.bag_id][2, 3] = float("inf")
    with pytest.raises(IntegrityError, match=r"bag-03.*NaN"):
        feed_of(half).read(BAG)


def test_the_next_turn_is_prepared_while_the_caller_works_and_no_further() -> None:
    prepared: list[int] = []
    arrived = threading.Event()

    def prepare(turn: int) -> int:
        prepared.append(turn)
        arrived.set()
        return 10 * turn

    ahead = one_ahead(range(4), prepare)
    assert next(ahead) == 0
    for turn in (1, 2):
        arrived.wait(10)
        arrived.clear()
        assert next(ahead) == 10 * turn
    assert list(ahead) == [30]
    assert prepared == [0, 1, 2, 3]
    assert list(one_ahead([], prepare)) == []


def test_what_preparing_raises_is_raised_at_its_turn() -> None:
    def prepare(turn: int) -> int:
        return 1 // (2 - turn)

    ahead = one_ahead(range(5), prepare)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
