"""Optimizer steps per second, plain against MHIM, on bags of random features.

    python benchmarks/train_step.py [--threads 2] [--device cpu] [--instances 600 12000] [--d-in 1280]

Prints one line per bag size; `ratio` is the time of an MHIM step over that of a plain one.
"""

import argparse
import time

import torch

from mhim_core.mil.options import MhimOptions, ModelOptions
from mhim_core.task import ClassTarget, Task, TaskKind, fit_task
from mhim_core.train.card import ModelCard
from mhim_core.train.checkpoint import LoadedModel
from mhim_core.train.context import SingleProcess
from mhim_core.train.objective import make_label
from mhim_core.train.options import FitOptions
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.preparation import start_state
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId


def make_state(stage: Stage, d_in: int, device: torch.device) -> TrainState:
    train = tuple(LabelledBag(BagId(f"bag-{index}"), ClassTarget(index % 2)) for index in range(16))
    task = fit_task(Task(kind=TaskKind.classification, classes=("0", "1")), [bag.target for bag in train])
    setup = FitSetup(
        stage=stage,
        seed=2021,
        d_in=d_in,
        task=task,
        model=ModelOptions(),
        mhim=MhimOptions(),
        fit=FitOptions().resolved(task.kind),
        train=train,
    )
    if stage is Stage.plain:
        return start_state(setup, None, device)
    teacher = make_state(Stage.plain, d_in, torch.device("cpu")).student
    card = ModelCard(
        stage=Stage.plain,
        fold=0,
        seed=2021,
        d_in=d_in,
        task=task,
        precision=setup.fit.precision,
        model=setup.model,
        mhim=None,
    )
    return start_state(setup, LoadedModel(card, teacher, None), device)


def seconds_per_step(stage: Stage, num_instances: int, d_in: int, device: torch.device, budget_s: float) -> float:
    """The median over as many steps as fit into the budget, at least 5, after 3 to warm up."""
    state, context = make_state(stage, d_in, device), SingleProcess(device)
    x_NF = torch.randn(num_instances, d_in, generator=torch.Generator().manual_seed(0)).to(device)
    setup = state.setup
    bags = [Bag(bag.bag_id, make_label(bag.target, setup.task, setup.dtype, device), x_NF) for bag in setup.train]
    times: list[float] = []
    while len(times) < 8 or sum(times) < budget_s:
        start_s = time.perf_counter()
        train_step(state, [bags[len(times) % len(bags)]], 1, context)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start_s)
    return sorted(times[3:])[len(times[3:]) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--instances", type=int, nargs="+", default=[600, 12_000])
    parser.add_argument("--d-in", type=int, default=1280)
    parser.add_argument("--seconds", type=float, default=5.0, help="time spent on each number")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    for num_instances in options.instances:
        plain, mhim = (seconds_per_step(stage, num_instances, options.d_in, device, options.seconds) for stage in Stage)
        print(
            f"N={num_instances:>6} d_in={options.d_in} {options.device} threads={options.threads}: "
            f"plain {1 / plain:7.1f} steps/s, mhim {1 / mhim:7.1f} steps/s, ratio {mhim / plain:.2f}"
        )


if __name__ == "__main__":
    main()
