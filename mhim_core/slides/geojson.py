"""QuPath's GeoJSON: a FeatureCollection, a list of features or a single one; polygons with holes, and their classes."""

from collections.abc import Iterator, Mapping
from typing import Any

from mhim_core.records import parse_json
from mhim_core.slides.annotations import (
    UNCLASSIFIED,
    Annotation,
    Polygon,
    RegionCollector,
    bad_annotation,
    checked_ring,
)

_NOT_DRAWN = frozenset({"detection", "cell", "tile", "tma_core", "root"})
"""Types of QuPath's objects that are no annotations: found by a program, or the slide itself."""


def read_geojson(data: bytes) -> Annotation:
    """The regions of a file. Detections and cells are not among them. Raises SlideError(bad_annotation)."""
    try:
        content = parse_json(data.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise bad_annotation(f"it is neither GeoJSON nor ASAP's XML: {error}") from error
    collector = RegionCollector()
    for number, feature in enumerate(_features(content), 1):
        if not isinstance(feature, Mapping) or feature.get("type") != "Feature":
            raise bad_annotation(f"item {number} of the GeoJSON is no Feature")
        properties = feature.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        if str(properties.get("objectType", properties.get("object_type", "annotation"))).lower() in _NOT_DRAWN:
            continue
        _collect(collector, feature.get("geometry"), _class_name(properties), f"feature {number}")
    return collector.annotation()


def _features(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    if isinstance(content, Mapping):
        if content.get("type") == "FeatureCollection" and isinstance(content.get("features"), list):
            features: list[Any] = content["features"]
            return features
        if content.get("type") == "Feature":
            return [content]
    raise bad_annotation("the JSON is no GeoJSON: neither a FeatureCollection nor a list of features")


def _class_name(properties: Mapping[str, Any]) -> str:
    """`classification.name`, or its several names as QuPath joins them: `Tumor: Positive`."""
    stated = properties.get("classification")
    if isinstance(stated, Mapping):
        names = stated.get("names")
        stated = ": ".join(map(str, names)) if isinstance(names, list) else stated.get("name")
    return stated if isinstance(stated, str) else UNCLASSIFIED


def _collect(collector: RegionCollector, geometry: Any, name: str, what: str) -> None:
    for kind, coordinates in _parts(geometry, what):
        if kind == "Polygon":
            if not isinstance(coordinates, list) or not coordinates:
                raise bad_annotation(f"{what} is a polygon without an outline")
            collector.add(name, Polygon(tuple(checked_ring(ring, what) for ring in coordinates)))
        else:
            collector.add_without_area(name, kind)


def _parts(geometry: Any, what: str) -> Iterator[tuple[str, Any]]:
    """Polygons one by one, and what is none by its type."""
    if geometry is None:
        return
    if not isinstance(geometry, Mapping):
        raise bad_annotation(f"{what} has no geometry")
    kind, coordinates = str(geometry.get("type")), geometry.get("coordinates")
    if kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        for part in geometry["geometries"]:
            yield from _parts(part, what)
    elif kind == "MultiPolygon" and isinstance(coordinates, list):
        for part in coordinates:
            yield "Polygon", part
    elif kind in ("Polygon", "Point", "MultiPoint", "LineString", "MultiLineString"):
        yield kind, coordinates
    else:
        raise bad_annotation(f"{what} has a geometry of type {kind!r}, which is not known here")
