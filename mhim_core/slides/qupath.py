"""Objects as QuPath's GeoJSON has them (its versions 0.4 and later): written here, read by QuPath and by `geojson`.

A FeatureCollection (RFC 7946) whose coordinates are level-0 pixels, x to the right, y downwards. Each feature's
`properties` hold objectType (annotation: a region that `mhim embed annotations=` reads; detection: one that it leaves
alone), name, classification with its colour, isLocked and measurements, numbers by name. The id is a UUID made of the
content, so that the same objects give the same bytes.
"""

import gzip
import json
import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mhim_core.fingerprint import canonical_json
from mhim_core.slides.annotations import MAX_CLASS_CHARS, Polygon

Rgb = tuple[int, int, int]
_NAMESPACE = uuid.UUID("6b1d6f0e-6f7c-5f0a-9b7e-0d1c8f3f4c55")
_DECIMALS = 3
"""Of a coordinate, in level-0 pixels: 0.25 nm at 0.25 µm/px."""


class ObjectType(StrEnum):
    """What an object is to QuPath."""

    annotation = "annotation"
    detection = "detection"


@dataclass(frozen=True, kw_only=True, eq=False)
class QupathObject:
    """One object on a slide. Raises ValueError for one without area, and for a measurement that is no finite number."""

    kind: ObjectType
    polygons: tuple[Polygon, ...]
    """One at least, in level-0 pixels; the first ring of each is its border, the others are holes."""
    classification: str
    colour: Rgb
    """Of the classification, 0 to 255."""
    name: str = ""
    """Empty: it has none."""
    measurements: Mapping[str, float] = field(default_factory=dict)
    """By name; units are part of the name."""
    is_locked: bool = True
    """Whether QuPath keeps it from being moved by accident."""

    def __post_init__(self) -> None:
        if not self.polygons:
            raise ValueError(f"{self.classification} has no area")
        if wrong := [name for name, value in self.measurements.items() if not math.isfinite(value)]:
            raise ValueError(f"{self.classification}: {', '.join(wrong)} is no finite number")


def encode_objects(objects: Iterable[QupathObject], *, compressed: bool = False) -> bytes:
    """The file's bytes, one feature a line; `compressed`: by gzip, without a date."""
    lines = ",\n".join(_one_line(_feature(each, number)) for number, each in enumerate(objects))
    data = b'{"type":"FeatureCollection","features":[\n' + lines.encode() + b"\n]}\n"
    return gzip.compress(data, 6, mtime=0) if compressed else data


def box(x: float, y: float, width: float, height: float) -> Polygon:
    """A rectangle from its top-left corner."""
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return Polygon((np.array(corners, np.float64),))


def class_colour(index: int) -> Rgb:
    """A colour for the class of that number, distinguishable with any colour vision (Okabe and Ito)."""
    return _COLOURS[index % len(_COLOURS)]


_COLOURS: tuple[Rgb, ...] = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))


def _feature(each: QupathObject, number: int) -> dict[str, Any]:
    shapes = [[_closed(ring) for ring in polygon.rings] for polygon in each.polygons]
    geometry: dict[str, Any] = (
        {"type": "Polygon", "coordinates": shapes[0]}
        if len(shapes) == 1
        else {"type": "MultiPolygon", "coordinates": shapes}
    )
    properties: dict[str, Any] = {"objectType": each.kind.value}
    if each.name:
        properties["name"] = each.name
    properties["classification"] = {
        "name": each.classification[:MAX_CLASS_CHARS],
        "color": list(each.colour),
    }
    properties["isLocked"] = each.is_locked
    if each.measurements:
        properties["measurements"] = {name: _number(value) for name, value in each.measurements.items()}
    content = canonical_json([number, geometry, properties]).decode()
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, content)),
        "geometry": geometry,
        "properties": properties,
    }


def _closed(ring: NDArray[np.float64]) -> list[list[float | int]]:
    """With the first point again at the end, as GeoJSON closes its rings."""
    points = [[_number(round(x, _DECIMALS)), _number(round(y, _DECIMALS))] for x, y in ring.tolist()]
    return [*points, points[0]]


def _number(value: float) -> float | int:
    """A whole number without its `.0`: half the size of a file."""
    return int(value) if float(value).is_integer() else float(value)


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
