"""Tiles per second: decoding alone, encoding alone, and both as the embedding actor overlaps them.

    python benchmarks/embed_slides.py [--encoder hed-texture] [--slides 8]

Paints demo slides in a temporary folder, decodes in a child process and encodes in this one, without Ray. The figure to
watch is `overlap`: tiles/s of the pipeline over those of its slower half, in one run (1.0 is a perfect overlap).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from cluster.decoding import Decoder
from mhim_core.demo.cohort import MIN_SLIDES, write_demo_cohort
from mhim_core.embed.decode import decode_slide
from mhim_core.embed.registry import load_encoder
from mhim_core.embed.slide_encoder import SlideEncoder
from mhim_core.slides.source_identity import source_hint
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import SlideId, SlideTask


def decode(task: SlideTask) -> Iterator[object]:
    """Runs in the child."""
    path = Path(task.uri)
    yield from decode_slide(path, task, source_hint(path), spec=TileSpec(), policy=SlidePolicy())


def num_decoded(decoder: Decoder[SlideTask], tasks: list[SlideTask]) -> int:
    total = 0
    for stream in decoder.streams(tasks):
        items = iter(stream)
        next(items)
        total += sum(len(batch.index) for batch in items)
    return total


def num_embedded(decoder: Decoder[SlideTask], encoder: SlideEncoder, tasks: list[SlideTask]) -> int:
    total = 0
    for stream in decoder.streams(tasks):
        items = iter(stream)
        facts = next(items)
        total += sum(len(features.features) for features in encoder(items, facts))
    return total


def per_second(work: Callable[[], int]) -> float:
    start_s = time.perf_counter()
    return work() / (time.perf_counter() - start_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="hed-texture")
    parser.add_argument("--slides", type=int, default=8)
    options = parser.parse_args()
    tile_encoder = load_encoder(options.encoder)
    encoder = SlideEncoder([tile_encoder])
    random_tiles = torch.randint(0, 256, (128, 256, 256, 3), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_demo_cohort(folder, num_slides=max(MIN_SLIDES, options.slides), num_new=0)
        paths = sorted(Path(folder).rglob("*.tif*"))[: options.slides]
        tasks = [SlideTask(SlideId(path.stem), str(path)) for path in paths]
        decoder: Decoder[SlideTask] = Decoder(decode, 300.0)
        num_decoded(decoder, tasks[:1])  # starts the child
        tile_encoder(random_tiles[:16])
        decoding = per_second(partial(num_decoded, decoder, tasks))
        encoding = per_second(lambda: len(tile_encoder(random_tiles)))
        both = per_second(partial(num_embedded, decoder, encoder, tasks))
        decoder.close()
    result = {
        "encoder": options.encoder,
        "slides": len(tasks),
        "decoding_tiles_per_s": round(decoding, 1),
        "encoding_tiles_per_s": round(encoding, 1),
        "pipeline_tiles_per_s": round(both, 1),
        "overlap": round(both / min(decoding, encoding), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
