"""Annotations as QuPath and ASAP write them: classes, holes, what is refused, and what changes the digest."""

import json
from typing import Any

import numpy as np
import pytest

from mhim_core.errors import SlideError
from mhim_core.slides.annotations import UNCLASSIFIED, Annotation, Polygon, read_annotation
from mhim_core.slides.raster import rasterise
from mhim_core.types import FailureReason

SQUARE = [[10, 10], [50, 10], [50, 50], [10, 50], [10, 10]]
HOLE = [[20, 20], [30, 20], [30, 30], [20, 30], [20, 20]]
FAR = [[60, 60], [80, 60], [80, 70], [60, 70], [60, 60]]


def feature(kind: str, coordinates: Any, name: str | None = "Tumor", **properties: Any) -> dict[str, Any]:
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    geometry = {"type": kind, "coordinates": coordinates}
    return {
        "type": "Feature",
        "id": "x",
        "geometry": geometry,
        "properties": {"objectType": "annotation", **properties},
    }


def geojson(*features: dict[str, Any]) -> bytes:
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def asap(*annotations: str) -> bytes:
    return (
        '<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>' + "".join(annotations) + "</Annotations>"
        '<AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#64FE2E"><Attributes/></Group>'
        "</AnnotationGroups></ASAP_Annotations>"
    ).encode()


def outline(points: list[list[float]], group: str = "Tumor", kind: str = "Polygon") -> str:
    coordinates = [f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points)]
    return (
        f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(reversed(coordinates))  # the order is in the attribute
        + "</Coordinates></Annotation>"
    )


def area(annotation: Annotation, name: str) -> int:
    return int(rasterise(annotation.regions[name], (100, 100), (1, 1)).sum())


@pytest.mark.parametrize(
    "data",
    [
        geojson(feature("Polygon", [SQUARE, HOLE]), feature("Polygon", [FAR], "Stroma")),
        json.dumps([feature("Polygon", [SQUARE, HOLE]), feature("MultiPolygon", [[FAR]], "Stroma")]).encode(),
        b"\xef\xbb\xbf" + geojson(feature("Polygon", [SQUARE, HOLE]), feature("Polygon", [FAR], " Stroma ")),
    ],
    ids=["collection", "list", "byte order mark"],
)
def test_qupath_s_regions_have_their_classes_and_holes(data: bytes) -> None:
    annotation = read_annotation(data)
    assert annotation.classes == ("Stroma", "Tumor")
    assert (area(annotation, "Tumor"), area(annotation, "Stroma")) == (40 * 40 - 10 * 10, 20 * 10)


def test_several_polygons_of_one_feature_are_all_of_its_class() -> None:
    annotation = read_annotation(geojson(feature("MultiPolygon", [[SQUARE, HOLE], [FAR]])))
    assert area(annotation, "Tumor") == 1500 + 200
    collection = {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [FAR]}]}
    data = geojson({"type": "Feature", "geometry": collection, "properties": {}})
    assert area(read_annotation(data), UNCLASSIFIED) == 200


def test_classes_of_several_names_and_of_none() -> None:
    several = feature("Polygon", [SQUARE], None, classification={"names": ["Tumor", "Positive"]})
    annotation = read_annotation(geojson(several, feature("Polygon", [FAR], None)))
    assert annotation.classes == ("Tumor: Positive", UNCLASSIFIED)


def test_cells_are_no_annotations_and_what_encloses_nothing_is_remembered_by_its_class() -> None:
    cell = feature("Polygon", [SQUARE], "Cell", objectType="detection")
    annotation = read_annotation(geojson(cell, feature("LineString", SQUARE[:3], "Fold"), feature("Polygon", [FAR])))
    assert annotation.classes == ("Fold", "Tumor")
    assert annotation.without_area == {"Fold": "LineString"}


def test_asap_s_outlines_have_the_class_of_their_group() -> None:
    annotation = read_annotation(
        asap(
            outline(SQUARE[:4]),
            outline(FAR[:4], "Stroma", "Rectangle"),
            outline(HOLE[:4], "None", "Spline"),
            outline([[1, 1]], "Cells", "Dot"),
        )
    )
    assert {name: area(annotation, name) for name in annotation.regions} == {
        "Tumor": 1600,
        "Stroma": 200,
        UNCLASSIFIED: 100,
    }
    assert annotation.without_area == {"Cells": "Dot"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no annotation",
        b"{}",
        b"[1]",
        b"<html/>",
        b"<ASAP_Annotations><Annotations>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><ASAP_Annotations/>',
        b"[" * 10_000,
        geojson(feature("Polygon", [])),
        geojson(feature("Polygon", [[[0, 0], [1, 1]]])),
        geojson(feature("Polygon", [[[0, 0], [1, "a"], [2, 2]]])),
        geojson(feature("Polygon", [[[0, 0], [1, None], [2, 2]]])),
        geojson(feature("Circle", [0, 0])),
        geojson(feature("Polygon", [SQUARE], "a\nb")),
        geojson(feature("Polygon", [SQUARE], "a" * 1000)),
        asap(outline([[1, 1], [2, 2]])),
        asap(outline([[1, 1], [2, float("inf")], [3, 3]])),
        asap('<Annotation Type="Polygon"><Coordinates><Coordinate X="1"/></Coordinates></Annotation>'),
    ],
)
def test_what_is_no_annotation_is_refused_as_one(data: bytes) -> None:
    with pytest.raises(SlideError) as failure:
        read_annotation(data)
    assert failure.value.reason is FailureReason.BAD_ANNOTATION


def test_the_digest_is_of_the_regions_of_the_classes_that_are_used_and_of_nothing_else() -> None:
    tumor, stroma = feature("Polygon", [SQUARE]), feature("Polygon", [FAR], "Stroma")
    first = read_annotation(geojson(tumor, stroma))
    again = read_annotation(json.dumps([stroma, tumor | {"id": "y"}], indent=1).encode())
    other = read_annotation(geojson(tumor, feature("Polygon", [HOLE], "Stroma")))
    assert first.digest(None) == again.digest(None) != other.digest(None)
    assert first.digest({"Tumor"}) == other.digest({"Tumor"}) != first.digest({"Stroma"})
    assert read_annotation(geojson()).digest({"Tumor"}) != first.digest({"Tumor"})


@pytest.mark.parametrize("seed", range(8))
def test_a_pixel_is_inside_where_its_centre_is(seed: int) -> None:
    """Against the winding of the same polygon around each centre, computed pixel by pixel."""
    rng = np.random.default_rng(seed)
    ring = rng.uniform(-5, 35, (7, 2)) if seed % 2 else np.round(rng.uniform(0, 30, (9, 2)) * 2) / 2
    mask = rasterise([Polygon((ring,))], (30, 28), (1, 1))
    y, x = np.mgrid[:30, :28] + 0.5
    inside = np.zeros(mask.shape, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            is_crossed = (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1))
            inside ^= is_crossed & (x >= x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    assert 0 < inside.mean() < 1
    assert np.array_equal(mask, inside)


def test_areas_are_exact_at_any_scale() -> None:
    polygon = Polygon((np.array(SQUARE[:4], float), np.array(HOLE[:4], float)))
    assert rasterise([polygon], (400, 200), (2, 4)).sum() == 1500 * 8
    assert rasterise([polygon, polygon], (30, 30), (0.5, 0.5)).sum() == 1500 / 4
    assert not rasterise([Polygon((np.array(FAR[:4], float) + 1000,))], (100, 100), (1, 1)).any()
