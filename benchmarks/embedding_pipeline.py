"""What lies between decoding and the store: encoder, overlap, Ray, memory. Ratios within one run; all on two cores.

    python benchmarks/embedding_pipeline.py --cohort TABLE --weights FILE [--rows 2000] [--json FILE]

The slides of the table at 1.0 µm/px in tiles of 256 px, by MobileNetV2 (`--weights`: its ImageNet file):

- `encode_over_eager`: OpenVINO's float32 over torch's, tiles per CPU second of one thread, from memory;
- `pipeline_share`: an actor without Ray, over the slower of decoding alone and encoding alone;
- `ray_tax`: the same actor through Ray Data, between its first and its last slide, over the actor alone;
- `embed_tiles_per_s`, `embed_bf16_tiles_per_s`: the whole command `mhim embed`, its start included, by OpenVINO;
- `noop_ms_per_slide`: the graph with an encoder of no work;
- `rss_slope_mib_per_slide`: resident memory of an actor and its decoder over 300 small slides.

The last line is JSON.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import cluster.embedding
from cluster.embedding import EmbedJob, JobEncoder, SlideActor, status_of, task_rows
from cluster.session import ray_session
from flows.config.keys import EmbedExecution
from flows.embed import status_rows
from flows.runs.cohort import load_cohort
from flows.runs.tiling import feature_set_of
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import encoder_card, load_encoder_for
from mhim_core.errors import SlideError
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import SlideId, SlideTask, StatusRow

ENCODER = "timm/mobilenetv2_100"
SPEC = TileSpec(target_mpp=1.0, tile_px=256)
SMALL = TileSpec(target_mpp=0.5, tile_px=256)
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--rows", type=int, default=2000, help="slides of the encoder of no work")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cluster.embedding._node_id = lambda: "here"  # an actor in this process has no node
    tasks = load_cohort(options.cohort).tasks()
    cards = {
        runtime: encoder_card(ENCODER, weights=options.weights, runtime=runtime) for runtime in ("torch", "openvino")
    }
    figures: dict[str, float] = {}
    figures |= encoders_alone(cards, options.weights)
    with tempfile.TemporaryDirectory() as folder:
        figures |= pipeline(tasks, cards["openvino"], options.weights, Path(folder))
        figures |= whole_commands(options.cohort, options.weights, Path(folder))
        figures |= memory(Path(folder))
    figures |= no_work(options.rows)
    figures = {name: round(value, 4) for name, value in figures.items()}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


def encoders_alone(cards: dict[str, EncoderCard], weights: str) -> dict[str, float]:
    rates = {}
    for name, card in cards.items():
        encoder = load_encoder_for(card, weights=weights)
        tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), dtype=np.uint8))
        encoder(tiles)
        seconds = []
        for _ in range(REPEATS):
            start_s = time.process_time()
            encoder(tiles)
            seconds.append(time.process_time() - start_s)
        rates[name] = len(tiles) / min(seconds)
        print(f"{name}: {rates[name]:.1f} tiles per CPU second", flush=True)
    return {"encode_over_eager": rates["openvino"] / rates["torch"]}


def make_job(store: Path, card: EncoderCard, weights: str | None, spec: TileSpec) -> EmbedJob:
    encoder = JobEncoder(feature_set_of(spec, card), card, weights)
    return EmbedJob(str(store), (encoder,), spec, SlidePolicy(), 300.0, None)


def rows_of(actor: SlideActor, tasks: Sequence[SlideTask]) -> Iterator[StatusRow]:
    batch = {"task": np.array([row["task"] for row in task_rows(tasks)])}
    for rows in actor(batch):
        for text in rows["status"]:
            yield status_of({"status": text})


def between_first_and_last(rows: Iterator[StatusRow]) -> float:
    """Tiles per second of all slides but the first, from its end on: what starts has started."""
    start_s = last_s = time.perf_counter()
    num_tiles = 0
    for number, row in enumerate(rows):
        last_s = time.perf_counter()
        if number == 0:
            start_s = last_s
        else:
            num_tiles += row.num_tiles
    return num_tiles / (last_s - start_s)


def pipeline(tasks: Sequence[SlideTask], card: EncoderCard, weights: str, folder: Path) -> dict[str, float]:
    actor = SlideActor(make_job(folder / "alone", card, weights, SPEC))
    try:
        alone = between_first_and_last(rows_of(actor, tasks))
        decode_s, num_tiles = 0.0, 0
        start_s = time.perf_counter()
        for stream in actor._decoder.streams(list(tasks)):
            try:
                num_tiles += sum(len(batch.index) for batch in list(stream)[1:])
            except SlideError:
                continue
        decode_s = time.perf_counter() - start_s
        encoder = load_encoder_for(card, weights=weights)
        tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (256, 256, 256, 3), dtype=np.uint8))
        encoder(tiles[:8])
        start_s = time.perf_counter()
        encoder(tiles)
        encode = len(tiles) / (time.perf_counter() - start_s)
    finally:
        actor.close()
    decode = num_tiles / decode_s
    with ray_session("local", 2) as resources:
        execution = EmbedExecution(embed_actors=1, slides_per_call=len(tasks))
        job = make_job(folder / "ray", card, weights, SPEC)
        through_ray = between_first_and_last(status_rows(tasks, job, execution, resources))
    print(
        f"tiles/s: decode {decode:.1f}, encode {encode:.1f}, actor {alone:.1f}, through Ray {through_ray:.1f}",
        flush=True,
    )
    return {"pipeline_share": alone / min(decode, encode), "ray_tax": through_ray / alone}


def whole_commands(cohort: str, weights: str, folder: Path) -> dict[str, float]:
    figures = {}
    for key, runtime in (("embed_tiles_per_s", "openvino"), ("embed_bf16_tiles_per_s", "openvino_bf16")):
        store = folder / runtime
        words = [
            f"cohort={cohort}",
            f"store={store}",
            "target_mpp=1.0",
            f"encoder={ENCODER}",
            f"encoder_weights={weights}",
        ]
        start_s = time.perf_counter()
        command = [sys.executable, "-m", "flows.cli", "embed", *words, f"encoder_runtime={runtime}", "local_cpus=2"]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - start_s
        if ended.returncode not in (0, 3, 4):
            print(ended.stderr[-2000:], flush=True)
            continue
        report = max((store / "reports").iterdir())
        num_tiles = json.loads((report / "summary.json").read_text())["num_tiles"]
        figures[key] = num_tiles / seconds
        print(f"{key}: {num_tiles} tiles in {seconds:.1f} s", flush=True)
    return figures


def memory(folder: Path) -> dict[str, float]:
    """The slope of least squares after 100 slides."""
    pixels = np.random.default_rng(0).integers(100, 240, (1024, 1024, 3), dtype=np.uint8)
    write_pyramid(folder / "small.tiff", pixels, mpp=(0.5, 0.5))
    card = encoder_card("hed-texture")
    actor = SlideActor(make_job(folder / "small", card, None, SMALL))
    used = []
    try:
        for index in range(300):
            list(rows_of(actor, [SlideTask(SlideId(f"s{index}"), str(folder / "small.tiff"))]))
            pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]
            pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
            used.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    finally:
        actor.close()
    slope, _ = statistics.linear_regression(range(200), used[100:])
    return {"rss_slope_mib_per_slide": slope}


def no_work(num_slides: int) -> dict[str, float]:
    from first_row import NoWork

    cluster.embedding.SlideActor = NoWork  # type: ignore[misc,assignment]
    tasks = [SlideTask(SlideId(f"s{number:06d}"), f"/slides/s{number:06d}.svs") for number in range(num_slides)]
    job = make_job(Path("unused"), encoder_card("hed-texture"), None, TileSpec())
    with ray_session("local", 2) as resources:
        start_s = first_s = time.monotonic()
        for number, _ in enumerate(status_rows(tasks, job, EmbedExecution(), resources)):
            if number == 0:
                first_s = time.monotonic()
        seconds = time.monotonic() - first_s
    return {"noop_ms_per_slide": 1000 * seconds / (num_slides - 1), "first_row_s": first_s - start_s}


if __name__ == "__main__":
    main()
