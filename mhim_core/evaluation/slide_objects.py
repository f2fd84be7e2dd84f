"""What a model made of a slide, as objects for QuPath: attended areas, evidence by class, top tiles, tissue.

Shapes: N tiles, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mhim_core.evaluation.discovery import FoundFocus
from mhim_core.features import MppUsed
from mhim_core.metrics.arrays import Floats
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.outlines import area_of, mask_outlines, tile_outlines
from mhim_core.slides.qupath import ObjectType, QupathObject, Rgb, box, class_colour

TISSUE = "Tissue"
TOP_TILE = "Top tile"
_TISSUE_RGB: Rgb = (150, 150, 150)
_TOP_RGB: Rgb = (214, 39, 40)
_COOL_RGB, _HOT_RGB = (68, 1, 84), (253, 231, 37)
"""The ends of the heat maps' colours."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AttendedTiles:
    """A slide's tiles as a model weighed them."""

    coords_l0_px: NDArray[np.int32]
    """(N, 2): top-left corners."""
    tile_size_l0_px: tuple[int, int]
    attention_N: Floats
    mpp: MppUsed | None
    """None: nobody knows, and areas are not given in mm²."""
    evidence: Mapping[str, Floats] = field(default_factory=dict)
    """(N,) of each class: how much the tile speaks for it and against the others; empty: the model weighs no tiles."""

    def order(self) -> NDArray[np.int64]:
        """Tiles by falling attention; of equal ones the first comes first."""
        return np.argsort(-np.asarray(self.attention_N, np.float64), kind="stable")


def centred(logits_NC: Floats) -> Floats:
    """(N, C): each class's evidence relative to the mean over classes, since a constant changes no probability."""
    values = np.asarray(logits_NC, np.float64)
    return np.asarray(values - values.mean(axis=1, keepdims=True))


def num_at(share: float, num_tiles: int) -> int:
    """How many tiles the top `share`, 0 to 1, of them is: rounded, and one at least where there is one."""
    return min(num_tiles, max(1, round(share * num_tiles)))


def attended_areas(tiles: AttendedTiles, shares: Sequence[float]) -> Iterator[QupathObject]:
    """For each share the union of that part of the tiles that is attended most, the largest area first."""
    order = tiles.order()
    total = float(np.sum(tiles.attention_N, dtype=np.float64))
    for place, share in enumerate(sorted(shares, reverse=True)):
        rows = order[: num_at(share, len(order))]
        held = float(np.sum(tiles.attention_N[rows], dtype=np.float64))
        facts = {"share of attention": held / total} if total else {}
        name = f"Attention top {100 * share:g}%"
        yield _area(tiles, rows, name, _blend(place, len(shares)), facts)


def evidence_areas(tiles: AttendedTiles, shares: Sequence[float]) -> Iterator[QupathObject]:
    """For each class and share the tiles among that part with most evidence for the class that do speak for it.

    A class for which no tile speaks has no object.
    """
    for index, (label, evidence_N) in enumerate(tiles.evidence.items()):
        order = np.argsort(-np.asarray(evidence_N, np.float64), kind="stable")
        for share in sorted(shares, reverse=True):
            rows = order[: num_at(share, len(order))]
            rows = rows[np.asarray(evidence_N)[rows] > 0]
            if len(rows):
                facts = {"sum of evidence": float(np.sum(evidence_N[rows], dtype=np.float64))}
                name = f"Evidence {label} top {100 * share:g}%"
                yield _area(tiles, rows, name, class_colour(index), facts)


def top_tiles(tiles: AttendedTiles, num: int) -> Iterator[QupathObject]:
    """The most attended tiles as detections, with all that is known of each as measurements."""
    width, height = tiles.tile_size_l0_px
    num_tiles = len(tiles.coords_l0_px)
    for rank, row in enumerate(tiles.order()[:num].tolist(), 1):
        x, y = tiles.coords_l0_px[row].tolist()
        facts = {
            "rank": float(rank),
            "attention": float(tiles.attention_N[row]),
            "attention x tiles": float(tiles.attention_N[row]) * num_tiles,
            "tile": float(row),
        }
        facts |= {f"evidence {label}": float(values[row]) for label, values in tiles.evidence.items()}
        yield QupathObject(
            kind=ObjectType.detection,
            polygons=(box(x, y, width, height),),
            classification=TOP_TILE,
            colour=_TOP_RGB,
            name=f"tile {rank}",
            measurements=facts,
        )


def focus_objects(tiles: AttendedTiles, foci: Sequence[FoundFocus], label: str) -> Iterator[QupathObject]:
    """Each focus as an area, in their order; `label`: the class that is predicted."""
    for rank, focus in enumerate(foci, 1):
        facts = {
            "rank": float(rank),
            "sufficiency": focus.sufficiency,
            "necessity": focus.necessity,
            "round": float(focus.round),
        }
        focused = _area(tiles, focus.rows, f"Focus {label}", _TOP_RGB, facts)
        yield replace(focused, name=f"focus {rank}")


def tissue_object(tissue: TissueMask, mpp: MppUsed, size_l0_px: tuple[int, int]) -> Iterator[QupathObject]:
    """The tissue as it was found, exact to the mask's pixel; nothing where there is none."""
    if polygons := mask_outlines(tissue, mpp, size_l0_px):
        yield QupathObject(
            kind=ObjectType.annotation,
            polygons=polygons,
            classification=TISSUE,
            colour=_TISSUE_RGB,
            measurements={"area mm2": area_of(polygons) * mpp.x * mpp.y / 1e6},
        )


def _area(
    tiles: AttendedTiles, rows: NDArray[np.int64], name: str, colour: Rgb, facts: Mapping[str, float]
) -> QupathObject:
    # in the tiles' own order, so that equal unions are equal polygons
    polygons = tile_outlines(tiles.coords_l0_px[np.sort(rows)], tiles.tile_size_l0_px)
    measured = {"tiles": float(len(rows)), **facts}
    if tiles.mpp is not None:
        measured["area mm2"] = area_of(polygons) * tiles.mpp.x * tiles.mpp.y / 1e6
    return QupathObject(
        kind=ObjectType.annotation, polygons=polygons, classification=name, colour=colour, measurements=measured
    )


def _blend(place: int, num: int) -> Rgb:
    part = place / (num - 1) if num > 1 else 1.0
    red, green, blue = (round(cool + part * (hot - cool)) for cool, hot in zip(_COOL_RGB, _HOT_RGB, strict=True))
    return red, green, blue
