"""One step on a pack of bags against the same step on its bags one at a time.

    python benchmarks/packed_step.py [--threads 1] [--aggregators abmil …] [--cases small large musk] [--seconds 4]

CPU seconds, the two kinds of step by turns, the lower quartile of each. Cases: `small` 16 bags of 6 to 200 instances,
`large` 8 bags of 2,000 (both of 1,024 features, D = 512), `musk` 16 bags of 2 to 12 (166 features, D = 64). Prints one
JSON object: `packed_over_single` and `packed_over_single_2000` are ABMIL's under MHIM, small and large; `ratios` has
every aggregator, stage and case.
"""

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from mhim_core.mil.large_bags import CHUNK
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions, ModelOptions
from mhim_core.task import ClassTarget, Task, TaskKind, fit_task
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.model_file import LoadedModel
from mhim_core.train.objective import make_label
from mhim_core.train.packed_step import packed_step
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.preparation import start_state
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId


class Case(NamedTuple):
    """The bags of one step."""

    lengths: list[int]
    d_in: int
    embed_dim: int


def _lengths(num: int, least: int, most: int) -> list[int]:
    draw = random.Random(0)
    return [draw.randint(least, most) for _ in range(num)]


CASES = {
    "small": Case(_lengths(16, 6, 200), 1024, 512),
    "large": Case([2_000] * 8, 1024, 512),
    "musk": Case(_lengths(16, 2, 12), 166, 64),
}


def packed_over_single(aggregator: str, stage: Stage, case: Case, budget_s: float) -> float:
    """CPU time of a packed step over that of a step of the same bags one at a time."""
    state, context = _start(aggregator, stage, case), SingleProcess()
    bags, num = _bags(state.setup, case), len(case.lengths)
    kinds: list[Callable[[], object]] = [
        lambda: packed_step(state, bags, num, context, CHUNK),
        lambda: train_step(state, bags, num, context),
    ]
    times: list[list[float]] = [[], []]
    stop_s = time.perf_counter() + budget_s
    while time.perf_counter() < stop_s or len(times[0]) < 5:
        for kind, taken in zip(kinds, times, strict=True):
            start_s = time.process_time()
            kind()
            taken.append(time.process_time() - start_s)
    packed_s, single_s = (sorted(taken[1:])[len(taken) // 4] for taken in times)
    return packed_s / single_s


def _start(aggregator: str, stage: Stage, case: Case) -> TrainState:
    train = tuple(LabelledBag(BagId(f"bag-{index}"), ClassTarget(index % 2)) for index in range(len(case.lengths)))
    task = fit_task(Task(kind=TaskKind.classification, classes=("0", "1")), [bag.target for bag in train])
    setup = FitSetup(
        stage=Stage.plain,
        seed=2021,
        d_in=case.d_in,
        task=task,
        model=ModelOptions(aggregator=aggregator, embed_dim=case.embed_dim),
        mhim=MhimOptions(),
        fit=FitOptions(global_batch=len(train)).resolved(task.kind),
        train=train,
    )
    plain = start_state(setup, None, torch.device("cpu"))
    if stage is Stage.plain:
        return plain
    card = ModelCard(
        stage=Stage.plain,
        fold=0,
        seed=2021,
        d_in=case.d_in,
        task=task,
        precision=setup.fit.precision,
        model=setup.model,
        mhim=None,
    )
    taught = LoadedModel(card, plain.student, None)
    return start_state(dataclasses.replace(setup, stage=stage), taught, torch.device("cpu"))


def _bags(setup: FitSetup, case: Case) -> list[Bag]:
    generator = torch.Generator().manual_seed(0)
    return [
        Bag(
            bag.bag_id,
            make_label(bag.target, setup.task, setup.dtype),
            torch.randn(num, case.d_in, generator=generator),
        )
        for bag, num in zip(setup.train, case.lengths, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--aggregators", nargs="+", default=list(AGGREGATOR_NAMES), choices=AGGREGATOR_NAMES)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=4.0, help="spent on each number")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ratios = {
        f"{aggregator}/{stage}/{name}": round(packed_over_single(aggregator, stage, CASES[name], options.seconds), 3)
        for aggregator in options.aggregators
        for stage in Stage
        if stage is Stage.plain or aggregator in MINING_AGGREGATORS
        for name in options.cases
    }
    summary = {
        "packed_over_single": ratios.get("abmil/mhim/small"),
        "packed_over_single_2000": ratios.get("abmil/mhim/large"),
    }
    print(json.dumps({**summary, "ratios": ratios}))


if __name__ == "__main__":
    main()
