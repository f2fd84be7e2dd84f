"""CPU seconds of a training step on one thread, beside the matrix products that no implementation can avoid.

    python benchmarks/training.py [--instances 8000] [--d-in 1024] [--ratios 0.1 0.8] [--rounds 9]
                                  [--parts floors transmil views bf16 memory packs caches sweep] [--against FOLDER]

One bag of random features a step, D = 512, two classes, float32, masks and dropout as by default. The floor F of ABMIL
is the time of these products alone, in preallocated memory: embedding (N×F)(F×D) by teacher and by student, its
weights' gradient (F×N)(N×D), the teacher's attention (N×D)(D×128), and over the K instances and tokens that enter the
student's aggregator (K×D)(D×128) with its two gradients. DSMIL's floor has its query in place of that attention, and
its values: (N×D)(D×D) of the teacher and three times (K×D)(D×D) of the student. F counts N rows for the student
although what the teacher masks (3 %) is not embedded.

Steps and floors take turns, `--rounds` times after two to warm up; a figure is the least of each, since neighbours on
the machine only ever add time. `--against` is the checkout of another version, whose steps take turns with these in a
process of its own. The last three parts are those of `packed_step.py`, `cached_bags.py` and `sweep.py` (the last two
by the clock, whole commands). One line per case; the last line is JSON.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from train_step import make_state

from mhim_core.mil.model_options import MhimOptions
from mhim_core.train.context import SingleProcess
from mhim_core.train.objective import make_label
from mhim_core.train.plan import Stage
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId

EMBED_DIM = 512
ATTENTION_DIM = 128
NUM_WARM_UP = 2
HIGH_MASK_RATIO, NUM_TOKENS = 0.03, 5
PACKS = ("--aggregators", "abmil", "--cases", "small", "large")
CACHED = ("cached_gb_per_s", "cached_float32_gb_per_s", "cached_over_parquet")

Figures = dict[str, float | None]
Run = Callable[[], None]


class Case(NamedTuple):
    """One kind of step."""

    aggregator: str
    random_mask_ratio: float
    full_view_weight: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.aggregator} {self.random_mask_ratio}{', two views' if self.full_view_weight else ''}"


class Product(NamedTuple):
    """(rows × inner)(inner × columns)."""

    rows: int
    inner: int
    columns: int
    transposed: bool = False
    """The left matrix lies in memory as inner × rows, as in a weight's gradient."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=8000)
    parser.add_argument("--d-in", type=int, default=1024)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.8])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="checkout of another version")
    parser.add_argument("--inside", choices=("serve", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.inside == "serve":
        serve(options)
    elif options.inside == "memory":
        print(json.dumps(peak_mib(read_case(sys.stdin.readline()), options)))
    else:
        figures: Figures = {}
        for part in options.parts:
            figures |= PARTS[part](options)
        print(json.dumps({name: figure and round(figure, 4) for name, figure in figures.items()}))


def measure_floors(options: argparse.Namespace) -> Figures:
    """ABMIL's and DSMIL's steps over their floors."""
    figures: Figures = {}
    for aggregator in ("abmil", "dsmil"):
        for ratio in options.ratios:
            case = Case(aggregator, ratio)
            entering = num_entering(options.instances, ratio)
            floor = run_of_products(products(aggregator, options.instances, entering, options.d_in))
            least_s = measure({"step": step_run(case, options), "floor": floor}, case, options)
            figures[f"{aggregator}_over_floor_{ratio}"] = over_floor = least_s["step"] / least_s["floor"]
            figures[f"{aggregator}_cpu_s_{ratio}"] = least_s["step"]
            report(case, least_s, f"{over_floor:.2f} of the floor {least_s['floor']:.4f}")
    return figures


def measure_transmil(options: argparse.Namespace) -> Figures:
    """TransMIL's steps; `transmil_cpu_s` is that of the first ratio."""
    figures: Figures = {}
    for ratio in options.ratios:
        case = Case("transmil", ratio)
        least_s = measure({"step": step_run(case, options)}, case, options)
        figures.setdefault("transmil_cpu_s", least_s["step"])
        figures[f"transmil_cpu_s_{ratio}"] = least_s["step"]
        if "against" in least_s:
            figures[f"transmil_over_against_{ratio}"] = least_s["step"] / least_s["against"]
        report(case, least_s)
    return figures


def measure_views(options: argparse.Namespace) -> Figures:
    """A step with the unmasked view beside the masked one, over a step without; `two_views_over_one` is ABMIL's."""
    figures: Figures = {}
    for aggregator in ("abmil", "dsmil"):
        one = Case(aggregator, options.ratios[0])
        two = one._replace(full_view_weight=0.5)
        least_s = measure({"step": step_run(two, options), "one": step_run(one, options)}, two, options)
        ratio = least_s["step"] / least_s["one"]
        figures["two_views_over_one" if aggregator == "abmil" else f"{aggregator}_two_views_over_one"] = ratio
        report(two, least_s, f"{ratio:.2f} of one view {least_s['one']:.4f}")
    return figures


def measure_bf16(options: argparse.Namespace) -> Figures:
    """What bfloat16 would gain: the floor's products in it, and the step if it were spent on nothing else.

    There is no such step (`precision=` is float32 or float64), and so no figure `bf16_speedup`.
    """
    case = Case("abmil", options.ratios[0])
    floor = products("abmil", options.instances, num_entering(options.instances, options.ratios[0]), options.d_in)
    runs = {
        "step": step_run(case, options),
        "floor": run_of_products(floor),
        "floor_bf16": run_of_products(floor, torch.bfloat16),
    }
    least_s = measure(runs, None, options)
    of_products = least_s["floor"] / least_s["floor_bf16"]
    at_most = least_s["step"] / (least_s["step"] - least_s["floor"] + least_s["floor_bf16"])
    report(case, least_s, f"in bfloat16 the products {of_products:.2f} times as fast, the step at most {at_most:.2f}")
    return {"bf16_speedup": None, "bf16_products_speedup": of_products, "bf16_speedup_at_most": at_most}


def measure_memory(options: argparse.Namespace) -> Figures:
    """Most resident memory that steps add to model, optimizer and bag, each in a process of its own."""
    figures: Figures = {}
    trees = {"": None} | ({"_against": options.against} if options.against else {})
    for aggregator in ("abmil", "dsmil", "transmil"):
        for ratio in options.ratios:
            case = Case(aggregator, ratio)
            for suffix, tree in trees.items():
                child = start_inside("memory", options, tree)
                answer, _ = child.communicate(json.dumps(case) + "\n")
                figures[f"{aggregator}_step_mib_{ratio}{suffix}"] = float(json.loads(answer))
                print(f"{case.name}{suffix}: {json.loads(answer):.0f} MiB at most", flush=True)
    return figures


def measured_by(script: str, words: Sequence[str], keys: Sequence[str], options: argparse.Namespace) -> Figures:
    """The figures of another script of this folder, in a process of its own; its last line is JSON."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *words]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(ended.stdout.splitlines()[-1])
    print(f"{script}: " + ", ".join(f"{key} {figures[key]:.3g}" for key in keys), flush=True)
    return {key: float(figures[key]) for key in keys}


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "floors": measure_floors,
    "transmil": measure_transmil,
    "views": measure_views,
    "bf16": measure_bf16,
    "memory": measure_memory,
    "packs": partial(measured_by, "packed_step.py", PACKS, ("packed_over_single", "packed_over_single_2000")),
    "caches": partial(measured_by, "cached_bags.py", (), CACHED),
    "sweep": partial(measured_by, "sweep.py", (), ("eight_models_over_one", "fits_over_one")),
}
"""A part measures some cases, prints a line for each and returns its figures by their JSON keys."""


def num_entering(num_instances: int, random_mask_ratio: float) -> int:
    """K: what is neither masked nor recycled, and the tokens."""
    num_kept = num_instances - math.ceil(num_instances * HIGH_MASK_RATIO)
    return int(num_kept * (1 - random_mask_ratio)) + NUM_TOKENS


def products(aggregator: str, num: int, num_entering: int, d_in: int) -> list[Product]:
    """The products of this aggregator's floor."""
    products = [
        *[Product(num, d_in, EMBED_DIM)] * 2,
        Product(d_in, num, EMBED_DIM, transposed=True),
        Product(num, EMBED_DIM, ATTENTION_DIM),
        Product(num_entering, EMBED_DIM, ATTENTION_DIM),
        Product(num_entering, ATTENTION_DIM, EMBED_DIM),
        Product(EMBED_DIM, num_entering, ATTENTION_DIM, transposed=True),
    ]
    if aggregator == "dsmil":
        products += [Product(num, EMBED_DIM, EMBED_DIM), *[Product(num_entering, EMBED_DIM, EMBED_DIM)] * 2]
        products += [Product(EMBED_DIM, num_entering, EMBED_DIM, transposed=True)]
    return products


def run_of_products(products: Sequence[Product], dtype: torch.dtype = torch.float32) -> Run:
    """All products, each with operands and result of its own."""
    operands = []
    for rows, inner, columns, transposed in products:
        left = torch.randn((inner, rows) if transposed else (rows, inner), dtype=dtype)
        right, result = torch.randn(inner, columns, dtype=dtype), torch.empty(rows, columns, dtype=dtype)
        operands.append((left.t() if transposed else left, right, result))

    def run() -> None:
        for left, right, result in operands:
            torch.mm(left, right, out=result)

    return run


def step_run(case: Case, options: argparse.Namespace) -> Run:
    """A step on the same features each time, under the names of 16 bags in turn."""
    mhim = MhimOptions(random_mask_ratio=case.random_mask_ratio, full_view_weight=case.full_view_weight)
    assert (mhim.high_mask_ratio, mhim.recycle_queries) == (HIGH_MASK_RATIO, NUM_TOKENS)
    cpu = torch.device("cpu")
    state, context = make_state(case.aggregator, Stage.mhim, options.d_in, cpu, mhim), SingleProcess(cpu)
    x_NF = torch.randn(options.instances, options.d_in, generator=torch.Generator().manual_seed(0))
    train = state.setup.train

    def run() -> None:
        labelled = train[state.step % len(train)]
        label = make_label(labelled.target, state.setup.task, state.setup.dtype, cpu)
        train_step(state, [Bag(BagId(labelled.bag_id), label, x_NF)], 1, context)

    return run


def measure(runs: Mapping[str, Run], case: Case | None, options: argparse.Namespace) -> dict[str, float]:
    """The least CPU seconds of each run, in turns; of `case` in the other version's process too, as `against`."""
    seconds: dict[str, Callable[[], float]] = {name: partial(cpu_seconds, run) for name, run in runs.items()}
    child = start_inside("serve", options, options.against) if options.against and case else None
    if child is not None:
        assert child.stdin is not None
        print(json.dumps(case), file=child.stdin, flush=True)
        seconds["against"] = lambda: ask(child)
    rounds = [{name: take() for name, take in seconds.items()} for _ in range(NUM_WARM_UP + options.rounds)]
    if child is not None:
        child.communicate()
    return {name: min(times[name] for times in rounds[NUM_WARM_UP:]) for name in seconds}


def cpu_seconds(run: Run) -> float:
    start_s = time.process_time()
    run()
    return time.process_time() - start_s


def report(case: Case, least_s: Mapping[str, float], remark: str = "") -> None:
    words = [f"{case.name}: {least_s['step']:.4f} CPU s", *[remark] * bool(remark)]
    if "against" in least_s:
        words.append(f"{least_s['step'] / least_s['against']:.2f} of the other version's {least_s['against']:.4f}")
    print(", ".join(words), flush=True)


def serve(options: argparse.Namespace) -> None:
    """In the other version's process: CPU seconds of one step for every line after the first, which is the case."""
    run = step_run(read_case(sys.stdin.readline()), options)
    for _ in sys.stdin:
        print(cpu_seconds(run), flush=True)


def ask(child: subprocess.Popen[str]) -> float:
    assert child.stdin is not None
    assert child.stdout is not None
    print(file=child.stdin, flush=True)
    return float(child.stdout.readline())


def start_inside(mode: str, options: argparse.Namespace, tree: Path | None) -> subprocess.Popen[str]:
    """This script in a process of its own, with the package of `tree`, None: the same."""
    environment = os.environ | ({"PYTHONPATH": str(tree.resolve())} if tree is not None else {})
    words = ["--inside", mode, "--instances", options.instances, "--d-in", options.d_in]
    command = [sys.executable, __file__, *map(str, words)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_case(line: str) -> Case:
    return Case(*json.loads(line))


def peak_mib(case: Case, options: argparse.Namespace) -> float:
    """MiB of resident memory that three steps add, at their peak, to what was there before the first (on Linux)."""
    run = step_run(case, options)
    # not ru_maxrss, which a process inherits from the one that started it
    Path("/proc/self/clear_refs").write_text("5")
    before_mib = resident_mib("VmRSS")
    for _ in range(3):
        run()
    return resident_mib("VmHWM") - before_mib


def resident_mib(field: str) -> float:
    """VmRSS: now; VmHWM: at most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    main()
