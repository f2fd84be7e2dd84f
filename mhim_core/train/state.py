"""Everything a fit needs to resume exactly where it stopped: one object, to bytes and back."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mhim_core.errors import IntegrityError
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.records import parse_json
from mhim_core.task import FittedTask
from mhim_core.train.card import read_metadata
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.sampler import Sampled, global_batches, num_batches

SCHEMA = 1
"""Of a state between two epochs, as every version writes it."""
SCHEMA_WITHIN_EPOCH = 2
"""Of a state amid an epoch, which versions before 0.2 pass over."""


@dataclass(frozen=True, kw_only=True)
class FitSetup:
    """What is constant over a fit and what the step needs of it."""

    stage: Stage
    seed: int
    d_in: int
    task: FittedTask
    model: ModelOptions
    mhim: MhimOptions
    fit: FitOptions
    train: tuple[LabelledBag, ...]
    weights: tuple[float, ...] = ()
    """Of each of `train`: how often it is drawn, relative to the others; empty: once an epoch."""

    @property
    def steps_per_epoch(self) -> int:
        return num_batches(len(self.train), self.fit.global_batch)

    @property
    def total_steps(self) -> int:
        """The schedules' length T, in optimizer steps."""
        return self.fit.epochs * self.steps_per_epoch

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.fit.precision == "float64" else torch.float32

    def batches(self, epoch: int) -> list[tuple[Sampled, ...]]:
        """The bags of every step of that epoch."""
        return global_batches(
            self.train, self.seed, epoch, self.fit.global_batch, self.fit.balanced_sampling, self.weights
        )

    def learning_rate_at(self, epoch: int) -> float:
        """Cosine from learning_rate to min_learning_rate, stepped once per epoch."""
        low, high = self.fit.min_learning_rate, self.fit.learning_rate
        return low + (high - low) * 0.5 * (1 + math.cos(math.pi * epoch / self.fit.epochs))


@dataclass
class Best:
    """The best epoch so far and its weights."""

    record: EpochRecord
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]


@dataclass
class TrainState:
    """Student, teacher, queries (in the student), optimizer, schedule and sampler position, early stopping, best."""

    setup: FitSetup
    student: MilModel
    teacher: MilModel | None
    optimizer: torch.optim.Adam
    epoch: int = 0
    """Finished epochs: the position of the sampler and of the learning rate."""
    step: int = 0
    """Finished optimizer steps: the position of the step-wise schedules, and within the epoch."""
    history: list[EpochRecord] = field(default_factory=list)
    best: Best | None = None
    losses_2T: Tensor | None = None
    """Task and consistency loss of every turn of the epoch under way, in its order (float64), 0 where there is none
    yet; None between two epochs. Each rank has those of its own turns, rank 0 also those before the fit was resumed."""
    steps_by_workers: Counter[int] = field(default_factory=Counter)
    """How many of the steps were taken by how many workers."""

    @classmethod
    def start(cls, setup: FitSetup, student: MilModel, teacher: MilModel | None, device: torch.device) -> "TrainState":
        """The state before the first step; moves the models to `device`."""
        student = student.to(device)
        teacher = None if teacher is None else teacher.to(device).requires_grad_(False)
        optimizer = torch.optim.Adam(
            student.parameters(), lr=setup.fit.learning_rate, weight_decay=setup.fit.weight_decay, fused=True
        )
        return cls(setup, student, teacher, optimizer)

    @property
    def step_in_epoch(self) -> int:
        """Finished optimizer steps of the epoch under way."""
        return self.step - self.epoch * self.setup.steps_per_epoch

    def models(self) -> dict[str, Tensor]:
        """Every weight that must be the same on all ranks, by name."""
        return _prefixed("student", self.student.state_dict()) | (
            _prefixed("teacher", self.teacher.state_dict()) if self.teacher is not None else {}
        )

    def to_bytes(self, losses_2T: Tensor | None = None) -> bytes:
        """Safetensors with the numbers as JSON in its metadata; equal states give equal bytes.

        `losses_2T`: amid an epoch, those of all ranks.
        """
        tensors = self.models()
        for name, parameter in self.student.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = value
        numbers: dict[str, Any] = {"schema": SCHEMA, "epoch": self.epoch, "step": self.step, "history": self.history}
        if losses_2T is not None:
            numbers["schema"] = SCHEMA_WITHIN_EPOCH
            tensors["epoch/losses"] = losses_2T
        if self.steps_by_workers.keys() - {1}:
            numbers["steps_by_workers"] = sorted(self.steps_by_workers.items())
        if self.best is not None:
            numbers["best"] = self.best.record
            tensors |= _prefixed("best/student", self.best.student) | _prefixed("best/teacher", self.best.teacher)
        # one metadata key only: safetensors writes several in random order
        return safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, {"state": json.dumps(numbers)}
        )

    def load_bytes(self, data: bytes) -> None:
        """Become the state that `to_bytes` wrote, bit for bit. The caller has verified the bytes' sha256.

        Raises IntegrityError if they are of another schema or another model.
        """
        try:
            tensors = {
                name: tensor.to(self.student.embed.weight.device)
                for name, tensor in safetensors.torch.load(data).items()
            }
            numbers = parse_json(read_metadata(data)["state"], allow_nan=True)
            if numbers["schema"] not in (SCHEMA, SCHEMA_WITHIN_EPOCH):
                raise IntegrityError(f"training state has schema {numbers['schema']}, expected {SCHEMA_WITHIN_EPOCH}")
            losses_2T = tensors["epoch/losses"] if numbers["schema"] == SCHEMA_WITHIN_EPOCH else None
            if losses_2T is not None and losses_2T.shape != (2, len(self.setup.train)):
                raise IntegrityError(f"training state has losses of shape {tuple(losses_2T.shape)}")
            self.student.load_state_dict(_below("student", tensors))
            if self.teacher is not None:
                self.teacher.load_state_dict(_below("teacher", tensors))
        except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise IntegrityError(f"not a training state of this fit: {error}") from error
        self.optimizer.state.clear()
        for name, parameter in self.student.named_parameters():
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer/{key}/{name}" in tensors]
            if keys:
                self.optimizer.state[parameter] = {key: tensors[f"optimizer/{key}/{name}"] for key in keys}
        self.epoch, self.step, self.losses_2T = numbers["epoch"], numbers["step"], losses_2T
        steps_by_workers = numbers.get("steps_by_workers", [[1, self.step]])
        self.steps_by_workers = +Counter(dict(steps_by_workers))  # without a zero
        self.history = [EpochRecord(*record) for record in numbers["history"]]
        self.best = None
        if "best" in numbers:
            record = EpochRecord(*numbers["best"])
            self.best = Best(record, _below("best/student", tensors), _below("best/teacher", tensors))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")
    }
