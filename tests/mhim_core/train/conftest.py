"""Bags of known truth, held in memory."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from mhim_core.bags import Beside
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.train.context import Notice, no_notice
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

    def read_beside(self, bag_id: BagId, beside: Beside) -> list[np.ndarray]:
        """The instances lie on a grid, row by row."""
        x = self.bags[bag_id]
        return [beside.make(x.numpy(), np.stack([np.arange(len(x)) % 6, np.arange(len(x)) // 6], axis=1))]


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
    executed = {field.name: fit.pop(field.name) for field in dataclasses.fields(FitExecution) if field.name in fit}
    mhim = fit.pop("mhim", MhimOptions(high_mask_ratio=0.1, random_mask_ratio=0.3, full_view_weight=0.0))
    options = FitOptions(**{"epochs": 4, "learning_rate": 1e-3} | fit)
    task = Task(kind=TaskKind.classification, classes=tuple(f"class {index}" for index in range(num_classes)))
    return TrainPlan(
        fits=plan_fits([FoldBags(0, bags[:cut], bags[cut:])], stage, task, [options.seed]),
        d_in=D_IN,
        task=task,
        model=ModelOptions(embed_dim=16),
        mhim=mhim,
        fit=options,
        execution=FitExecution(**{"checkpoint_every": 1} | executed),
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


class Exchange:
    """What the threads of a group share."""

    def __init__(self, num_ranks: int) -> None:
        self.parts: list[Any] = [None] * num_ranks
        self.barrier = threading.Barrier(num_ranks, timeout=60)


class ThreadContext:
    """A TrainContext whose ranks are threads of this process: no rank costs a second to start."""

    device = torch.device("cpu")

    def __init__(self, rank: int, exchange: Exchange, notice: Callable[[], Notice] = no_notice) -> None:
        self.rank, self.world_size = rank, len(exchange.parts)
        self.notice = notice
        self._exchange = exchange

    def _gather(self, part: Any) -> list[Any]:
        self._exchange.parts[self.rank] = part
        self._exchange.barrier.wait()
        parts = list(self._exchange.parts)
        self._exchange.barrier.wait()
        return parts

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(torch.stack(self._gather(tensor.clone())).sum(dim=0))

    def transpose(self, rows_WC: torch.Tensor) -> torch.Tensor:
        return torch.stack([rows[self.rank] for rows in self._gather(rows_WC)])

    def all_gather(self, row_C: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._gather(row_C))

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        sent: bytes = self._gather(data)[0]
        return sent

    def barrier(self) -> None:
        self._gather(None)


def on_ranks(num_ranks: int, work: Callable[[ThreadContext], Any], make: Any = ThreadContext) -> list[Any]:
    """What `work` returned, or raised, on every rank."""
    exchange = Exchange(num_ranks)

    def run(rank: int) -> Any:
        try:
            return work(make(rank, exchange))
        except Exception as error:
            if isinstance(error, threading.BrokenBarrierError):
                raise
            return error

    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(run, range(num_ranks)))


@pytest.fixture(scope="session")
def ranks() -> Callable[..., list[Any]]:
    """ranks(num, work): `work(context)` on every rank of a group of threads."""
    return on_ranks
