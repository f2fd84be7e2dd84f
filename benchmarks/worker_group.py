"""What several workers cost beside one another: the sums over the global batch, as a share of a step.

    python benchmarks/worker_group.py [--workers 2] [--bags-each 1] [--instances 8000] [--d-in 1024] [--steps 10]
                                      [--aggregators abmil …] [--json FILE]

Processes of this machine, one thread each, over gloo. Prints one line per aggregator: seconds of a step, of the sums in
the batch's order (measured with nothing else to do), of torch's own all-reduce of the same numbers, of the agreement
after each step, and of a comparison of all weights; medians of rank 0. `_cpu_s` are its CPU seconds, which a busy
machine changes less; shares are of these.
"""

import argparse
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from train_step import make_state

from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS
from mhim_core.train.checks import tensor_digests
from mhim_core.train.context import ProcessGroupContext
from mhim_core.train.gradients import BagSums
from mhim_core.train.objective import make_label
from mhim_core.train.plan import Stage
from mhim_core.train.step import Bag, train_step


def measure(aggregator: str, options: argparse.Namespace, context: ProcessGroupContext) -> dict[str, Any]:
    """Every rank does the same; the numbers are this rank's."""
    state = make_state(aggregator, Stage.mhim, options.d_in, torch.device("cpu"))
    setup, batch_size = state.setup, options.bags_each * context.world_size
    x_NF = torch.randn(options.instances, options.d_in, generator=torch.Generator().manual_seed(0))
    own = [
        Bag(bag.bag_id, make_label(bag.target, setup.task, setup.dtype), x_NF)
        for bag in setup.train[context.rank :: context.world_size][: options.bags_each]
    ]

    def sums() -> None:
        summed = BagSums(state.student, context, batch_size)
        for _ in own:
            for parameter in state.student.parameters():
                parameter.grad = torch.ones_like(parameter)
            summed.add(None)
        summed.finish()

    flat = torch.ones(sum(parameter.numel() for parameter in state.student.parameters()))
    wishes = torch.zeros(3)
    seconds = (
        medians("step", lambda: train_step(state, own, batch_size, context), options.steps)
        | medians("sums", sums, 5 * options.steps)
        | medians("all_reduce", lambda: context.all_reduce([flat]), 5 * options.steps)
        | medians("agreement", lambda: context.all_reduce([wishes]), 5 * options.steps)
        | medians("drift", lambda: tensor_digests(state), options.steps)
    )
    shared = ("sums", "all_reduce", "agreement")
    shares = {f"{name}_share": seconds[f"{name}_cpu_s"] / seconds["step_cpu_s"] for name in shared}
    return {"aggregator": aggregator, "workers": context.world_size, "parameters": len(flat)} | seconds | shares


def medians(name: str, work: Callable[[], object], num: int) -> dict[str, float]:
    """By the clock and of the CPU, after two to warm up; the ranks start together."""
    times, cpu_times = [], []
    for _ in range(num + 2):
        dist.barrier()
        start_s, cpu_start_s = time.perf_counter(), time.process_time()
        work()
        times.append(time.perf_counter() - start_s)
        cpu_times.append(time.process_time() - cpu_start_s)
    return {f"{name}_s": sorted(times[2:])[num // 2], f"{name}_cpu_s": sorted(cpu_times[2:])[num // 2]}


def run_rank(rank: int, port: int, options: argparse.Namespace) -> None:
    """One process."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=options.workers)
    rows = [measure(aggregator, options, ProcessGroupContext()) for aggregator in options.aggregators]
    if rank == 0:
        for row in rows:
            print(json.dumps({key: round(item, 5) if isinstance(item, float) else item for key, item in row.items()}))
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bags-each", type=int, default=1, help="bags of a step for each worker, at most 16 in all")
    parser.add_argument("--instances", type=int, default=8000)
    parser.add_argument("--d-in", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--aggregators", nargs="+", default=list(MINING_AGGREGATORS), choices=AGGREGATOR_NAMES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(run_rank, (port, options), nprocs=options.workers)


if __name__ == "__main__":
    main()
