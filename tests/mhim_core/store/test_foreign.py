"""Other tools' files of features: what they state is kept, what they leave open stays open, the rest is refused."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from mhim_core.errors import SlideError
from mhim_core.features import NO_PLACE_PX, SourceHint
from mhim_core.fingerprint import sha256
from mhim_core.store.foreign.arrays import write_h5, write_tensor
from mhim_core.store.foreign.feature_format import (
    ExportedSlide,
    ForeignFile,
    OwnSlide,
    exported_name,
    feature_format,
)
from mhim_core.store.foreign.importing import ImportedSlide, StatedByUser, match_files, read_slide
from mhim_core.store.foreign.names import CoordsUnit, formats_to_export, formats_to_import
from mhim_core.store.schema import FeatureTable, decode_features, encode_features
from mhim_core.types import FailureReason, SlideId

pytest.importorskip("h5py")

SLIDE = SlideId("s1")
UNI = StatedByUser(encoder="uni")
X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
COORDS = np.array([[0, 0], [512, 0], [0, 512], [512, 512], [1024, 512], [0, 1024]], np.int64)


def read(
    name: str,
    data: bytes,
    stated: StatedByUser = UNI,
    *,
    place: str = "/theirs/features_uni/s1.h5",
    mpp: float | None = None,
    others: Mapping[str, bytes] | None = None,
) -> ImportedSlide:
    file = ForeignFile(place, data, lambda other: (others or {}).get(other))
    hint = SourceHint(place, len(data), "1")
    return read_slide(feature_format(name), file, SLIDE, stated, table_mpp=mpp, hint=hint)


def refused(reason: FailureReason, name: str, data: bytes, stated: StatedByUser = UNI, mpp: float | None = None) -> str:
    with pytest.raises(SlideError) as caught:
        read(name, data, stated, mpp=mpp)
    assert caught.value.reason is reason
    assert SLIDE in caught.value.message
    return caught.value.message


def clam_file(features: np.ndarray = X, coords: np.ndarray = COORDS) -> bytes:
    return write_h5({"features": features, "coords": coords})


def stamp_file(coords: np.ndarray = COORDS * 0.5, **stated: object) -> bytes:
    return write_h5({"feats": X.astype(np.float16), "coords": coords}, file_attributes=stated)


def as_table(slide: ImportedSlide) -> FeatureTable:
    """What a store reads back."""
    data = encode_features(slide.features)
    return decode_features(data, slide_id=SLIDE, dim=slide.feature_set.dim)


def by_place(table: FeatureTable) -> dict[tuple[int, int], bytes]:
    return {tuple(place): row.tobytes() for place, row in zip(table.coords_l0_px.tolist(), table.features, strict=True)}


def test_every_format_is_listed() -> None:
    assert formats_to_import() == ("clam", "clam-pt", "mhim", "slide2vec", "slide2vec-npz", "stamp", "trident")
    assert formats_to_export() == ("clam", "clam-pt", "mhim", "stamp", "trident")


def test_trident_states_its_tiling_and_its_folder_the_encoder() -> None:
    stated = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "level0_width": 9000,
        "level0_height": 8000,
    }
    data = write_h5({"features": X, "coords": COORDS}, {"coords": stated})
    slide = read("trident", data, StatedByUser(), place="/job/20x/features_uni_v1/s1.h5", mpp=0.25)
    assert slide.feature_set.encoder_id == "trident/uni_v1"
    assert slide.feature_set.encoder["runtime"] == "imported"
    assert slide.feature_set.tiling == {
        "imported": {"format": "trident", "coords": "level0_px"},
        "tile_px": 256,
        "overlap_px": 0,
        "target_magnification": 20.0,
    }
    assert slide.features.cut.tile_size_l0_px == (512, 512)
    assert (slide.features.cut.width_l0_px, slide.features.cut.height_l0_px) == (9000, 8000)
    assert slide.features.reading.mpp == (0.25, 0.25, "imported")
    assert slide.features.reading.effective_mpp == (0.5, 0.5)
    assert slide.features.reading.source_sha256 == sha256(data)
    assert np.array_equal(slide.features.coords_l0_px, COORDS)
    assert np.array_equal(slide.features.features, X.astype(np.float16))


def test_what_is_not_stated_stays_open() -> None:
    slide = read("clam", clam_file())
    assert slide.features.cut.tile_size_l0_px == (0, 0)
    assert slide.features.reading.mpp == (0.0, 0.0, "imported")
    assert slide.features.reading.effective_mpp == (0.0, 0.0)
    table = as_table(slide)
    assert np.isnan(table.tissue_share).all()
    assert np.isnan(table.background_share).all()
    assert slide.feature_set.tiling == {"imported": {"format": "clam", "coords": "level0_px"}}


def test_tensors_have_no_places_and_keep_their_order() -> None:
    slide = read("clam-pt", write_tensor(X))
    table = as_table(slide)
    assert (table.coords_l0_px == NO_PLACE_PX).all()
    assert np.array_equal(table.features, X.astype(np.float16))
    assert slide.feature_set.tiling["imported"] == {"format": "clam-pt", "coords": "none"}


def test_stamp_counts_in_um() -> None:
    data = stamp_file(unit="um", tile_size_um=256.0, tile_size_px=224, extractor="ctranspath", stamp_version="2.3.0")
    slide = read("stamp", data, StatedByUser(), mpp=0.5)
    assert np.array_equal(slide.features.coords_l0_px, COORDS)
    assert slide.features.cut.tile_size_l0_px == (512, 512)
    assert slide.feature_set.encoder_id == "stamp/ctranspath"
    assert slide.features.versions == {"stamp": "2.3.0"}
    assert slide.feature_set.tiling_settings["target_mpp"] == pytest.approx(256 / 224)


def test_um_without_the_slides_resolution_are_refused() -> None:
    data = stamp_file(unit="um", tile_size=256.0)
    refused(FailureReason.NO_MPP, "stamp", data)
    by_default = StatedByUser(encoder="uni", default_mpp=0.5)
    assert np.array_equal(read("stamp", data, by_default).features.coords_l0_px, COORDS)
    assert read("stamp", data, by_default, mpp=0.25).features.reading.mpp.x == 0.25  # the table wins


def test_a_unit_that_nobody_states_is_refused_and_can_be_stated() -> None:
    data = stamp_file(COORDS)
    assert "coords_unit=" in refused(FailureReason.BAD_FEATURES, "stamp", data)
    in_px = StatedByUser(encoder="uni", coords_unit=CoordsUnit.level0_px, tile_size_l0_px=512)
    slide = read("stamp", data, in_px)
    assert np.array_equal(slide.features.coords_l0_px, COORDS)
    assert slide.features.cut.tile_size_l0_px == (512, 512)


@pytest.mark.parametrize(
    ("data", "stated"),
    [
        (stamp_file(unit="um", tile_size=256.0, extractor="uni"), StatedByUser(encoder="conch")),
        (stamp_file(unit="um", tile_size=256.0), StatedByUser(encoder="uni", coords_unit=CoordsUnit.level0_px)),
        (stamp_file(unit="um", tile_size=256.0), StatedByUser(encoder="uni", tile_size_l0_px=256)),
        (stamp_file(unit="um", tile_size=256.0), StatedByUser()),
        (stamp_file(unit="um", tile_size=256.0, feat_type="slide"), UNI),
        (stamp_file(unit="um", tile_size=-1.0), UNI),
    ],
)
def test_what_contradicts_the_user_or_is_no_bag_of_tiles_is_refused(data: bytes, stated: StatedByUser) -> None:
    refused(FailureReason.BAD_FEATURES, "stamp", data, stated, mpp=0.5)


@pytest.mark.parametrize(
    ("features", "coords"),
    [
        (np.where(np.eye(6, 5), np.nan, X), COORDS),
        (np.where(np.eye(6, 5), np.inf, X), COORDS),
        (np.where(np.eye(6, 5), 70_000, X), COORDS),
        (np.zeros((6, 5), np.int32), COORDS),
        (X[None], COORDS),
        (X, COORDS[:5]),
        (X, COORDS - 1),
        (X, COORDS + 0.5),
        (X, COORDS * 2**31),
    ],
)
def test_what_a_store_cannot_hold_as_it_is_is_refused(features: np.ndarray, coords: np.ndarray) -> None:
    refused(FailureReason.BAD_FEATURES, "clam", clam_file(features, coords))


def test_the_rounding_to_float16_is_measured() -> None:
    assert read("clam", clam_file()).max_rounding == np.abs(X - X.astype(np.float16)).max()
    assert read("clam", clam_file(X.astype(np.float16))).max_rounding == 0


@pytest.mark.parametrize("name", ["trident", "clam", "stamp", "clam-pt", "mhim"])
@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n", clam_file()[:-900]])
def test_damaged_files_are_refused_by_name(name: str, data: bytes) -> None:
    assert "s1.h5" in refused(FailureReason.OPEN, name, data)


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)
    refused(FailureReason.OPEN, "clam-pt", buffer.getvalue())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value", [{"features": torch.zeros(2, 3)}, torch.zeros(2), torch.zeros(2, 3, dtype=torch.int64)]
)
def test_a_tensor_file_of_anything_but_one_bag_is_refused(value: object) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    refused(FailureReason.BAD_FEATURES, "mhim", buffer.getvalue())


def test_bfloat16_is_read() -> None:
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(X).bfloat16(), buffer)
    assert np.array_equal(
        read("mhim", buffer.getvalue()).features.features, torch.from_numpy(X).bfloat16().half().numpy()
    )


def test_what_the_user_states_is_part_of_what_a_commit_is_of() -> None:
    one, other = (read("clam", clam_file(), StatedByUser(encoder="uni", tile_size_l0_px=size)) for size in (256, 512))
    assert one.features.reading.source != other.features.reading.source


def test_slide2vec_reads_what_lies_beside_its_embeddings() -> None:
    meta = {
        "encoder_name": "prost40m",
        "requested_tile_size_px": 224,
        "requested_spacing_um": 0.5,
        "tile_size_lv0": 448,
    }
    tiling = {"slide": {"dimensions": [5000, 4000], "base_spacing_um": 0.25}, "tiling": {}}
    npz = io.BytesIO()
    np.savez(npz, x=COORDS[:, 0], y=COORDS[:, 1], tissue_fractions=np.full(6, 0.5), tile_index=np.arange(6))
    others = {
        "/run/tile_embeddings/s1.meta.json": json.dumps(meta).encode(),
        "/run/tiles/s1.coordinates.meta.json": json.dumps(tiling).encode(),
        "/run/tiles/s1.coordinates.npz": npz.getvalue(),
    }
    place = "/run/tile_embeddings/s1.pt"
    slide = read("slide2vec", write_tensor(X), StatedByUser(), place=place, others=others)
    assert slide.feature_set.encoder_id == "slide2vec/prost40m"
    assert np.array_equal(slide.features.coords_l0_px, COORDS)
    assert slide.features.tissue_share.tolist() == [0.5] * 6
    assert slide.features.reading.mpp.x == 0.25
    assert slide.features.cut.tile_size_l0_px == (448, 448)
    assert (slide.features.cut.width_l0_px, slide.features.cut.height_l0_px) == (5000, 4000)
    moved = others | {"/run/tiles/s1.coordinates.npz": npz.getvalue() + b" "}
    again = read("slide2vec", write_tensor(X), StatedByUser(), place=place, others=moved)
    assert again.features.reading.source != slide.features.reading.source


def test_places_outside_the_slide_are_refused() -> None:
    for width, height in ((1025, 1025), (1025, 1024), (1024, 1025)):
        stated = {"level0_width": width, "level0_height": height}
        data = write_h5({"features": X, "coords": COORDS}, {"coords": stated})
        if (width, height) == (1025, 1025):
            assert np.array_equal(read("trident", data).features.coords_l0_px, COORDS)
        else:
            assert f"{width} × {height}" in refused(FailureReason.BAD_FEATURES, "trident", data)


def test_files_of_another_tool_are_not_taken_for_clams() -> None:
    data = write_h5({"features": X, "coords": COORDS}, {"coords": {"patch_size_level0": 512}})
    assert "format=trident" in refused(FailureReason.BAD_FEATURES, "clam", data)
    assert "format=stamp" in refused(FailureReason.OPEN, "clam", stamp_file(unit="um"))
    assert "format=clam" in refused(FailureReason.OPEN, "stamp", clam_file())
    assert "patches/" in refused(FailureReason.OPEN, "trident", write_h5({"coords": COORDS}))


def test_stamp_states_both_resolutions_of_a_slide() -> None:
    table = as_table(read("clam", clam_file(), StatedByUser(encoder="uni", tile_size_l0_px=512), mpp=0.25))
    uneven = table._replace(metadata=table.metadata | {"mpp": [0.25, 0.2537]})
    files = feature_format("stamp").write(OwnSlide(SLIDE, uneven, read("clam", clam_file()).feature_set))
    (data,) = files.values()
    for mpp in (None, 0.25, 0.2501):  # the table's, rounded
        back = read("stamp", data, StatedByUser(), mpp=mpp)
        assert by_place(as_table(back)).keys() == by_place(table).keys()
        assert back.features.reading.mpp == ((mpp, mpp) if mpp else (0.25, 0.2537)) + ("imported",)
    refused(FailureReason.BAD_FEATURES, "stamp", data, StatedByUser(), mpp=0.5)


@pytest.mark.parametrize("name", formats_to_export())
def test_what_is_written_comes_back(name: str) -> None:
    original = read("clam", clam_file(), StatedByUser(encoder="uni", tile_size_l0_px=512), mpp=0.37)
    table = as_table(original)
    kind = feature_format(name)
    files = kind.write(OwnSlide(SLIDE, table, original.feature_set))
    assert files == kind.write(OwnSlide(SLIDE, table, original.feature_set))
    key = next(key for key in files if key.endswith(f"/{SLIDE}{kind.suffix}") and "patches" not in key)
    back = as_table(read(name, files[key], UNI if name != "stamp" else StatedByUser(), place=key, mpp=0.37))
    if name in ("clam-pt", "mhim"):
        assert np.array_equal(back.features, table.features)
    else:
        assert by_place(back) == by_place(table)
        expected = (0, 0) if name == "clam" else (512, 512)
        assert tuple(back.metadata["tile_size_l0_px"]) == expected


@pytest.mark.parametrize("name", ["trident", "clam", "stamp"])
def test_formats_with_places_refuse_features_without(name: str) -> None:
    slide = read("clam-pt", write_tensor(X))
    with pytest.raises(SlideError, match="without coordinates"):
        feature_format(name).write(OwnSlide(SLIDE, as_table(slide), slide.feature_set))


def test_stamp_is_not_written_without_a_resolution() -> None:
    slide = read("clam", clam_file(), StatedByUser(encoder="uni", tile_size_l0_px=512))
    with pytest.raises(SlideError) as caught:
        feature_format("stamp").write(OwnSlide(SLIDE, as_table(slide), slide.feature_set))
    assert caught.value.reason is FailureReason.NO_MPP


def test_the_tools_tables() -> None:
    feature_set = read("clam", clam_file()).feature_set
    rows = [
        ExportedSlide(SlideId("s1"), "=p1", "a", None, None, "s1.svs", 0.1 + 0.2),
        ExportedSlide(SlideId("s2"), "p2", "b", None, None, "s2.svs", 0.0),
        ExportedSlide(SlideId("s3"), "p2", "a", None, None, "s3.svs", 0.0),
    ]
    assert feature_format("clam").tables(rows, feature_set) == {
        "slides.csv": b"case_id,slide_id,label\n=p1,s1,a\np2,s2,b\np2,s3,a\n"
    }
    assert feature_format("mhim").tables(rows, feature_set) == {"label.csv": b"s1,a\ns2,b\ns3,a\n"}
    assert feature_format("trident").tables(rows, feature_set) == {
        "slides.csv": b"wsi,mpp\ns1.svs,0.3\ns2.svs,\ns3.svs,\n"
    }
    assert feature_format("stamp").tables(rows, feature_set) == {
        "slide.csv": b"PATIENT,FILENAME,mpp\n=p1,s1.h5,0.3\np2,s2.h5,\np2,s3.h5,\n",
        "clini.csv": b"PATIENT,label\n=p1,a\n",  # p2 has slides of two labels
    }
    assert exported_name(feature_set) == "uni"


def test_files_are_matched_by_whole_ids() -> None:
    names = {
        "a.h5": ["a"],
        "a1.h5": ["a1"],
        "b.svs.h5": ["b.svs", "b"],
        "x/c.h5": ["c"],
        "y/c.h5": ["c"],
        "A.h5": ["A"],
    }
    matched = match_files(names, [SlideId(slide_id) for slide_id in ("a", "b", "c", "d")])
    assert matched.file_of == {"a": "a.h5", "b": "b.svs.h5"}
    assert matched.repeated == {"c": ["x/c.h5", "y/c.h5"]}
    assert matched.strangers == ["A.h5", "a1.h5"]
