r"""Tiles per second of encoders' networks from memory: no slide, no decoding, random weights.

    python benchmarks/encode_tiles.py [--device cpu] [--models vit_small_patch16_224 …] [--tiles 128]
                                      [--precisions float32 bfloat16] [--threads 1] [--json FILE]

Each model by three ways: `network`, tiles that already lie on the device through transform and network, in each
precision; `encoder`, tiles in the host's memory through the encoder that `mhim embed` uses (float32, features back on
the host); on a CPU also `openvino`, the same by encoder_runtime=openvino and openvino_bf16. On a CPU in batches as
`mhim embed` has them, with the rate per CPU second beside that of the clock, which counts where others use the machine.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mhim_core.embed.card import (
    BFLOAT16,
    CPU_BATCH_SIZE,
    FLOAT32,
    OPENVINO_BATCH_SIZE,
    RUNTIME_CPU,
    RUNTIME_CUDA,
    RUNTIME_OPENVINO,
    EncoderCard,
)
from mhim_core.embed.encoder import TorchEncoder
from mhim_core.embed.folding import fold_batch_norms
from mhim_core.embed.openvino_runtime import CompiledNetwork
from mhim_core.embed.timm_encoder import import_timm
from mhim_core.embed.transform import TileTransform, transform_facts

MODELS = (
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "tf_efficientnet_lite0",
)
"""The shapes of the usual encoders of pathology, and the one that every machine has."""
TILE_PX = 256
INPUT_PX = 224
STATISTICS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
TYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}
FOLDED = ("tf_efficientnet_lite0",)
"""As mhim's own card of the network has it."""


def make_network(name: str, device: torch.device) -> nn.Module:
    """timm's model without its classifier, its random weights drawn where it will compute."""
    with device:
        model = import_timm().create_model(name, pretrained=False, num_classes=0)
    if name in FOLDED and device.type == "cpu":
        fold_batch_norms(model, INPUT_PX)
    model = model.to(memory_format=torch.channels_last)
    transform = TileTransform(transform_facts(INPUT_PX, *STATISTICS))
    network: nn.Module = nn.Sequential(transform, model).eval().requires_grad_(False)
    return network.to(device)


class Rates(NamedTuple):
    """Tiles per second."""

    by_clock: float
    by_cpu: float
    """Of all threads' CPU time; meaningless on a GPU."""


def make_card(name: str, dim: int, **runtime: Any) -> EncoderCard:
    return EncoderCard(
        id=f"timm/{name}",
        source="random weights",
        weights_sha256="",
        revision="",
        licence="",
        pooling="",
        network={"timm_model": name},
        transform=transform_facts(INPUT_PX, *STATISTICS),
        dim=dim,
        **runtime,
    )


def make_encoders(
    name: str, network: nn.Module, dim: int, options: argparse.Namespace
) -> Iterator[tuple[str, TorchEncoder]]:
    """The network as `mhim embed` runs it: way and encoder."""
    if options.device != "cpu":
        card = make_card(name, dim, runtime=RUNTIME_CUDA, batch_size=options.tiles, num_threads=0)
        yield "encoder", TorchEncoder(card, network)
        return
    card = make_card(name, dim, runtime=RUNTIME_CPU, batch_size=CPU_BATCH_SIZE, num_threads=options.threads)
    yield "encoder", TorchEncoder(card, network)
    transform, model = network.children()
    for precision in options.precisions:
        runtime = {"runtime": RUNTIME_OPENVINO, "precision": precision}
        card = make_card(name, dim, **runtime, batch_size=OPENVINO_BATCH_SIZE, num_threads=options.threads)
        yield "openvino", TorchEncoder(card, nn.Sequential(transform, CompiledNetwork(card, model)))


def tiles_per_second(work: Callable[[], Tensor], num_tiles: int, device: torch.device, budget_s: float) -> Rates:
    """By the median of as many passes as fit into the budget, at least 3, after one to warm up."""
    times: list[float] = []
    cpu_times: list[float] = []
    while len(times) < 4 or sum(times) < budget_s:
        start_s, cpu_start_s = time.perf_counter(), time.process_time()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start_s)
        cpu_times.append(time.process_time() - cpu_start_s)
    middle = len(times[1:]) // 2
    return Rates(num_tiles / sorted(times[1:])[middle], num_tiles / sorted(cpu_times[1:])[middle])


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per way through the model, and its precision."""
    device = torch.device(options.device)
    network = make_network(name, device)
    generator = torch.Generator().manual_seed(0)
    host_tiles = torch.randint(256, (options.tiles, TILE_PX, TILE_PX, 3), dtype=torch.uint8, generator=generator)
    tiles = host_tiles.to(device)
    rows = []

    def add(way: str, precision: str, work: Callable[[], Tensor]) -> None:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rates = tiles_per_second(work, options.tiles, device, options.seconds)
        peak_gib = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
        rows.append(
            {"model": name, "way": way, "precision": precision, "batch": options.tiles}
            | {"tiles_per_second": round(rates.by_clock, 1), "tiles_per_cpu_second": round(rates.by_cpu, 1)}
            | {"peak_gib": peak_gib, "threads": options.threads}
        )
        more = f"{rates.by_cpu:9.1f} tiles/CPU s" if peak_gib is None else f", at most {peak_gib:.2f} GiB"
        print(f"{name:24} {way:8} {precision:9} {rates.by_clock:9.1f} tiles/s{more}", flush=True)

    with torch.inference_mode():
        for precision in options.precisions:
            dtype = TYPES[precision]

            def through_network(dtype: torch.dtype = dtype) -> Tensor:
                with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                    features: Tensor = network(tiles)
                return features

            add("network", precision, through_network)
        dim = network(tiles[:1]).shape[1]
    for way, encoder in make_encoders(name, network, dim, options):
        add(way, encoder.card.precision, partial(encoder, host_tiles))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--tiles", type=int, default=128, help="of a batch")
    parser.add_argument("--precisions", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each number")
    parser.add_argument("--json", type=Path, help="also write the figures there, after each model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for name in options.models:
        rows += measure(name, options)
        gc.collect()
        if options.json is not None:
            options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
