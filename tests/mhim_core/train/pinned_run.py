"""Twenty float64 steps of every aggregator, plain and mined, and how far they are from the numbers in pinned.json.

    python tests/mhim_core/train/pinned_run.py [--device cuda] [--threads 1] [--add | --write]

Prints one JSON object: the largest deviation of each run; exit code 1 where one is above the tolerance. `--add` pins
the runs that have no pin yet (of a new aggregator) and leaves all others as they are, to the byte. `--write` makes
pinned.json anew: right where the method is meant to give other numbers, which CHANGELOG.md then says.
Needs torch and numpy alone, so that it runs on a bare machine with an accelerator.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mhim_core.bags import Beside
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions, ModelOptions
from mhim_core.task import ClassTarget, FittedTask, TaskKind
from mhim_core.train.context import SingleProcess
from mhim_core.train.feed import BagFeed
from mhim_core.train.fit_options import FitOptions, Precision
from mhim_core.train.model_file import LoadedModel, ModelCard, predict_bag
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.preparation import start_state
from mhim_core.train.sampler import global_batches
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import train_step
from mhim_core.types import BagId

PINS = Path(__file__).with_name("pinned.json")
TOLERANCE = 1e-9
"""Relative for losses, norms and logits, absolute for attention."""
FLOOR = 0.01
"""What a number is divided by at least: CLAM's energy bias has no gradient but rounding, and ends at 1e-13 or so."""
RUNS = [(name, Stage.plain) for name in AGGREGATOR_NAMES] + [(name, Stage.mhim) for name in MINING_AGGREGATORS]
D_IN, NUM_CLASSES, NUM_BAGS, BATCH, NUM_EPOCHS = 12, 3, 10, 2, 4


class Pin(NamedTuple):
    """What is pinned of a run."""

    task_loss: list[list[float]]
    """Of each step's bags."""
    consistency_loss: list[list[float]]
    """The same; 0 in a plain run."""
    norms: dict[str, float]
    """Euclidean norm of every tensor of student and teacher after the last step."""
    logits: list[float]
    """Plain inference of the first bag by the student."""
    attention: list[float]
    """The same pass, by instance."""


class PinnedBags:
    """A BagSource of 18 to 45 instances a bag, uniform in -1 … 1, from the generator's raw bits: no library's version
    and no draw of ours changes them. In bags of class c > 0 every fifth instance is moved along axis c."""

    dim = D_IN

    def __init__(self) -> None:
        self._bags: dict[BagId, torch.Tensor] = {}
        for index in range(NUM_BAGS):
            num_instances = 18 + 3 * index
            words = np.random.Philox(key=index).random_raw(num_instances * D_IN)
            x = torch.from_numpy(words / 2.0**63 - 1).view(num_instances, D_IN)
            if index % NUM_CLASSES:
                x[::5, index % NUM_CLASSES] += 2
            self._bags[BagId(f"bag-{index}")] = x

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(x) for bag_id, x in self._bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self._bags[bag_id]

    def read_beside(self, bag_id: BagId, beside: Beside) -> list[np.ndarray]:
        """The instances lie on a grid of six columns, row by row, the third row a little apart."""
        x = self._bags[bag_id].numpy()
        rows = np.arange(len(x)) // 6
        return [beside.make(x, np.stack([np.arange(len(x)) % 6, rows + 40 * (rows > 2)], axis=1))]


def pinned_run(aggregator: str, stage: Stage, device: str | torch.device = "cpu") -> Pin:
    """Twenty steps: four epochs of ten bags, two to a step. A mined run's teacher is the plain run's student."""
    bags, device = PinnedBags(), torch.device(device)
    state, losses = _trained(aggregator, Stage.plain, bags, device, None)
    if stage is Stage.mhim:
        state, losses = _trained(aggregator, stage, bags, device, state)
    first = BagFeed(bags, state.setup, device).read(state.setup.train[0])
    appends = stage is Stage.mhim and state.setup.mhim.recycles_at_test
    prediction = predict_bag(state.student, first.x_NF, appends, first.layout)
    return Pin(
        task_loss=[task for task, _ in losses],
        consistency_loss=[consistency for _, consistency in losses],
        norms={name: float(tensor.norm()) for name, tensor in sorted(state.models().items())},
        logits=prediction.logits_C.tolist(),
        attention=prediction.attention_N.tolist(),
    )


def deviation(actual: Pin, pinned: Pin) -> float:
    """The largest difference of two runs: relative for losses, norms and logits, absolute for attention.

    Infinite where they differ in shape, in a tensor's name, or by a number that is none.
    """
    if actual.norms.keys() != pinned.norms.keys():
        return math.inf
    norms = [[pin.norms[name] for name in sorted(pin.norms)] for pin in (actual, pinned)]
    return max(
        _difference(actual.task_loss, pinned.task_loss),
        _difference(actual.consistency_loss, pinned.consistency_loss),
        _difference(*norms),
        _difference(actual.logits, pinned.logits),
        _difference(actual.attention, pinned.attention, relative=False),
    )


def read_pins() -> dict[str, Pin]:
    """By `<aggregator>/<stage>`."""
    return {name: Pin(**pin) for name, pin in json.loads(PINS.read_text()).items()}


def write_pins(pins: dict[str, Pin]) -> None:
    """One line a field, so that a difference shows which."""
    lines = []
    for name, pin in pins.items():
        fields = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in pin._asdict().items())
        lines.append(f'"{name}": {{\n{fields}\n}}')
    PINS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _trained(
    aggregator: str, stage: Stage, bags: PinnedBags, device: torch.device, teacher: TrainState | None
) -> tuple[TrainState, list[tuple[list[float], list[float]]]]:
    """The state after the last step, and each step's losses."""
    setup = _setup(aggregator, stage)
    state = start_state(setup, None if teacher is None else _as_model(teacher), device)
    feed, context, losses = BagFeed(bags, setup, device), SingleProcess(device), []
    for epoch in range(NUM_EPOCHS):
        state.epoch = epoch
        for group in state.optimizer.param_groups:
            group["lr"] = setup.learning_rate_at(epoch)
        for batch in global_batches(setup.train, setup.seed, epoch, BATCH):
            result = train_step(state, [feed.draw(turn, epoch) for turn in batch], len(batch), context)
            losses.append((result.task_B.tolist(), result.consistency_B.tolist()))
    return state, losses


def _setup(aggregator: str, stage: Stage) -> FitSetup:
    """Every mask acts on every bag, and every schedule moves."""
    return FitSetup(
        stage=stage,
        seed=2021,
        d_in=D_IN,
        task=FittedTask(kind=TaskKind.classification, classes=("a", "b", "c")),
        model=ModelOptions(aggregator=aggregator, embed_dim=16),
        mhim=MhimOptions(
            high_mask_ratio=0.2,
            high_mask_subsample=0.5,
            random_mask_ratio=0.5,
            recycle_momentum=0.9,
            ema_momentum="0.9",
            full_view_weight=0.0,
        ),
        fit=FitOptions(epochs=NUM_EPOCHS, learning_rate=1e-3, global_batch=BATCH, precision=Precision.float64),
        train=tuple(LabelledBag(BagId(f"bag-{index}"), ClassTarget(index % NUM_CLASSES)) for index in range(NUM_BAGS)),
    )


def _as_model(state: TrainState) -> LoadedModel:
    setup = state.setup
    card = ModelCard(
        stage=setup.stage,
        fold=0,
        seed=setup.seed,
        d_in=setup.d_in,
        task=setup.task,
        precision=setup.fit.precision,
        model=setup.model,
        mhim=None,
    )
    return LoadedModel(card, state.student, None)


def _difference(actual: object, pinned: object, relative: bool = True) -> float:
    pinned_values, values = (np.asarray(value, dtype=np.float64) for value in (pinned, actual))
    if pinned_values.shape != values.shape or not (np.isfinite(values).all() and np.isfinite(pinned_values).all()):
        return math.inf
    scale = np.maximum(np.abs(pinned_values), FLOOR) if relative else 1.0
    return float((np.abs(values - pinned_values) / scale).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pins = {f"{name}/{stage}": pinned_run(name, stage, arguments.device) for name, stage in RUNS}
    if arguments.add:
        pinned = read_pins()
        write_pins(pinned | {name: pin for name, pin in pins.items() if name not in pinned})
    if arguments.write:
        write_pins(pins)
    pinned = read_pins()
    deviations = {name: deviation(pins[name], pinned[name]) for name in pins}
    print(json.dumps({"device": arguments.device, "tolerance": TOLERANCE, "deviations": deviations}))
    return int(max(deviations.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
