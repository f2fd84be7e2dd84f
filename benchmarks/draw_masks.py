"""What dropout's masks cost, made by numpy and copied, by torch's integer operations, and by Triton.

    python benchmarks/draw_masks.py [--device cuda] [--shape 8000 512] [--d-in 1024] [--seconds 1.0] [--threads 1]
                                    [--aggregators abmil …] [--json FILE]

For each source of the numbers: milliseconds of a mask of that shape at rate 1/4 (a byte a value) and at 1/10 (two
bytes), of dropout with its backward pass, of an order of as many items as the shape has rows, and of an MHIM step on a
bag of that many. `factors` is the mask as it was made before: by numpy, copied as a float a value. Medians; every mask
is first compared with numpy's. On a CPU `triton` is left out, and `numpy` is what a fit takes.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from train_step import measure_step

from mhim_core.mil.draws import Draws
from mhim_core.mil.philox import NUMPY, TORCH, Source, checked_kernel, numpy_words, torch_at_least
from mhim_core.train.plan import Stage
from mhim_core.types import BagId

RATES = {"quarter": 0.25, "tenth": 0.1}


def sources_on(device: torch.device) -> dict[str, Source]:
    """By name, those that the device has."""
    if device.type == "cpu":
        return {"numpy": NUMPY, "torch": TORCH}
    sources = {"numpy": Source(numpy_words, torch_at_least), "torch": TORCH}
    kernel = checked_kernel(device) if device.type == "cuda" else None
    return sources if kernel is None else sources | {"triton": Source(kernel, torch_at_least)}


def measure(work: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """Milliseconds until the device has done it: the median of as many runs as fit, at least 5, after 3 to warm up."""
    times: list[float] = []
    while len(times) < 8 or sum(times) < budget_s:
        start_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start_s)
    return 1000 * sorted(times[3:])[len(times[3:]) // 2]


def measure_masks(draws: Draws, shape: tuple[int, int], device: torch.device, budget_s: float) -> dict[str, float]:
    """By what is drawn. Raises AssertionError where a mask is not numpy's."""
    reference = Draws(0, 0, BagId("bag"))
    x = torch.randn(shape, device=device, requires_grad=True)
    gradient = torch.randn(shape, device=device)

    def drop(rate: float) -> Tensor:
        (back,) = torch.autograd.grad(draws.dropout("x", x, rate), x, gradient)
        return back

    figures = {}
    for name, rate in RATES.items():
        expected = reference.keep("x", shape, rate).is_kept
        assert torch.equal(draws.keep("x", shape, rate, device).is_kept.cpu(), expected), f"another mask: {name}"
        figures[f"mask_{name}_ms"] = measure(lambda rate=rate: draws.keep("x", shape, rate, device), device, budget_s)
        figures[f"dropout_{name}_ms"] = measure(lambda rate=rate: drop(rate), device, budget_s)
    figures["order_ms"] = measure(lambda: draws.permutation("x", shape[0], device), device, budget_s)
    return figures


def measure_factors(shape: tuple[int, int], device: torch.device, budget_s: float) -> dict[str, float]:
    """The mask as floats from the CPU."""
    draws, like = Draws(0, 0, BagId("bag")), torch.empty(0)

    def make(rate: float) -> Tensor:
        return draws.keep("x", shape, rate).factors(slice(None), like).to(device, non_blocking=True)

    return {f"mask_{name}_ms": measure(lambda rate=rate: make(rate), device, budget_s) for name, rate in RATES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", type=int, nargs=2, default=[8000, 512])
    parser.add_argument("--d-in", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each step, a tenth of it on a mask")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--aggregators", nargs="+", default=["abmil"])
    parser.add_argument("--json", type=Path, help="also write the figures there, after each line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, shape = torch.device(options.device), (options.shape[0], options.shape[1])
    rows: list[dict[str, object]] = [
        {"source": "factors", "shape": shape} | measure_factors(shape, device, options.seconds / 10)
    ]
    for name, source in sources_on(device).items():
        draws = Draws(0, 0, BagId("bag"), source=source)
        figures = measure_masks(draws, shape, device, options.seconds / 10)
        make_draws = functools.partial(Draws, source=source)
        for aggregator in options.aggregators:
            cost = measure_step(
                aggregator, Stage.mhim, shape[0], options.d_in, device, options.seconds, make_draws=make_draws
            )
            figures[f"step_{aggregator}_ms"] = 1000 * cost.seconds
        rows.append({"source": name, "shape": shape} | figures)
    for row in rows:
        print(" ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
