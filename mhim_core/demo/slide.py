"""Painting one H&E-like slide: tissue pieces, stroma, glands, lymphocytes and, on tumour slides, foci of two kinds.

Densities of two stains are painted and turned to light by Beer-Lambert (Ruifrok & Johnston 2001). Stain strength varies
from slide to slide and every slide has dark, dense lymphoid aggregates: a slide's mean colour does not give it away.
The tumour is a melanoma. A loud focus is a small sheet of large cells full of melanin, a brown that nothing else has.
Quiet foci have no pigment and cover more: nuclei only somewhat larger than others, strewn over stroma that stays as it
is. Where both are there, the loud ones are enough to tell.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter

from mhim_core.demo.texture import (
    FIBROBLAST,
    LOUD_TUMOUR,
    LYMPHOCYTE,
    QUIET_TUMOUR,
    NucleusKind,
    enlarged,
    fibres,
    glands,
    nuclei,
    pick,
    smooth_noise,
    stamp,
)

MPP = 0.5
"""µm/px of every demo slide's level 0."""
_COARSE_PX = 8
"""Shapes are decided on a grid this coarse and enlarged."""
TILE_PX = 128
"""What the demo cuts: 64 µm. A loud focus fills one cell of this grid, so that a hidden tile leaves no rim of it."""
_NUM_LOUD = 2
_LOUD_RADIUS_PX, _QUIET_RADIUS_PX = (60, 70), (115, 135)
_HAEMATOXYLIN_OD = np.array([0.90, 1.02, 0.42], np.float32)
_EOSIN_OD = np.array([0.12, 0.82, 0.42], np.float32)
_MELANIN_OD = np.array([0.62, 1.0, 1.35], np.float32)
"""Of no stain, so the same on every slide."""


Outline = tuple[tuple[int, int], ...]
"""A closed polygon, (x, y) in level-0 pixels."""


class FocusKind(StrEnum):
    """How much a tumour focus differs from the tissue around it."""

    loud = "loud"
    quiet = "quiet"


class Focus(NamedTuple):
    """One place with tumour."""

    kind: FocusKind
    outline: Outline


@dataclass(frozen=True, eq=False)
class PaintedSlide:
    """A finished picture and what is known about it."""

    pixels: np.ndarray
    """uint8 (rows, columns, 3)."""
    foci: tuple[Focus, ...]
    """The tumour, loud before quiet; none on a normal slide."""


class _Densities(NamedTuple):
    """Two stains' densities and the pigment's, float32 (rows, columns), painted in place."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    melanin: np.ndarray


def paint_slide(rng: np.random.Generator, *, loud: bool = False, quiet: bool = False) -> PaintedSlide:
    """One slide of about 1,200 × 1,200 px, half of it tissue, with two loud foci, one or two quiet ones, both or none.

    The same generator state gives the same pixels.
    """
    [light] = rng.spawn(1)  # the stain's own, so that what is painted does not change it
    shape = (int(rng.integers(1100, 1300)), int(rng.integers(1100, 1300)))
    coarse = (-(-shape[0] // _COARSE_PX), -(-shape[1] // _COARSE_PX))
    field = _tissue_field(rng, coarse)
    num_loud, num_quiet = _NUM_LOUD if loud else 0, int(rng.integers(1, 3)) if quiet else 0
    louds = _place_blobs(rng, field, num=num_loud, radius_px=rng.uniform(*_LOUD_RADIUS_PX), grid_px=TILE_PX)
    quiets = _place_blobs(rng, field, num=num_quiet, radius_px=rng.uniform(*_QUIET_RADIUS_PX), apart_from=louds)
    aggregates = _place_blobs(rng, field, num=int(rng.integers(1, 4)), radius_px=rng.uniform(45, 100))
    half = (-(-shape[0] // 2), -(-shape[1] // 2))
    tissue = _tissue_cover(rng, field, half)
    sheet = _mask_of(rng, louds, half) * tissue
    strewn = _mask_of(rng, quiets, half) * tissue * (1 - sheet)
    lymphoid = _mask_of(rng, aggregates, half) * tissue * (1 - sheet) * (1 - strewn)
    ground = _paint_stroma(rng, tissue)
    _blend_sheet(rng, ground, sheet)
    densities = _Densities(*(enlarged(stain, shape) for stain in ground))
    tissue, sheet, strewn, lymphoid = (cover[::4, ::4] for cover in (tissue, sheet, strewn, lymphoid))
    _scatter(rng, densities, FIBROBLAST, spacing_px=34, keep=0.75 * tissue * (sheet + strewn < 0.5))
    _scatter(rng, densities, LYMPHOCYTE, spacing_px=60, keep=0.4 * tissue)
    _paint_glands(rng, densities, field, sheet + strewn)
    _scatter(rng, densities, LYMPHOCYTE, spacing_px=14, keep=0.95 * lymphoid)
    _scatter(rng, densities, QUIET_TUMOUR, spacing_px=28, keep=0.9 * strewn)
    _scatter(rng, densities, LOUD_TUMOUR, spacing_px=24, keep=0.93 * sheet)
    foci = [Focus(kind, blob) for kind, blobs in zip(FocusKind, (louds, quiets), strict=True) for blob in blobs]
    return PaintedSlide(_to_light(light, densities), tuple(foci))


def _tissue_field(rng: np.random.Generator, coarse: tuple[int, int]) -> np.ndarray:
    """Coarse signed field, positive in tissue: one to three ragged pieces that cover about half of the slide."""
    y, x = np.mgrid[0 : coarse[0], 0 : coarse[1]].astype(np.float32)
    y, x = y / coarse[0], x / coarse[1]
    pieces = []
    num = int(rng.integers(1, 4))
    for piece in range(num):
        middle = (piece + 0.5) / num
        turn = rng.normal(0.3, 0.25)
        dx, dy = x - middle - rng.normal(0, 0.03), y - 0.5 - rng.normal(0, 0.06)
        u, v = dx * np.cos(turn) + dy * np.sin(turn), -dx * np.sin(turn) + dy * np.cos(turn)
        pieces.append(1 - (u / (0.42 / num)) ** 2 - (v / 0.42) ** 2)
    field = np.max(pieces, axis=0) + 0.22 * smooth_noise(rng, coarse, 9) + 0.08 * smooth_noise(rng, coarse, 2.5)
    margin = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    field = field - 40 * np.clip(0.03 - margin, 0, None)
    return np.asarray(field - np.quantile(field, 0.51), np.float32)


def _tissue_cover(rng: np.random.Generator, field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Full-size cover, 0 glass to 1 tissue, with a frayed edge and a few cracks."""
    frayed = field + 0.035 * smooth_noise(rng, field.shape, 1.0)
    cracks = np.abs(smooth_noise(rng, field.shape, 7)) + 0.05 * np.abs(smooth_noise(rng, field.shape, 1.5))
    cover = np.clip(enlarged(frayed, shape) * 14, 0, 1)
    return np.asarray(cover * np.clip(enlarged(cracks, shape) * 16 - 0.35, 0, 1), np.float32)


def _place_blobs(
    rng: np.random.Generator,
    field: np.ndarray,
    num: int,
    radius_px: float,
    apart_from: tuple[Outline, ...] = (),
    grid_px: int = 1,
) -> tuple[Outline, ...]:
    """Ragged outlines that lie inside the tissue, apart from each other and from those given, as far as there is room.

    `grid_px`: their middles are those of the grid's cells.
    """
    depth_px = distance_transform_edt(field > 0) * _COARSE_PX
    for outline in apart_from:
        (x, y), reach = np.mean(outline, axis=0), np.ptp(outline, axis=0).max() / 2
        depth_px *= np.where(_distance_px(field.shape, x, y) > reach + 1.2 * radius_px, 1, 0.2)
    blobs = []
    for _ in range(num):
        deep = np.argwhere(depth_px >= min(1.05 * radius_px, 0.9 * depth_px.max()))
        row, column = deep[int(rng.integers(len(deep)))]
        centre_x, centre_y = (((cell + 0.5) * _COARSE_PX // grid_px + 0.5) * grid_px for cell in (column, row))
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        ragged = 1 + sum(0.25 / wave * rng.normal() * np.cos(wave * angle + rng.uniform(0, 6.3)) for wave in (2, 3, 5))
        radius = radius_px * np.clip(ragged, 0.65, 1.3)
        x, y = centre_x + radius * np.cos(angle), centre_y + radius * np.sin(angle)
        blobs.append(tuple((int(px), int(py)) for px, py in zip(x, y, strict=True)))
        depth_px *= np.where(_distance_px(field.shape, centre_x, centre_y) > 2.4 * radius_px, 1, 0.2)
    return tuple(blobs)


def _distance_px(shape: tuple[int, ...], x: float, y: float) -> np.ndarray:
    """Of every coarse cell's centre from a point, in level-0 pixels."""
    row, column = np.indices(shape)
    return np.asarray(np.hypot((column + 0.5) * _COARSE_PX - x, (row + 0.5) * _COARSE_PX - y))


def _mask_of(rng: np.random.Generator, outlines: tuple[Outline, ...], shape: tuple[int, int]) -> np.ndarray:
    """Half-size cover of the outlines, 0 to 1, with a rim that frays into its surroundings."""
    if not outlines:
        return np.zeros(shape, np.float32)
    picture = Image.new("L", (-(-shape[1] // 4), -(-shape[0] // 4)))
    for outline in outlines:
        ImageDraw.Draw(picture).polygon([(x / 8, y / 8) for x, y in outline], fill=255)
    soft = gaussian_filter(np.asarray(picture, np.float32) / 255, 4)
    frayed = soft + 0.16 * smooth_noise(rng, soft.shape, 2.5) * (soft > 0.02)
    return np.clip((enlarged(frayed, shape) - 0.5) * 3 + 0.5, 0, 1)


def _paint_stroma(rng: np.random.Generator, tissue: np.ndarray) -> _Densities:
    """Half-size collagen: wavy strands whose direction wanders, over a pale ground."""
    coarse = (tissue.shape[0] // 8, tissue.shape[1] // 8)
    weights = np.stack([np.exp(3.5 * smooth_noise(rng, coarse, 13)) for _ in range(4)])
    weights /= weights.sum(0)
    strands = np.zeros_like(tissue)
    for texture, weight in zip(fibres(), weights, strict=True):
        top, left = (int(rng.integers(size)) for size in texture.shape)
        repeats = [-(-size // period) + 1 for size, period in zip(tissue.shape, texture.shape, strict=True)]
        window = np.s_[top : top + tissue.shape[0], left : left + tissue.shape[1]]
        strands += np.tile(texture, repeats)[window] * enlarged(weight, tissue.shape)
    density = enlarged(np.clip(1 + 0.18 * smooth_noise(rng, coarse, 7), 0.5, 1.5), tissue.shape)
    loose = np.clip((strands - 0.16) * 6, 0.1, 1)  # gaps between bundles show glass
    eosin = tissue * density * loose * (0.22 + 0.62 * strands)
    return _Densities(0.07 * tissue * loose, eosin, np.zeros_like(eosin))


def _blend_sheet(rng: np.random.Generator, ground: _Densities, focus: np.ndarray) -> None:
    """Where the loud tumour grows, cytoplasm full of pigment replaces stroma."""
    cloud = enlarged(smooth_noise(rng, (focus.shape[0] // 4, focus.shape[1] // 4), 1.5), focus.shape)
    ground.eosin[...] += 0.8 * focus * (0.40 + 0.06 * cloud - ground.eosin)
    ground.haematoxylin[...] += 0.8 * focus * (0.15 + 0.03 * cloud - ground.haematoxylin)
    clumps = enlarged(smooth_noise(rng, (focus.shape[0] // 2, focus.shape[1] // 2), 1.5), focus.shape)
    ground.melanin[...] = focus * np.clip(0.5 + 0.25 * clumps, 0.1, 1.0)


def _paint_glands(rng: np.random.Generator, densities: _Densities, field: np.ndarray, focus: np.ndarray) -> None:
    """Crypts on a jittered lattice wherever the tissue is mucosa and not tumour."""
    mucosa = smooth_noise(rng, field.shape, 12)
    inside = distance_transform_edt(field > 0)
    for x, y in _jittered_lattice(rng, densities.eosin.shape, 136, jitter=0.13):
        row, column = int(y) // _COARSE_PX, int(x) // _COARSE_PX
        if mucosa[row, column] < -0.25 or inside[row, column] < 5 or focus[int(y) // 8, int(x) // 8] > 0.05:
            continue
        gland = glands()[int(rng.integers(len(glands())))]
        half = gland.opacity.shape[0] // 2
        top, left = int(y) - half, int(x) - half
        if top < 0 or left < 0:
            continue
        window = np.s_[top : top + 2 * half + 1, left : left + 2 * half + 1]
        for canvas, sprite in ((densities.haematoxylin, gland.haematoxylin), (densities.eosin, gland.eosin)):
            view = canvas[window]
            cut = np.s_[: view.shape[0], : view.shape[1]]
            view += gland.opacity[cut] * (sprite[cut] - view)


def _scatter(
    rng: np.random.Generator, densities: _Densities, kind: NucleusKind, spacing_px: float, keep: np.ndarray
) -> None:
    """Nuclei on a jittered lattice; `keep` is the chance to be there, at an eighth of full size."""
    points = _jittered_lattice(rng, densities.haematoxylin.shape, spacing_px, jitter=0.22)
    chance = keep[points[:, 1].astype(np.int64) // 8, points[:, 0].astype(np.int64) // 8]
    sprites = nuclei(kind)
    for x, y in points[rng.random(len(points)) < chance]:
        stamp(densities.haematoxylin, pick(sprites, rng), x, y)


def _jittered_lattice(rng: np.random.Generator, shape: tuple[int, int], spacing_px: float, jitter: float) -> np.ndarray:
    """Points (x, y) on a hexagonal lattice, each moved by `jitter` spacings (standard deviation), inside the shape."""
    rows, columns = np.arange(0, shape[0], spacing_px * 0.87), np.arange(0, shape[1], spacing_px)
    x = columns[None, :] + (np.arange(len(rows))[:, None] % 2) * spacing_px / 2
    y = np.broadcast_to(rows[:, None], x.shape)
    points = np.stack([x.ravel(), y.ravel()], 1) + rng.normal(0, jitter * spacing_px, (x.size, 2))
    return np.asarray(np.clip(points, 0, [shape[1] - 1, shape[0] - 1]))


def _to_light(rng: np.random.Generator, densities: _Densities) -> np.ndarray:
    """Transmitted light through stains and pigment, each slide with its own strengths, hues and glass; uint8 RGB."""
    haematoxylin_od = rng.uniform(0.72, 1.25) * _HAEMATOXYLIN_OD * rng.normal(1, 0.05, 3)
    eosin_od = rng.uniform(0.65, 1.25) * _EOSIN_OD * rng.normal(1, 0.07, 3)
    glass = np.array([243, 242, 244]) + rng.normal(0, 1.2, 3)
    haematoxylin = gaussian_filter(densities.haematoxylin, 0.8, truncate=2)  # the objective's point spread
    eosin, melanin = densities.eosin, densities.melanin
    noise = rng.standard_normal((256, 256), np.float32) * 1.2
    grain = np.tile(noise, (-(-eosin.shape[0] // 256), -(-eosin.shape[1] // 256)))[: eosin.shape[0], : eosin.shape[1]]
    pixels = np.empty((*eosin.shape, 3), np.uint8)
    for channel in range(3):
        density = haematoxylin * np.float32(haematoxylin_od[channel]) + eosin * np.float32(eosin_od[channel])
        density += melanin * _MELANIN_OD[channel]
        light = np.float32(glass[channel]) * np.exp(-density) + grain
        np.clip(light, 0, 255, out=light)
        pixels[..., channel] = light
    return pixels
