"""The file of a slide's attention."""

import numpy as np
import pytest

from mhim_core.errors import IntegrityError
from mhim_core.store.attention import decode_attention, encode_attention
from mhim_core.store.schema import FeatureTable
from mhim_core.tables import read_parquet, write_parquet
from mhim_core.types import SlideId


def table(num_tiles: int) -> FeatureTable:
    coords = np.arange(2 * num_tiles, dtype=np.int32).reshape(num_tiles, 2) * 512
    ones = np.ones(num_tiles, np.float32)
    return FeatureTable(SlideId("s"), np.zeros((num_tiles, 4), np.float16), coords, ones, ones, {})


@pytest.mark.parametrize("num_tiles", [1, 300])
def test_places_and_attention_come_back_and_the_bytes_are_the_same(num_tiles: int) -> None:
    features = table(num_tiles)
    attention = np.random.default_rng(0).random(num_tiles, dtype=np.float32)
    data = encode_attention(features, attention)
    decoded = decode_attention(data)
    np.testing.assert_array_equal(decoded.coords_l0_px, features.coords_l0_px)
    np.testing.assert_array_equal(decoded.attention, attention)
    assert encode_attention(features, attention) == data


def test_the_parts_of_a_mean_are_columns_more_and_another_column_is_no_such_table() -> None:
    features, ones = table(3), np.ones(3, np.float32)
    parts = {"student": ones * 0.5, "plain": ones * 1.5}
    decoded = decode_attention(encode_attention(features, ones, parts))
    assert [*decoded.parts] == ["student", "plain"]
    for name, attention in parts.items():
        np.testing.assert_array_equal(decoded.parts[name], attention)
    assert not decode_attention(encode_attention(features, ones)).parts
    foreign = read_parquet(encode_attention(features, ones)).append_column("other", [[1.0, 1.0, 1.0]])
    with pytest.raises(IntegrityError, match="damaged"):
        decode_attention(write_parquet(foreign.to_pylist()))


def test_a_flipped_bit_is_noticed() -> None:
    data = bytearray(encode_attention(table(4000), np.random.default_rng(0).random(4000, dtype=np.float32)))
    data[len(data) // 2] ^= 1
    with pytest.raises(IntegrityError):
        decode_attention(bytes(data))
