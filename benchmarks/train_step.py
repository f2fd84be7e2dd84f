"""Optimizer steps per second, plain against MHIM, on bags of random features.

    python benchmarks/train_step.py [--threads 2] [--device cpu] [--instances 600 12000] [--d-in 1280]
                                    [--aggregators abmil …] [--json FILE] [--cpu-time]

Prints one line per aggregator and bag size; `ratio` is the time of an MHIM step over that of a plain one. On a GPU with
the kernels that a fit takes (deterministic, no TF32), and with the most memory that was allocated. `--cpu-time` takes
the process's CPU seconds instead of the clock's, for a machine that others are busy on (with --threads 1).
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions, ModelOptions
from mhim_core.task import ClassTarget, Task, TaskKind, fit_task
from mhim_core.train.arithmetic import fixed_arithmetic
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.model_file import LoadedModel
from mhim_core.train.objective import make_label
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.preparation import start_state
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId


class StepCost(NamedTuple):
    """What one step took."""

    seconds: float
    """The median."""
    peak_gib: float | None
    """Most memory allocated on the GPU; None on a CPU."""


def make_state(
    aggregator: str, stage: Stage, d_in: int, device: torch.device, mhim: MhimOptions | None = None
) -> TrainState:
    """A fit of 16 bags before its first step; `mhim` None: the defaults."""
    train = tuple(LabelledBag(BagId(f"bag-{index}"), ClassTarget(index % 2)) for index in range(16))
    task = fit_task(Task(kind=TaskKind.classification, classes=("0", "1")), [bag.target for bag in train])
    setup = FitSetup(
        stage=stage,
        seed=2021,
        d_in=d_in,
        task=task,
        model=ModelOptions(aggregator=aggregator),
        mhim=mhim or MhimOptions(full_view_weight=0.0),  # one view, as measured since 0.1
        fit=FitOptions().resolved(task.kind),
        train=train,
    )
    if stage is Stage.plain:
        return start_state(setup, None, device)
    teacher = make_state(aggregator, Stage.plain, d_in, torch.device("cpu")).student
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


def measure_step(
    aggregator: str,
    stage: Stage,
    num_instances: int,
    d_in: int,
    device: torch.device,
    budget_s: float,
    make_draws: Callable[[int, int, BagId], Draws] = Draws,
    clock: Callable[[], float] = time.perf_counter,
) -> StepCost:
    """The median over as many steps as fit into the budget, at least 5, after 3 to warm up."""
    state, context = make_state(aggregator, stage, d_in, device), SingleProcess(device)
    x_NF = torch.randn(num_instances, d_in, generator=torch.Generator().manual_seed(0)).to(device)
    setup = state.setup
    bags = [Bag(bag.bag_id, make_label(bag.target, setup.task, setup.dtype, device), x_NF) for bag in setup.train]
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    times: list[float] = []
    with fixed_arithmetic(device):
        while len(times) < 8 or sum(times) < budget_s:
            start_s = clock()
            train_step(state, [bags[len(times) % len(bags)]], 1, context, make_draws)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(clock() - start_s)
    peak_gib = torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else None
    return StepCost(sorted(times[3:])[len(times[3:]) // 2], peak_gib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--instances", type=int, nargs="+", default=[600, 12_000])
    parser.add_argument("--d-in", type=int, default=1280)
    parser.add_argument("--seconds", type=float, default=5.0, help="time spent on each number")
    parser.add_argument("--aggregators", nargs="+", default=["abmil"], choices=AGGREGATOR_NAMES)
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU seconds")
    parser.add_argument("--json", type=Path, help="also write the figures there, after each line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rows: list[dict[str, object]] = []
    clock = time.process_time if options.cpu_time else time.perf_counter
    for aggregator in options.aggregators:
        stages = list(Stage) if aggregator in MINING_AGGREGATORS else [Stage.plain]
        for num in options.instances:
            costs = {
                stage: measure_step(aggregator, stage, num, options.d_in, device, options.seconds, clock=clock)
                for stage in stages
            }
            print(describe(aggregator, num, costs, options), flush=True)
            rows += [
                {"aggregator": aggregator, "stage": stage, "instances": num, "d_in": options.d_in, **cost._asdict()}
                for stage, cost in costs.items()
            ]
            if options.json is not None:
                options.json.write_text(json.dumps(rows))


def describe(aggregator: str, num_instances: int, costs: dict[Stage, StepCost], options: argparse.Namespace) -> str:
    """The figures of an aggregator at one bag size on a line."""
    where = f"N={num_instances:>6} d_in={options.d_in} {options.device} threads={options.threads}"
    figures = [f"{stage} {1 / cost.seconds:7.1f} steps/s" for stage, cost in costs.items()]
    if Stage.mhim in costs:
        figures.append(f"ratio {costs[Stage.mhim].seconds / costs[Stage.plain].seconds:.2f}")
    peaks = [cost.peak_gib for cost in costs.values() if cost.peak_gib is not None]
    if peaks:
        figures.append(f"at most {max(peaks):.2f} GiB")
    return f"{aggregator:8} {where}: {', '.join(figures)}"


if __name__ == "__main__":
    main()
