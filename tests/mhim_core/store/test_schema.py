"""The Parquet contract: same features, same bytes; what is not the contract is refused on both sides."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mhim_core.errors import IntegrityError, SlideError
from mhim_core.features import MppUsed, SlideFeatures, SourceHint
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.slides.spec import MAX_TILES
from mhim_core.store.schema import (
    MAX_ROWS,
    METADATA_KEY,
    SCHEMA_VERSION,
    all_finite,
    decode_features,
    encode_features,
    feature_schema,
)
from mhim_core.types import FailureReason, SlideId

Make = Callable[..., SlideFeatures]


def test_features_come_back_as_they_went_in(make_features: Make) -> None:
    slide_features = make_features(num_tiles=7)
    table = decode_features(encode_features(slide_features), slide_id=slide_features.slide_id, dim=8)
    assert table.features.dtype == np.float16
    np.testing.assert_array_equal(table.features, slide_features.features)
    np.testing.assert_array_equal(table.coords_l0_px, slide_features.coords_l0_px)
    np.testing.assert_array_equal(table.tissue_share, slide_features.tissue_share)
    np.testing.assert_array_equal(table.background_share, slide_features.background_share)
    assert table.background_share.dtype == np.float32
    assert table.metadata["encoder"] == slide_features.encoder
    assert table.metadata["tiling"] == slide_features.cut.tiling
    assert table.metadata["tile_size_l0_px"] == [512, 512]


def test_many_row_groups_keep_their_order(make_features: Make) -> None:
    num_tiles = 1000
    features = np.arange(num_tiles * 4096, dtype=np.uint16).reshape(num_tiles, 4096) % 20_000
    slide_features = make_features(num_tiles=num_tiles, features=features.view(np.float16))
    data = encode_features(slide_features)
    assert pq.ParquetFile(io.BytesIO(data)).num_row_groups > 1
    table = decode_features(data, slide_id=slide_features.slide_id, dim=4096)
    np.testing.assert_array_equal(table.features.view(np.uint16), features)
    np.testing.assert_array_equal(table.coords_l0_px, slide_features.coords_l0_px)


def test_no_tiles_is_a_table_of_no_rows(make_features: Make) -> None:
    table = decode_features(encode_features(make_features(num_tiles=0)), slide_id=SlideId("s1"), dim=8)
    assert table.features.shape == (0, 8)
    assert table.coords_l0_px.shape == (0, 2)


def test_the_same_features_give_the_same_bytes_in_whatever_order_tiles_come(make_features: Make) -> None:
    slide_features = make_features(num_tiles=20)
    order = np.random.default_rng(1).permutation(20)
    shuffled = replace(
        slide_features,
        features=slide_features.features[order],
        coords_l0_px=slide_features.coords_l0_px[order],
        tissue_share=slide_features.tissue_share[order],
        background_share=slide_features.background_share[order],
    )
    assert encode_features(slide_features) == encode_features(slide_features) == encode_features(shuffled)


def test_what_is_known_of_the_source_beside_its_bytes_leaves_no_trace_in_the_file(make_features: Make) -> None:
    moved = make_features(
        hint=SourceHint("/elsewhere/canary.svs", 1, "2"),
        mpp=MppUsed(0.25, 0.25, "override"),
        source_sha256="canary",
    )
    assert encode_features(moved) == encode_features(make_features())
    assert b"canary" not in encode_features(moved)


def test_other_parquet_readers_see_plain_columns(make_features: Make) -> None:
    table = pq.ParquetFile(io.BytesIO(encode_features(make_features(num_tiles=4)))).read()
    assert table.schema.equals(feature_schema(8))
    assert table.column("tile").to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", ["data", "footer", "truncated", "empty"])
def test_damage_is_noticed_without_the_sha256_and_names_the_slide(make_features: Make, damage: str) -> None:
    slide_features = make_features(num_tiles=300)
    data = bytearray(encode_features(slide_features))
    position = {"data": 1500, "footer": len(data) - 40}.get(damage)
    if position is not None:
        data[position] ^= 1
    else:
        data = data[: len(data) // 2] if damage == "truncated" else bytearray()
    if damage == "footer":  # only the sha256 can promise to see this one
        with pytest.raises(IntegrityError, match="slide s1"):
            decode_features(
                bytes(data),
                slide_id=slide_features.slide_id,
                dim=8,
                expect_sha256=sha256(encode_features(slide_features)),
            )
    else:
        with pytest.raises(IntegrityError, match="slide s1"):
            decode_features(bytes(data), slide_id=slide_features.slide_id, dim=8)


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", **options)
    return sink.getvalue()


def zeros(num_rows: int, dim: int = 8) -> pa.Table:
    """Rows that compress to nothing, under the metadata of slide s1."""
    schema = feature_schema(dim)
    metadata = {METADATA_KEY: canonical_json({"slide_id": "s1", "schema_version": SCHEMA_VERSION})}
    numbers = [pa.array(np.zeros(num_rows, field.type.to_pandas_dtype())) for field in list(schema)[:-1]]
    values = pa.array(np.zeros(num_rows * dim, np.float16))
    features = pa.FixedSizeListArray.from_arrays(values, type=schema.field("features").type)
    return pa.Table.from_arrays([*numbers, features], schema=schema.with_metadata(metadata))


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a page fails the test."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("pages were decoded")

    monkeypatch.setattr(pq, "read_table", read)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize("num_tiles", [5, None])
def test_a_small_file_of_a_great_many_rows_is_refused_by_its_footer(num_tiles: int | None) -> None:
    num_rows = 1_000_000 if num_tiles else MAX_ROWS + 1
    bomb = written(zeros(num_rows, dim=2))
    assert len(bomb) < 100_000
    with pytest.raises(IntegrityError, match=f"slide s1: .* {num_rows:,} tiles"):
        decode_features(bomb, slide_id=SlideId("s1"), dim=2, num_tiles=num_tiles)


@pytest.mark.usefixtures("no_decoding")
def test_a_column_too_many_is_refused_by_the_footer() -> None:
    table = zeros(5)
    bomb = written(table.append_column("text", pa.array(["x" * 1_000_000] * 5)))
    with pytest.raises(IntegrityError, match=r"slide s1: .*text string"):
        decode_features(bomb, slide_id=SlideId("s1"), dim=8, num_tiles=5)


@pytest.mark.usefixtures("no_decoding")
def test_more_memory_than_the_rows_take_is_refused_by_the_footer() -> None:
    """Here a page for every number."""
    bomb = written(zeros(20_000), data_page_size=1, write_batch_size=1)
    with pytest.raises(IntegrityError, match=r"slide s1: .* bytes for 20,000 tiles"):
        decode_features(bomb, slide_id=SlideId("s1"), dim=8, num_tiles=20_000)


def test_no_slide_is_refused_that_may_be_tiled() -> None:
    assert MAX_ROWS == MAX_TILES


@pytest.mark.fault(15)
def test_every_flipped_byte_is_refused_by_the_sha256(make_features: Make) -> None:
    slide_features = make_features(num_tiles=3)
    data = encode_features(slide_features)
    for position in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        with pytest.raises(IntegrityError, match="slide s1"):
            decode_features(bytes(flipped), slide_id=slide_features.slide_id, dim=8, expect_sha256=sha256(data))


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.full((5, 8), np.nan, np.float16)},
        {"features": np.full((5, 8), -np.inf, np.float16)},
        {"features": np.zeros((5, 8), np.float32)},
        {"features": np.zeros((4, 8), np.float16)},
        {"features": np.zeros(5, np.float16)},
        {"coords_l0_px": np.zeros((5, 2), np.int64)},
        {"coords_l0_px": np.zeros((5, 3), np.int32)},
        {"coords_l0_px": np.zeros((5, 2), np.int32)},
        {"tissue_share": np.full(5, 1.5, np.float32)},
        {"tissue_share": np.full(5, np.nan, np.float32)},
        {"background_share": np.full(5, -0.5, np.float32)},
        {"background_share": np.full(5, np.nan, np.float32)},
        {"background_share": np.zeros(4, np.float32)},
        {"background_share": np.zeros(5, np.float64)},
    ],
)
@pytest.mark.fault(28)
def test_features_that_break_the_contract_are_bad_features(make_features: Make, change: dict[str, np.ndarray]) -> None:
    with pytest.raises(SlideError, match="slide s1") as caught:
        encode_features(make_features(**change))
    assert caught.value.reason is FailureReason.BAD_FEATURES


@pytest.mark.fault(28)
def test_another_slide_or_dimension_than_expected_is_refused(make_features: Make) -> None:
    data = encode_features(make_features())
    with pytest.raises(IntegrityError, match="s2"):
        decode_features(data, slide_id=SlideId("s2"), dim=8)
    with pytest.raises(IntegrityError, match="length 16"):
        decode_features(data, slide_id=SlideId("s1"), dim=16)


@pytest.mark.fault(28)
def test_a_stranger_s_parquet_file_and_smuggled_nan_are_refused(make_features: Make) -> None:
    own = pq.ParquetFile(io.BytesIO(encode_features(make_features(num_tiles=1)))).read()
    sink = io.BytesIO()
    pq.write_table(own.replace_schema_metadata(None), sink)
    with pytest.raises(IntegrityError, match="not written by mhim"):
        decode_features(sink.getvalue(), slide_id=SlideId("s1"), dim=8)
    kind = own.schema.field("features").type
    broken = pa.FixedSizeListArray.from_arrays(pa.array(np.full(8, np.nan, np.float16)), type=kind)
    sink = io.BytesIO()
    pq.write_table(own.set_column(own.schema.get_field_index("features"), own.schema.field("features"), broken), sink)
    with pytest.raises(IntegrityError, match="NaN"):
        decode_features(sink.getvalue(), slide_id=SlideId("s1"), dim=8)


def test_finite_is_what_numpy_calls_finite_for_every_float16() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert [all_finite(every[index : index + 1]) for index in range(2**16)] == list(np.isfinite(every))
