"""Annotations and masks from the table to the features: what is read, refused, embedded again and told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import list_feature_sets
from mhim_core.store.manifest import read_manifest
from mhim_core.types import ExitCode

Mhim = Callable[..., Any]
LEFT, RIGHT = ((0, 0), (512, 1000)), ((512, 0), (1200, 1000))
"""Of `write_slide`'s slides, along an edge between tiles."""


@pytest.fixture
def annotate(tmp_path: Path) -> Callable[..., Path]:
    """annotate("a", Tumor=LEFT) → annotations/a.geojson."""

    def write(slide_id: str, folder: str = "annotations", **boxes: Any) -> Path:
        features = []
        for name, ((left, top), (right, bottom)) in boxes.items():
            ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
            geometry = {"type": "Polygon", "coordinates": [ring]}
            properties = {"objectType": "annotation", "classification": {"name": name}}
            features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        path = tmp_path / folder / f"{slide_id}.geojson"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return write


@pytest.fixture
def table(write_table: Callable[..., Path], write_slide: Callable[..., Path]) -> Path:
    """A cohort of two slides of six tiles."""
    return write_table([{"slide_id": f"s{i}", "path": write_slide(f"s{i}.tiff", seed=i).name} for i in range(2)])


def newest(store: Path) -> dict[str, Any]:
    """Of the store's only feature set."""
    storage = LocalStorage(store)
    (feature_set,) = list_feature_sets(storage)
    return dict(read_manifest(storage, feature_set.fingerprint).entries)


@pytest.mark.usefixtures("embed_here")
def test_a_changed_annotation_embeds_its_slide_again_and_no_other(
    mhim: Mhim, table: Path, annotate: Callable[..., Path], tmp_path: Path
) -> None:
    for slide_id in ("s0", "s1"):
        annotate(slide_id, Tumor=LEFT, Stroma=RIGHT)
    words = ["embed", f"cohort={table}", f"store={tmp_path / 'store'}", "encoder=hed-texture", "roi=Tumor"]
    words += [f"annotations={tmp_path / 'annotations'}", "tile_classes=true"]
    assert mhim(*words).code == ExitCode.OK
    first = newest(tmp_path / "store")
    assert {entry.num_tiles for entry in first.values()} == {6}
    features = pq.read_table(tmp_path / "store" / first["s0"].key)
    assert set(features["tile_class"].to_pylist()) == {"Tumor"}
    assert set(features["x_l0_px"].to_pylist()) == {0, 256}

    assert "2 skipped" in mhim(*words).out
    annotate("s1", Tumor=RIGHT, Stroma=LEFT)
    ended = mhim(*words)
    assert "1 ok" in ended.out
    second = newest(tmp_path / "store")
    assert second["s0"] == first["s0"]
    assert second["s1"].reading.regions != first["s1"].reading.regions
    assert (
        pq.read_table(tmp_path / "store" / second["s1"].key)["x_l0_px"].to_pylist() != features["x_l0_px"].to_pylist()
    )
    annotate("s1", Tumor=LEFT, Stroma=RIGHT)  # as it was: its commit is found, and nothing is decoded
    assert "2 skipped" in mhim(*words).out
    assert newest(tmp_path / "store")["s1"] == first["s1"]


@pytest.mark.usefixtures("embed_here")
def test_a_slide_without_annotation_fails_by_name_or_is_taken_whole(
    mhim: Mhim, table: Path, annotate: Callable[..., Path], tmp_path: Path
) -> None:
    annotate("s0", Fold=LEFT)
    words = ["embed", f"cohort={table}", f"store={tmp_path / 'store'}", "encoder=hed-texture", "exclude=Fold"]
    words += [f"annotations={tmp_path / 'annotations'}", "max_failed_fraction=0.5"]
    ended = mhim(*words)
    assert ended.code == ExitCode.PARTIAL
    assert "s1: no_annotation" in ended.out
    assert set(newest(tmp_path / "store")) == {"s0"}
    assert mhim("check", *(word for word in words[1:] if word[:5] not in ("store", "encod"))).code == ExitCode.PARTIAL
    assert mhim(*words, "unannotated=whole").code == ExitCode.OK
    assert {name: entry.num_tiles for name, entry in newest(tmp_path / "store").items()} == {"s0": 8, "s1": 14}
    assert mhim(*words).code == ExitCode.PARTIAL  # and not out of what was committed meanwhile
    assert set(newest(tmp_path / "store")) == {"s0"}


@pytest.mark.usefixtures("embed_here")
def test_the_table_names_files_too_and_an_unreadable_one_fails_its_slide_alone(
    mhim: Mhim,
    write_table: Callable[..., Path],
    write_slide: Callable[..., Path],
    annotate: Callable[..., Path],
    tmp_path: Path,
) -> None:
    annotate("left", "elsewhere", Tumor=LEFT)
    (tmp_path / "elsewhere/broken.xml").write_text("<ASAP_Annotations>")
    cells = {"a": "elsewhere/left.geojson", "b": "elsewhere/broken.xml", "c": "elsewhere/gone.xml", "d": ""}
    rows = [
        {"slide_id": slide_id, "path": write_slide(f"{slide_id}.tiff", seed=seed).name, "annotation": cell}
        for seed, (slide_id, cell) in enumerate(cells.items())
    ]
    words = [f"cohort={write_table(rows)}", f"store={tmp_path / 'store'}", "encoder=hed-texture", "roi=Tumor"]
    ended = mhim("embed", *words, "max_failed_fraction=1")
    assert ended.code == ExitCode.PARTIAL
    for row in ("b: bad_annotation", "c: no_annotation", "d: no_annotation"):
        assert row in ended.out
    assert newest(tmp_path / "store")["a"].num_tiles == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["roi=tumour"], ["tumour", "'Tumor'"]),
        (["exclude=Fold"], ["Fold", "'Tumor'"]),
        (["roi=Tumor", "exclude=Tumor"], ["Tumor", "roi", "exclude"]),
        ([], ["annotations", "roi="]),
        (["masks=annotations", "roi=Tumor", "tissue=mask"], ["masks", ".png"]),
        (["roi=Stroma"], ["'Stroma' in 1", "'STROMA' in 1"]),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_before_any_work(
    refused: Callable[..., str],
    table: Path,
    annotate: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    annotate("s0", Tumor=LEFT, Stroma=RIGHT)
    annotate("s1", Tumor=LEFT, STROMA=RIGHT)
    message = refused("embed", f"cohort={table}", "store=store", "annotations=annotations", *words)
    assert all(part in message for part in said), message
    assert not (tmp_path / "store").exists()


def test_regions_without_any_annotation_are_refused(refused: Callable[..., str], table: Path, tmp_path: Path) -> None:
    message = refused("embed", f"cohort={table}", f"store={tmp_path / 'store'}", "roi=Tumor")
    assert "annotations=" in message


@pytest.mark.usefixtures("embed_here")
def test_masks_are_the_tissue_and_a_file_of_no_slide_is_told(mhim: Mhim, table: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    mask = np.zeros((100, 120), np.uint8)
    mask[:77, :51] = 255
    for name in ("s0", "s1", "another"):
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    words = ["embed", f"cohort={table}", f"store={tmp_path / 'store'}", "encoder=hed-texture", "tissue=mask"]
    ended = mhim(*words, f"masks={tmp_path / 'masks'}")
    assert ended.code == ExitCode.OK
    assert "another" in ended.out
    assert {entry.num_tiles for entry in newest(tmp_path / "store").values()} == {6}
    assert "2 skipped" in mhim(*words, f"masks={tmp_path / 'masks'}").out


def test_check_draws_regions_and_classes(
    mhim: Mhim, table: Path, annotate: Callable[..., Path], tmp_path: Path
) -> None:
    for slide_id in ("s0", "s1"):
        annotate(slide_id, Tumor=LEFT, Stroma=RIGHT)
    words = ["check", f"cohort={table}", f"annotations={tmp_path / 'annotations'}", "roi=Tumor", "tile_classes=true"]
    ended = mhim(*words, f"pictures={tmp_path / 'pictures'}")
    assert ended.code == ExitCode.OK
    assert "Tumor 4" in ended.out
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"s0.jpg", "s1.jpg"}


@pytest.mark.usefixtures("embed_here")
def test_a_file_of_one_s_own_finds_the_tissue_and_another_makes_other_features(
    mhim: Mhim, refused: Callable[..., str], table: Path, tmp_path: Path
) -> None:
    finder = tmp_path / "mine.py"
    finder.write_text("def find_tissue(pixels):\n    return pixels[..., 1] < 200\n")
    words = ["embed", f"cohort={table}", f"store={tmp_path / 'store'}", "encoder=hed-texture"]
    assert mhim(*words, f"tissue_file={finder}").code == ExitCode.OK
    assert "2 skipped" in mhim(*words, f"tissue_file={finder}", "tissue=file").out
    assert {entry.num_tiles for entry in newest(tmp_path / "store").values()} == {14}
    finder.write_text("def find_tissue(pixels):\n    return pixels[..., 1] < 190\n")
    assert "2 ok" in mhim(*words, f"tissue_file={finder}").out
    assert len(list_feature_sets(LocalStorage(tmp_path / "store"))) == 2
    assert "tissue_file=" in refused(*words, "tissue=file")
    assert "tissue=otsu" in refused(*words, f"tissue_file={finder}", "tissue=otsu")
    finder.write_text("def find_tissue(pixels):\n    return 1 / 0\n")
    ended = mhim(*words, f"tissue_file={finder}")
    assert ended.code == ExitCode.TOO_MANY_FAILED
    assert "mine.py, line 2" in ended.out + ended.err
