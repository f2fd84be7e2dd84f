"""Judging and choosing epochs."""

import pytest
import torch

from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import ModelOptions
from mhim_core.task import ClassTarget
from mhim_core.train.context import SingleProcess
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.feed import BagFeed
from mhim_core.train.plan import LabelledBag
from mhim_core.train.preparation import make_setup
from mhim_core.train.validation import is_better, validate
from mhim_core.types import BagId


def record(auroc: float | None, loss: float) -> EpochRecord:
    return EpochRecord(1, 0.0, 0.0, loss, auroc, 1e-4)


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        ((0.8, 9.0), (0.7, 1.0), True),
        ((0.7, 1.0), (0.8, 9.0), False),
        ((0.8, 0.4), (0.8, 0.5), True),
        ((0.8, 0.5), (0.8, 0.5), False),
        ((None, 0.4), (None, 0.5), True),
        ((None, 0.5), (None, 0.4), False),
    ],
)
def test_auroc_decides_and_the_loss_where_it_ties_or_is_undefined(
    new: tuple[float | None, float], old: tuple[float | None, float], better: bool
) -> None:
    assert is_better(record(*new), record(*old)) is better


def test_the_first_epoch_is_always_better() -> None:
    assert is_better(record(None, 1.0), None)


@pytest.mark.fault(29)
def test_auroc_is_none_where_a_class_is_missing(bags, plan_of) -> None:  # type: ignore[no-untyped-def]
    feed = BagFeed(bags, make_setup(plan_of(), plan_of().fits[0]), torch.device("cpu"))
    model = build_model(bags.dim, 2, ModelOptions(embed_dim=16), seed="s")
    both = [LabelledBag(BagId(f"bag-{index:02d}"), ClassTarget(index % 2)) for index in range(6)]
    assert validate(model, both, feed, False, SingleProcess()).metric is not None
    record = validate(model, both[::2], feed, False, SingleProcess())
    assert record.metric is None
    assert record.loss > 0
