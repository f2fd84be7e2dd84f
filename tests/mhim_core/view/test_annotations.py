"""Annotations are kept version by version, as `embed annotations=` reads them, and nobody's work is written over."""

from pathlib import Path
from typing import Any

import pytest

from mhim_core.errors import ConfigError, ConflictError, InputError
from mhim_core.records import parse_json
from mhim_core.slides.annotations import read_annotation
from mhim_core.storage import LocalStorage
from mhim_core.types import SlideId
from mhim_core.view.annotations import Annotations

SLIDE = SlideId("s1")
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]


def polygon(name: str = "Tumor", ring: Any = SQUARE) -> dict[str, Any]:
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [213, 94, 0]}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def collection(*features: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    return Annotations(LocalStorage(tmp_path))


def save(annotations: Annotations, document: Any, based_on: int = 0, author: str = "A. Path") -> Any:
    return annotations.save(SLIDE, document, author=author, saved_at="2026-11-28T21:00:00+00:00", based_on=based_on)


def test_each_save_is_a_version_and_the_newest_is_what_embed_reads(annotations: Annotations, tmp_path: Path) -> None:
    assert annotations.newest(SLIDE) is None
    assert save(annotations, collection(polygon())).version == 1
    assert save(annotations, collection(polygon("Stroma"), polygon()), 1, "B. Path").version == 2
    newest = annotations.newest(SLIDE)
    assert newest is not None
    assert (newest.version, newest.author, newest.saved_at) == (2, "B. Path", "2026-11-28T21:00:00+00:00")
    read = read_annotation((tmp_path / "s1.geojson").read_bytes())
    assert read.classes == ("Stroma", "Tumor")
    assert annotations.export(SLIDE) == (tmp_path / "s1.geojson").read_bytes()
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["s1.geojson", "versions/s1/000001/s1.saved", "versions/s1/000002/s1.saved"]


def test_who_changed_an_older_version_is_told_and_nothing_is_lost(annotations: Annotations) -> None:
    save(annotations, collection(polygon()))
    save(annotations, collection(polygon("Stroma")), 1)
    with pytest.raises(ConflictError):
        save(annotations, collection(polygon("Necrosis")), 1)
    newest = annotations.newest(SLIDE)
    assert newest is not None
    assert newest.document["features"][0]["properties"]["classification"]["name"] == "Stroma"


def test_a_file_that_was_there_before_becomes_the_first_version(annotations: Annotations, tmp_path: Path) -> None:
    (tmp_path / "s1.geojson").write_text('{"type": "Feature", "geometry": null, "properties": {"name": "QuPath"}}')
    found = annotations.newest(SLIDE)
    assert found is not None
    assert found.version == 0
    assert save(annotations, collection(polygon())).version == 2
    first = parse_json((tmp_path / "versions/s1/000001/s1.saved").read_bytes())
    assert first["features"][0]["properties"] == {"name": "QuPath"}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"type": "FeatureCollection"},
        collection({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}),
        collection(polygon(ring=[[0, 0], [1, 1]])),
        collection(polygon(ring=[[0, 0], [1, "x"], [2, 2], [0, 0]])),
        collection(polygon(ring=[[0, 0], [1e9, 0], [2, 2], [0, 0]])),
        collection(polygon(ring=[[0, 0], [float("nan"), 0], [2, 2], [0, 0]])),
        collection(polygon(name="a\u0000b")),
        collection(polygon(ring=[[number % 97, number] for number in range(900)])),
    ],
    ids=["none", "list", "no features", "point", "line", "text", "far", "nan", "control character", "large"],
)
def test_what_is_no_annotation_is_refused_and_nothing_written(
    annotations: Annotations, tmp_path: Path, document: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mhim_core.view.annotations.MAX_BYTES", 5000)
    with pytest.raises(InputError):
        save(annotations, document)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("author", ["", "  ", "x" * 101, "a\nb"])
def test_an_annotation_needs_a_name(annotations: Annotations, author: str) -> None:
    with pytest.raises(InputError):
        save(annotations, collection(polygon()), author=author)


@pytest.mark.parametrize("slide_id", ["../s1", "/etc/passwd", "a/b", ""])
def test_an_id_that_could_leave_the_folder_is_refused(annotations: Annotations, slide_id: str) -> None:
    with pytest.raises(ConfigError):
        annotations.newest(SlideId(slide_id))
