"""The tiles of an embedded slide as PNG: the pixels that its features were made of, read again."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed, SourceIdentity
from mhim_core.slides.colour_sample import slide_colour
from mhim_core.slides.grid import TilePlan, geometry_again
from mhim_core.slides.reader import open_slide
from mhim_core.slides.source_identity import source_identity
from mhim_core.slides.spec import ColourMethod, SlidePolicy, TileSpec
from mhim_core.types import FailureReason, SlideId

_ROUNDING = 1.001
_BATCH = 32
_PNG_LEVEL = 3
"""Of zlib; 6 takes twice the time for 2 % less."""


class TileImage(NamedTuple):
    """One tile."""

    name: str
    """`<tile>_<x>_<y>`, the tile's number with six digits, its place in level-0 pixels."""
    png: bytes
    facts: dict[str, Any]
    """slide_id, tile, x_l0_px, y_l0_px, and the slide's mpp and effective_mpp."""


def tile_images(
    path: Path,
    slide_id: SlideId,
    coords_l0_px: np.ndarray,
    *,
    spec: TileSpec,
    mpp: MppUsed,
    upsample: float,
    effective_mpp: tuple[float, float],
    source: SourceIdentity,
    tile_size_l0_px: tuple[int, int],
    num_bad_tiles: int = 0,
) -> Iterator[TileImage]:
    """The tiles at these places, int32 (N, 2), in order; as they were cut for the features of `source`.

    `num_bad_tiles`: planned tiles that could not be read then. Raises SlideError: READ if the file is another one by
    now, one of its tiles cannot be read, or its colours were told by tiles that are not among these; OPEN, NOT_FOUND.
    """
    is_recoloured = spec.colour is not ColourMethod.none
    if is_recoloured and (num_bad_tiles or spec.min_sharpness or spec.selects):
        raise SlideError(
            FailureReason.READ,
            f"slide {slide_id}: its colours were told by all planned tiles, and those that were left out or could not "
            "be read are not in the store, so that its tiles cannot be made again",
        )
    if source_identity(path) != source:
        raise SlideError(FailureReason.READ, f"slide {slide_id}: {path.name} is not the file that was embedded")
    with open_slide(path, spec.backend) as reader:
        policy = SlidePolicy(max_upsample=max(1.0, upsample * _ROUNDING))
        plan = TilePlan(
            coords_l0_px=coords_l0_px,
            tissue_share=np.ones(len(coords_l0_px), np.float32),
            tile_px=spec.tile_px,
            geometry=geometry_again(reader.info(), mpp, spec, policy, tile_size_l0_px),
        )
        while reader.leave_out_broken(plan):
            plan = replace(plan, geometry=geometry_again(reader.info(), mpp, spec, policy, tile_size_l0_px))
        reader.prepare_level(plan.level)
        colour = slide_colour(reader, plan, spec.colour) if is_recoloured else None
        num_read = 0
        for batch in reader.tiles(plan, _BATCH):
            tiles = batch.tiles if colour is None else colour.apply(batch.tiles)
            for index, pixels in zip(batch.index.tolist(), tiles, strict=True):
                num_read += 1
                yield _image(slide_id, index, coords_l0_px[index].tolist(), pixels, mpp, effective_mpp)
    if num_read != len(coords_l0_px):
        missing = len(coords_l0_px) - num_read
        raise SlideError(FailureReason.READ, f"slide {slide_id}: {missing} of its tiles cannot be read any more")


def tile_shards(images: Iterator[TileImage], slide_id: SlideId, tiles_per_shard: int) -> Iterator[tuple[str, bytes]]:
    """WebDataset shards of one slide, `<slide>-000000.tar` and so on: `<slide>_<tile>_<x>_<y>` with .png and .json."""
    waiting: list[TileImage] = []
    number = 0
    for image in images:
        waiting.append(image)
        if len(waiting) == tiles_per_shard:
            yield f"{slide_id}-{number:06d}.tar", _shard(waiting, slide_id)
            waiting, number = [], number + 1
    if waiting:
        yield f"{slide_id}-{number:06d}.tar", _shard(waiting, slide_id)


def _image(
    slide_id: SlideId,
    index: int,
    place: Sequence[int],
    pixels: np.ndarray,
    mpp: MppUsed,
    effective_mpp: tuple[float, float],
) -> TileImage:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    x, y = place
    facts = {
        "slide_id": slide_id,
        "tile": index,
        "x_l0_px": x,
        "y_l0_px": y,
        "mpp": [mpp.x, mpp.y],
        "effective_mpp": list(effective_mpp),
    }
    return TileImage(f"{index:06d}_{x}_{y}", buffer.getvalue(), facts)


def _shard(images: Sequence[TileImage], slide_id: SlideId) -> bytes:
    """The same tiles give the same bytes: members in order, without times, owners or modes of this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as shard:
        for image in images:
            # a sample's key ends at the first dot of its name
            key = f"{slide_id.replace('.', '-')}_{image.name}"
            for extension, data in (("json", _json(image.facts)), ("png", image.png)):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size, member.mode = len(data), 0o644
                shard.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _json(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode()
