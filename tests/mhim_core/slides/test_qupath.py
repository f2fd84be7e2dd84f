"""What is written for QuPath is GeoJSON by its schema, is read again here, and is the same bytes each time."""

import gzip
import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from mhim_core.errors import SlideError
from mhim_core.slides.annotations import MAX_BYTES, Polygon, read_annotation
from mhim_core.slides.qupath import ObjectType, QupathObject, box, encode_objects

_POSITION = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}
_RING = {"type": "array", "minItems": 4, "items": _POSITION}
_POLYGON = {"type": "array", "minItems": 1, "items": _RING}
SCHEMA: dict[str, Any] = {  # RFC 7946's, of what is written, and QuPath's properties
    "type": "object",
    "required": ["type", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "features": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "id", "geometry", "properties"],
                "properties": {
                    "type": {"const": "Feature"},
                    "id": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
                    "geometry": {
                        "oneOf": [
                            {
                                "properties": {"type": {"const": "Polygon"}, "coordinates": _POLYGON},
                                "required": ["type", "coordinates"],
                            },
                            {
                                "properties": {
                                    "type": {"const": "MultiPolygon"},
                                    "coordinates": {"type": "array", "minItems": 2, "items": _POLYGON},
                                },
                                "required": ["type", "coordinates"],
                            },
                        ]
                    },
                    "properties": {
                        "type": "object",
                        "required": ["objectType", "classification", "isLocked"],
                        "additionalProperties": False,
                        "properties": {
                            "objectType": {"enum": ["annotation", "detection"]},
                            "name": {"type": "string"},
                            "isLocked": {"type": "boolean"},
                            "classification": {
                                "type": "object",
                                "required": ["name", "color"],
                                "properties": {
                                    "name": {"type": "string", "minLength": 1},
                                    "color": {
                                        "type": "array",
                                        "minItems": 3,
                                        "maxItems": 3,
                                        "items": {"type": "integer", "minimum": 0, "maximum": 255},
                                    },
                                },
                            },
                            "measurements": {"type": "object", "additionalProperties": {"type": "number"}},
                        },
                    },
                },
            },
        },
    },
}


def objects() -> list[QupathObject]:
    hole = Polygon((box(2, 2, 4, 4).rings[0][::-1],)).rings[0]
    ring = Polygon((box(0, 0, 8, 8).rings[0], hole))
    return [
        QupathObject(
            kind=ObjectType.annotation,
            polygons=(ring, box(20, 0, 1.5, 1)),
            classification="Ünï, code",
            colour=(1, 2, 3),
            measurements={"area mm2": 0.25, "tiles": 3.0},
        ),
        QupathObject(
            kind=ObjectType.detection,
            polygons=(box(0, 0, 8, 8),),
            classification="Top tile",
            colour=(9, 9, 9),
            name="tile 1",
        ),
    ]


def test_it_is_geojson_by_its_schema_with_closed_rings() -> None:
    document = json.loads(encode_objects(objects()))
    jsonschema.validate(document, SCHEMA)
    first, second = document["features"]
    for polygon in first["geometry"]["coordinates"]:
        assert all(ring[0] == ring[-1] for ring in polygon)
    assert first["properties"]["measurements"] == {"area mm2": 0.25, "tiles": 3}
    assert second["properties"]["name"] == "tile 1"
    assert first["id"] != second["id"]


@pytest.mark.parametrize("compressed", [False, True])
def test_the_reader_of_annotations_gives_the_regions_back(compressed: bool) -> None:
    data = encode_objects(objects(), compressed=compressed)
    assert data == encode_objects(objects(), compressed=compressed), "the same objects, the same bytes"
    annotation = read_annotation(data)
    assert annotation.classes == ("Ünï, code",), "detections are no regions"
    written = objects()[0].polygons
    for polygon, expected in zip(annotation.regions["Ünï, code"], written, strict=True):
        for ring, own in zip(polygon.rings, expected.rings, strict=True):
            assert np.array_equal(ring, own)


def test_what_cannot_be_an_object_is_refused() -> None:
    with pytest.raises(ValueError, match="no area"):
        QupathObject(kind=ObjectType.annotation, polygons=(), classification="x", colour=(0, 0, 0))
    with pytest.raises(ValueError, match="weight"):
        QupathObject(
            kind=ObjectType.annotation,
            polygons=(box(0, 0, 1, 1),),
            classification="x",
            colour=(0, 0, 0),
            measurements={"weight": float("nan")},
        )


def test_a_damaged_archive_and_one_that_swells_are_bad_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode_objects(objects(), compressed=True)
    for data in (whole[:-9], whole[:20] + b"\0" * 20):
        with pytest.raises(SlideError):
            read_annotation(data)
    assert MAX_BYTES > 1000
    monkeypatch.setattr("mhim_core.slides.annotations.MAX_BYTES", 1000)
    with pytest.raises(SlideError, match="more than 1,000"):
        read_annotation(gzip.compress(b'{"type":' + b" " * 10**6))
