"""Whether predicting a bag takes time and memory in proportion to its tiles: CPU seconds and peak memory over N.

    python benchmarks/linear_bag.py [--instances 12500 … 200000] [--dim 512] [--aggregators mammil transmil] [--train]

Every measurement is a process of its own with one thread: tiles on a grid with holes, random float16 features of `dim`,
`embed_dim` 512. Prints one line per N: CPU seconds of what is made of coordinates (0 where nothing is) and of the
forward pass, or of a training step with --train, and GiB of resident memory at its peak (`ru_maxrss`), in all and
before there was a bag; then, per aggregator, R² of a line through seconds over N. CPU seconds, since they bear
neighbours on the machine better.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
from large_bag import peak_bytes

INSTANCES = (12_500, 25_000, 50_000, 100_000, 200_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=list(INSTANCES))
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--aggregators", nargs="+", default=["mammil", "transmil"])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        measure(args.inside, args.instances[0], args.dim, args.train)
        return
    for aggregator in args.aggregators:
        seconds = []
        for num in args.instances:
            words = [sys.executable, __file__, "--instances", str(num), "--dim", str(args.dim), "--inside", aggregator]
            words += ["--train"] if args.train else []
            line = subprocess.run(
                words, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            print(line, end="", flush=True)
            seconds.append(json.loads(line)["layout_s"] + json.loads(line)["seconds"])
        if len(seconds) > 2:
            print(json.dumps({"aggregator": aggregator, "r_squared": round(r_squared(args.instances, seconds), 5)}))


def measure(aggregator: str, num: int, dim: int, train: bool) -> None:
    """One bag in this process; prints its line."""
    import torch

    torch.set_num_threads(1)
    from train_step import make_state

    from mhim_core.mil.layout import TREE_BESIDE, Layout
    from mhim_core.task import ClassTarget
    from mhim_core.train.context import SingleProcess
    from mhim_core.train.model_file import predict_bag
    from mhim_core.train.objective import make_label
    from mhim_core.train.plan import Stage
    from mhim_core.train.step import Bag, train_step
    from mhim_core.types import BagId

    state = make_state(aggregator, Stage.plain, dim, torch.device("cpu"))
    before = peak_bytes()
    draw = np.random.default_rng(0)
    features = draw.standard_normal((num, dim), dtype=np.float32).astype(np.float16)
    width = int((1.3 * num) ** 0.5) + 2
    places = np.sort(draw.choice(width * width, num, replace=False))
    coords = (np.stack([places % width, places // width], axis=1) * 256).astype(np.int32)
    start_s = time.process_time()
    needs_places = state.student.needs_places
    layout = Layout.of_arrays([TREE_BESIDE.make(features, coords)]) if needs_places else None
    layout_s = time.process_time() - start_s
    x_NF, start_s = torch.from_numpy(features), time.process_time()
    if train:
        label = make_label(ClassTarget(1), state.setup.task, torch.float32)
        train_step(state, [Bag(BagId("bag"), label, x_NF, layout)], 1, SingleProcess())
    else:
        predict_bag(state.student.eval(), x_NF, False, layout)
    line = {"aggregator": aggregator, "instances": num, "layout_s": round(layout_s, 2)}
    line |= {"seconds": round(time.process_time() - start_s, 2)}
    line |= {"gib": round(peak_bytes() / 2**30, 2), "gib_before": round(before / 2**30, 2)}
    print(json.dumps(line))


def r_squared(x: list[int], y: list[float]) -> float:
    """Of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.array(y) - slope * np.array(x) - intercept
    return float(1 - (rest**2).sum() / ((np.array(y) - np.mean(y)) ** 2).sum())


if __name__ == "__main__":
    main()
