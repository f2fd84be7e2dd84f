"""How fast slides are decoded, as ratios within one run; CPU seconds of one thread, the least of three.

    python benchmarks/embedding.py --slides FOLDER [FOLDER …] [--max-tiles 600] [--json FILE]
    python benchmarks/embedding.py --slides FOLDER [FOLDER …] --encoders [NAME …] [--target-mpp 0.5] [--json FILE]

For every slide of JPEG tiles under the folders, the tiles of its tissue at level 0 as `mhim embed` reads them:
`aligned` with the file's own tiles, `shifted` by 100 px, and `level1`, tiles of the next level, which lie between its
pixels. `pure` decodes the file tiles that are touched from memory, once each, by libjpeg-turbo and nothing else.
fastslide is compared where it is installed (`pip install fastslide`; its pixels differ from OpenSlide's). `tissue` is
opening a slide, its picture at 8 µm/px, and finding tissue there.

With `--encoders`, how much one pass over several encoders saves: every slide from file to features (hashed, opened,
tissue found, its tiles at `target_mpp` decoded and encoded), by each encoder alone and by all together; the encoders
are loaded already. Without names five small networks of timm, with random weights.

Of several encoders
`multi_encoder_speedup` is the sum of the runs alone over the run together, `together_over_slowest` that run over the
slowest alone, both over all slides; `decode_share` is the share of decoding in the slowest.

`range_bytes_over_tissue`: the same slides in a bucket, embedded by ranges (`remote_ranges.py`); bytes that the server
sent, over those of the file tiles that planned tiles touch and of what is read before them (directories, the level of
the picture, the blocks of the identity). `…_over_tiles_and_directories`: without the latter two, which weigh in small
files such as these.

The last line is JSON; each `decode_…` is the least over the slides, `tissue_s` and `range_…` the most.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from remote_ranges import fetched

from mhim_core.embed.embedder import embed_slide
from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.registry import load_encoder
from mhim_core.embed.timm_encoder import import_timm
from mhim_core.errors import SlideError
from mhim_core.slides.backends.direct import DirectBackend
from mhim_core.slides.file_tiles import FileTiles
from mhim_core.slides.grid import TilePlan
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.reader import open_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import SlideId, SlideTask

SHIFT_PX = 100
REPEATS = 3
SMALL_NETWORKS = ("lcnet_050", "mobilenetv3_small_050", "tinynet_e", "mobilenetv3_small_075", "lcnet_075")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, nargs="+", required=True)
    parser.add_argument("--max-tiles", type=int, default=600)
    parser.add_argument("--encoders", nargs="*")
    parser.add_argument("--target-mpp", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.encoders is not None:
        compare_passes(arguments)
        return
    rows = []
    for path in sorted(path for folder in arguments.slides for path in folder.rglob("*.*")):
        row = measured(path, arguments.max_tiles)
        if row:
            rows.append(row)
            print(path.name, " ".join(f"{key} {value:,.4g}" for key, value in row.items()), flush=True)
    summary = summarised(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summary, "slides": rows}, indent=2) + "\n")
    print(json.dumps(summary))


def measured(path: Path, max_tiles: int) -> dict[str, float]:
    """Tiles/s of one slide by reader and grid; empty where it is not of JPEG tiles or holds no tissue."""
    try:
        with open_slide(path) as reader:
            if not isinstance(reader._backend, DirectBackend) or 0 not in reader._backend._unchecked:
                return {}
            tiles = reader._backend._unchecked[0]
            mpp = reader.info().mpp_x or 1.0
        plan = planned(path, tiles.grid.tile_width_px, mpp, mpp, max_tiles)
    except SlideError:
        return {}
    if len(plan) < 50:
        return {}
    shifted = dataclasses.replace(plan, coords_l0_px=plan.coords_l0_px + np.int32(SHIFT_PX))
    row = {"tiles": float(len(plan)), "tissue_s": tissue_s(path, mpp), **fetched(path, mpp, mpp)}
    for name, of_grid in (("aligned", plan), ("shifted", shifted)):
        row[f"pure_{name}"] = len(plan) / least_s(lambda grid=of_grid: pure(path, grid))
        for backend in ("direct", "openslide"):
            row[f"{backend}_{name}"] = len(plan) / read_s(path, backend, of_grid)
        if importlib.util.find_spec("fastslide"):
            row[f"fastslide_{name}"] = len(plan) / least_s(lambda grid=of_grid: by_fastslide(path, grid))
    try:
        coarse = planned(path, tiles.grid.tile_width_px, mpp, 4 * mpp, max_tiles)
    except SlideError:
        return row
    if coarse.level and len(coarse):
        for backend in ("direct", "openslide"):
            row[f"{backend}_level1"] = len(coarse) / read_s(path, backend, coarse)
    return row


def planned(path: Path, tile_px: int, mpp: float, target_mpp: float, max_tiles: int) -> TilePlan:
    """The first tiles with tissue; at the slide's own resolution they are the file's tiles."""
    spec = TileSpec(tile_px=tile_px, target_mpp=target_mpp)
    with prepare_slide(path, mpp_override=mpp, spec=spec, policy=SlidePolicy()) as slide:
        plan = slide.plan
    return dataclasses.replace(
        plan, coords_l0_px=plan.coords_l0_px[:max_tiles], tissue_share=plan.tissue_share[:max_tiles]
    )


def read_s(path: Path, backend: str, plan: TilePlan) -> float:
    """Reading alone: the file is open, and its level compared with OpenSlide's."""
    with open_slide(path, backend) as reader:
        reader.prepare_level(plan.level)

        def read() -> None:
            for _ in reader.tiles(plan, 32):
                pass

        return least_s(read)


def pure(path: Path, plan: TilePlan) -> Iterator[Any]:
    """Prepares, then decodes: `least_s` counts from the first item on."""
    with open_slide(path, "direct") as reader:
        tiles: FileTiles = reader._backend._unchecked[0]  # type: ignore[attr-defined]
        grid = tiles.grid
        touched = {
            (row, column)
            for x, y in plan.coords_l0_px.tolist()
            for row in range(y // grid.tile_height_px, (y + plan.read_px[1] - 1) // grid.tile_height_px + 1)
            for column in range(x // grid.tile_width_px, (x + plan.read_px[0] - 1) // grid.tile_width_px + 1)
            if row * grid.tile_height_px < grid.height_px and column < grid.columns
        }
        streams = [tiles.stream(row * grid.columns + column) for row, column in sorted(touched)]
    yield
    import simplejpeg

    for stream in streams:
        simplejpeg.decode_jpeg(stream, "RGB", fastdct=False, fastupsample=False)


def by_fastslide(path: Path, plan: TilePlan) -> Iterator[Any]:
    import fastslide

    slide = fastslide.FastSlide.from_file_path(str(path))
    yield
    for x, y in plan.coords_l0_px.tolist():
        slide.read_region((x, y), 0, plan.read_px)


def tissue_s(path: Path, mpp: float) -> float:
    def find() -> None:
        prepare_slide(path, mpp_override=mpp, spec=TileSpec(target_mpp=mpp), policy=SlidePolicy()).close()

    return least_s(find)


def least_s(work: Callable[[], Any]) -> float:
    """CPU seconds, the least of three; of a generator, from its first item on."""
    seconds = []
    for _ in range(REPEATS):
        steps = work()
        if isinstance(steps, Iterator):
            next(steps)
            start_s = time.process_time()
            next(steps, None)
        else:
            start_s = time.process_time()
            work()
        seconds.append(time.process_time() - start_s)
    return min(seconds)


def compare_passes(arguments: argparse.Namespace) -> None:
    encoders = [load_encoder(name) for name in arguments.encoders] or small_encoders()
    spec = TileSpec(target_mpp=arguments.target_mpp)
    rows = []
    for path in sorted(path for folder in arguments.slides for path in folder.rglob("*.*")):
        try:
            row = passes(path, encoders, spec)
        except SlideError:
            continue
        if row["tiles"]:
            rows.append(row)
            print(path.name, " ".join(f"{key} {value:,.4g}" for key, value in row.items()), flush=True)
    total = {key: sum(row[key] for row in rows) for key in rows[0]}
    alone = [total[encoder.card.id] for encoder in encoders]
    summary = {
        "multi_encoder_speedup": round(sum(alone) / total["together"], 3),
        "together_over_slowest": round(total["together"] / max(alone), 3),
        "decode_share": round(total["decode"] / max(alone), 3),
        "encoders": len(encoders),
        "tiles": total["tiles"],
        "slides": len(rows),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summary, "slides": rows}, indent=2) + "\n")
    print(json.dumps(summary))


def passes(path: Path, encoders: Sequence[TileEncoder], spec: TileSpec) -> dict[str, float]:
    """CPU seconds of a slide from file to features, by encoder and together; of those `decode`, with none of them."""
    task = SlideTask(SlideId("measured"), str(path), None)
    tiles = 0

    def embed(*chosen: TileEncoder) -> Any:
        nonlocal tiles
        tiles = len(embed_slide(task, chosen, spec=spec, policy=POLICY)[0].features)

    def decode() -> None:
        with prepare_slide(path, mpp_override=None, spec=spec, policy=POLICY) as slide:
            for _ in slide.reader.tiles(slide.plan):
                pass

    row = {"together": least_s(lambda: embed(*encoders)), "decode": least_s(decode), "tiles": float(tiles)}
    return row | {encoder.card.id: least_s(lambda encoder=encoder: embed(encoder)) for encoder in encoders}


POLICY = SlidePolicy(default_mpp=0.5, max_upsample=4)
"""Also slides that state no resolution are measured."""


def small_encoders() -> list[TileEncoder]:
    import torch

    timm, encoders = import_timm(), []
    with tempfile.TemporaryDirectory() as folder:
        for name in SMALL_NETWORKS:
            weights = Path(folder, f"{name}.pth")
            torch.save(timm.create_model(name).state_dict(), weights)
            encoders.append(load_encoder(f"timm/{name}", weights=str(weights)))
    return encoders


def summarised(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    ratios = {
        "decode_over_pure_aligned": ("direct_aligned", "pure_aligned"),
        "decode_over_pure_shifted": ("direct_shifted", "pure_shifted"),
        "decode_over_openslide": ("direct_aligned", "openslide_aligned"),
        "decode_over_openslide_shifted": ("direct_shifted", "openslide_shifted"),
        "decode_over_openslide_level1": ("direct_level1", "openslide_level1"),
        "decode_over_fastslide_aligned": ("direct_aligned", "fastslide_aligned"),
        "decode_over_fastslide_shifted": ("direct_shifted", "fastslide_shifted"),
    }
    summary = {
        name: round(min((row[over] / row[under] for row in rows if {over, under} <= row.keys()), default=math.nan), 3)
        for name, (over, under) in ratios.items()
    }
    return {
        **summary,
        "tissue_s": round(max((row["tissue_s"] for row in rows), default=math.nan), 4),
        **{
            name: round(max((row[name] for row in rows), default=math.nan), 4)
            for name in ("range_bytes_over_tissue", "range_bytes_over_tiles_and_directories", "range_bytes_over_file")
        },
        "slides": len(rows),
    }


if __name__ == "__main__":
    main()
