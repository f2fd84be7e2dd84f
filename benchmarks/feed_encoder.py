r"""Whether an encoder is kept busy: tiles per second from memory, and from slides through the pool of decoders.

    python benchmarks/feed_encoder.py --paint FILE                       a painted slide of 400 tiles (needs scipy)
    python benchmarks/feed_encoder.py --slide FILE [--device cuda] [--models vit_large_patch16_224 …] [--slides 24]
                                      [--decoders 15] [--precisions float32 bfloat16] [--json FILE]

`alone` encodes tiles that lie in the host's memory; `fed` the tiles of as many copies of the slide, decoded at level 0
by child processes as the embedding actor has them, without Ray, tissue or store. Networks have random weights. `busy`
is the mean of what nvidia-smi says of the GPU meanwhile. `slides_per_hour` is of slides of 12,000 tiles.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from encode_tiles import INPUT_PX, MODELS, TILE_PX, make_card, make_network

from cluster.decoding import Decoder
from mhim_core.embed.card import (
    BFLOAT16,
    CPU_BATCH_SIZE,
    CUDA_BATCH_SIZE,
    FLOAT32,
    RUNTIME_CPU,
    RUNTIME_CUDA,
)
from mhim_core.embed.encoder import TorchEncoder
from mhim_core.embed.facts import plan_facts
from mhim_core.embed.slide_encoder import SlideEncoder
from mhim_core.features import MppUsed, SlideView, SourceHint, SourceIdentity
from mhim_core.slides.grid import plan_tiles
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.reader import open_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import SlideId, SlideTask

PAINTED_PX = 20 * TILE_PX
TILES_OF_A_SLIDE = 12_000
MASK_MPP = 8.0


def paint(path: Path) -> None:
    """Painted tissue, side by side, as a pyramid of JPEG tiles."""
    from mhim_core.demo.pyramid import write_pyramid
    from mhim_core.demo.slide import paint_slide

    pictures = [paint_slide(np.random.default_rng(seed), quiet=True).pixels[:1024, :1024] for seed in range(5)]
    row = np.concatenate(pictures, axis=1)
    rows = [np.roll(row, 1024 * index, axis=1) for index in range(5)]
    write_pyramid(path, np.concatenate(rows)[:PAINTED_PX, :PAINTED_PX], mpp=(0.5, 0.5))


def decode(task: SlideTask) -> Iterator[object]:
    """Runs in the child: every tile of the slide, without a look for tissue."""
    spec, policy = TileSpec(), SlidePolicy()
    with open_slide(Path(task.uri)) as reader:
        info = reader.info()
        mpp = MppUsed(spec.target_mpp, spec.target_mpp, "override")
        size = (round(info.height_l0_px * mpp.y / MASK_MPP), round(info.width_l0_px * mpp.x / MASK_MPP))
        plan = plan_tiles(info, mpp, spec, policy, TissueMask(is_tissue=np.ones(size, bool), mask_mpp=MASK_MPP))
        note = reader.prepare_level(plan.level)
        slide: Any = SimpleNamespace(reader=reader, info=info, mpp=mpp, plan=plan, view=SlideView(), decoding=note)
        yield plan_facts(task.slide_id, slide, spec, SourceIdentity(1, ""), SourceHint(task.uri, 1, ""), "")
        yield from reader.tiles(plan, 32)


def embed(decoder: Decoder[SlideTask], encoder: SlideEncoder, tasks: list[SlideTask]) -> int:
    """Tiles encoded."""
    total = 0
    for stream in decoder.streams(tasks):
        items = iter(stream)
        facts = next(items)
        total += sum(len(features.features) for features in encoder(items, facts))
    return total


@contextmanager
def utilisation(device: str) -> Iterator[list[float]]:
    """Percent of the time that the GPU computes, five times a second; empty without nvidia-smi."""
    percents: list[float] = []
    tool = shutil.which("nvidia-smi") if device != "cpu" else None
    if tool is None:
        yield percents
        return
    command = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield percents
        finally:
            process.terminate()
            lines, _ = process.communicate()
            percents += [float(line) for line in lines.split() if line.replace(".", "").isdigit()]


def measure(name: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: alone and fed."""
    network = make_network(name, torch.device(options.device))
    with torch.inference_mode():
        dim = network(torch.zeros(1, TILE_PX, TILE_PX, 3, dtype=torch.uint8, device=options.device)).shape[1]
    runtime = {"runtime": RUNTIME_CUDA, "batch_size": CUDA_BATCH_SIZE, "num_threads": 0}
    if options.device == "cpu":
        runtime = {"runtime": RUNTIME_CPU, "batch_size": CPU_BATCH_SIZE, "num_threads": 1}
    encoder = TorchEncoder(make_card(name, dim, precision=precision, **runtime), network)
    tiles = torch.randint(256, (4 * encoder.card.batch_size, TILE_PX, TILE_PX, 3), dtype=torch.uint8)
    encoder(tiles)
    num_tiles, start_s = 0, time.perf_counter()
    while time.perf_counter() - start_s < options.seconds:
        encoder(tiles)
        num_tiles += len(tiles)
    alone = num_tiles / (time.perf_counter() - start_s)
    tasks = [SlideTask(SlideId(f"copy{index}"), str(options.slide)) for index in range(options.slides)]
    decoder: Decoder[SlideTask] = Decoder(decode, 300.0, num_children=options.decoders)
    try:
        decoder.start()
        embed(decoder, SlideEncoder([encoder]), tasks[: options.decoders])  # every child has its imports behind it
        start_s = time.perf_counter()
        with utilisation(options.device) as percents:
            num_tiles = embed(decoder, SlideEncoder([encoder]), tasks)
            fed = num_tiles / (time.perf_counter() - start_s)
    finally:
        decoder.close()
    return {
        "model": name,
        "precision": precision,
        "decoders": options.decoders,
        "input_px": INPUT_PX,
        "alone_tiles_per_s": round(alone, 1),
        "fed_tiles_per_s": round(fed, 1),
        "fed_over_alone": round(fed / alone, 3),
        "busy": round(float(np.mean(percents)), 1) if percents else None,
        "slides_per_hour": round(3600 * fed / TILES_OF_A_SLIDE, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paint", type=Path)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=MODELS[:3])
    parser.add_argument("--precisions", nargs="+", default=[FLOAT32, BFLOAT16], choices=[FLOAT32, BFLOAT16])
    parser.add_argument("--slides", type=int, default=24, help="copies of the slide")
    parser.add_argument("--decoders", type=int, default=max(1, len(os.sched_getaffinity(0)) - 1))
    parser.add_argument("--seconds", type=float, default=2.0, help="of encoding alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.paint is not None:
        paint(options.paint)
        return
    if options.slide is None:
        parser.error("give --slide, or --paint to make one")
    rows = []
    for name in options.models:
        for precision in options.precisions:
            rows.append(measure(name, precision, options))
            print(json.dumps(rows[-1]), flush=True)
            gc.collect()
            if options.json is not None:
                options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
