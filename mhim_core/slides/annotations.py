"""A slide's annotation: named regions, as a pathologist drew them in QuPath (GeoJSON) or ASAP (XML).

Coordinates are level-0 pixels, x to the right, y downwards, in both programs' files.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.types import FailureReason

UNCLASSIFIED = "unclassified"
"""The class of regions that have none."""
SUFFIXES = (".geojson", ".json", ".xml", ".geojson.gz")
MAX_BYTES = 2**28
"""Of an annotation's file, unpacked."""
MAX_CLASS_CHARS = 200
_GZIP = b"\x1f\x8b"


class Polygon(NamedTuple):
    """An outline and its holes. v vertices."""

    rings: tuple[np.ndarray, ...]
    """float64 (v, 2) each: x, y in level-0 pixels; the outline first, then the holes; closed by themselves."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """All regions of one file."""

    regions: Mapping[str, tuple[Polygon, ...]]
    """By class."""
    without_area: Mapping[str, str] = field(default_factory=dict)
    """By class, what was drawn that encloses nothing, such as `LineString`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Of everything that was drawn, sorted."""
        return tuple(sorted({*self.regions, *self.without_area}))

    def digest(self, classes: Collection[str] | None) -> str:
        """sha256 of the regions of these classes (None: all), whatever their order in the file."""
        total = hashlib.sha256()
        for name in sorted(self.regions):
            if classes is None or name in classes:
                shapes = sorted(_shape_digest(polygon) for polygon in self.regions[name])
                total.update(f"{name}\0{len(shapes)}\0".encode() + b"".join(shapes))
        return total.hexdigest()


def read_annotation(data: bytes) -> Annotation:
    """The annotation in a file's bytes; what they are, they say themselves.

    Raises SlideError(bad_annotation) for what is neither QuPath's GeoJSON nor ASAP's XML, or is damaged.
    """
    if data[:2] == _GZIP:
        data = _unpacked(data)
    if len(data) > MAX_BYTES:
        raise bad_annotation(f"it has {len(data):,} bytes, more than {MAX_BYTES:,}; export annotations, not cells")
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        from mhim_core.slides.asap_xml import read_asap

        return read_asap(data)
    from mhim_core.slides.geojson import read_geojson

    return read_geojson(data)


def _unpacked(data: bytes) -> bytes:
    """Never much more than MAX_BYTES, whatever the file unpacks to."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise bad_annotation(f"its gzip archive is damaged: {error}") from error


class RegionCollector:
    """Regions by class, while a file is read."""

    def __init__(self) -> None:
        self._regions: dict[str, list[Polygon]] = {}
        self._without_area: dict[str, str] = {}

    def add(self, name: str, polygon: Polygon) -> None:
        self._regions.setdefault(_checked_name(name), []).append(polygon)

    def add_without_area(self, name: str, kind: str) -> None:
        self._without_area.setdefault(_checked_name(name), kind)

    def annotation(self) -> Annotation:
        regions = {name: tuple(polygons) for name, polygons in self._regions.items()}
        return Annotation(regions=regions, without_area=self._without_area)


def checked_ring(xy: object, what: str) -> np.ndarray:
    """float64 (v, 2) of a list of points, without the repeated first one. Raises SlideError(bad_annotation)."""
    try:
        ring = np.array([(point[0], point[1]) for point in xy], np.float64)  # type: ignore[attr-defined]
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise bad_annotation(f"{what} has coordinates that are no numbers") from None
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise bad_annotation(f"{what} has an outline of {len(ring)} points, or infinite ones; it encloses nothing")
    return ring


def bad_annotation(finding: str) -> SlideError:
    """The error of a slide whose annotation or mask cannot be used."""
    return SlideError(FailureReason.BAD_ANNOTATION, finding)


def _checked_name(name: str) -> str:
    name = name.strip() or UNCLASSIFIED
    if len(name) > MAX_CLASS_CHARS or not name.isprintable():
        raise bad_annotation(f"the class name {name[:40]!r} has control characters or more than {MAX_CLASS_CHARS}")
    return name


def _shape_digest(polygon: Polygon) -> bytes:
    digest = hashlib.sha256()
    for ring in polygon.rings:
        digest.update(f"{len(ring)}\0".encode() + np.ascontiguousarray(ring, "<f8").tobytes())
    return digest.digest()
