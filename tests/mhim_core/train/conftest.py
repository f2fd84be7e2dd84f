"""Bags of known truth, held in memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.train.fit_options import FitExecution, FitOptions
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.types import BagId

D_IN = 12


class MemoryBags:
    """A BagSource; `reads` counts how often a bag was read."""

    dim = D_IN

    def __init__(self, bags: dict[BagId, torch.Tensor]) -> None:
        self.bags = bags
        self.reads = 0

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(x) for bag_id, x in self.bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        self.reads += 1
        return self.bags[bag_id].clone()


def make_bags(num: int, num_classes: int = 2, shift: float = 4.0) -> MemoryBags:
    """Bag i is of class i % C and holds 5 to 40 instances, a sixth of them moved by `shift` along axis c if c > 0."""
    generator = torch.Generator().manual_seed(0)
    bags = {}
    for index in range(num):
        x = torch.randn(5 + index * 7 % 36, D_IN, generator=generator)
        if index % num_classes:
            x[: max(1, len(x) // 6), index % num_classes] += shift
        bags[BagId(f"bag-{index:02d}")] = x
    return MemoryBags(bags)


def make_plan(num: int = 24, stage: Stage = Stage.mhim, num_classes: int = 2, **fit: Any) -> TrainPlan:
    """One fold: two thirds of the bags train, the rest validates."""
    bags = tuple(LabelledBag(BagId(f"bag-{index:02d}"), ClassTarget(index % num_classes)) for index in range(num))
    cut = num * 2 // 3
    checkpoint_every = fit.pop("checkpoint_every", 1)
    mhim = fit.pop("mhim", MhimOptions(high_mask_ratio=0.1, random_mask_ratio=0.3))
    options = FitOptions(**{"epochs": 4, "learning_rate": 1e-3} | fit)
    task = Task(kind=TaskKind.classification, classes=tuple(f"class {index}" for index in range(num_classes)))
    return TrainPlan(
        fits=plan_fits([FoldBags(0, bags[:cut], bags[cut:])], stage, task, [options.seed]),
        d_in=D_IN,
        task=task,
        model=ModelOptions(embed_dim=16),
        mhim=mhim,
        fit=options,
        execution=FitExecution(checkpoint_every=checkpoint_every),
    )


@pytest.fixture
def bags() -> MemoryBags:
    return make_bags(24)


@pytest.fixture(scope="session")
def bags_of() -> Callable[..., MemoryBags]:
    return make_bags


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., TrainPlan]:
    return make_plan
