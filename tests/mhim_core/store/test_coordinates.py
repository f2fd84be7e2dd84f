"""Places of tiles as other tools write them: what is read, and what is refused by a sentence."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mhim_core.errors import OtherFormatError, SlideError
from mhim_core.store.foreign.arrays import write_h5
from mhim_core.store.foreign.coordinates import ForeignPlaces, read_coordinates
from mhim_core.tables import write_csv, write_parquet
from mhim_core.types import FailureReason

COORDS = np.array([[0, 0], [512, 0], [1024, 512]], np.int64)
TRIDENT = {"patch_size": 256, "patch_size_level0": 512, "level0_width": 4000, "level0_height": 3000}
CLAM = {"patch_size": 256, "patch_level": 1, "downsample": np.array([4.0, 4.0]), "level_dim": np.array([1000, 750])}
CLAM_AT_0 = {"patch_size": 256, "patch_level": 0, "level_dim": np.array([4000, 3000])}


def h5(attributes: dict[str, Any] | None = None, **arrays: np.ndarray) -> bytes:
    pytest.importorskip("h5py")
    return write_h5(arrays or {"coords": COORDS}, {"coords": attributes or {}})


def table(**columns: list[float]) -> list[dict[str, float]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("attributes", "size", "slide"),
    [(TRIDENT, 512, (4000, 3000)), (CLAM, 1024, (0, 0)), (CLAM_AT_0, 256, (4000, 3000)), ({}, None, (0, 0))],
    ids=["trident", "clam", "clam at level 0", "nothing stated"],
)
def test_an_h5_file_states_places_and_perhaps_sizes(
    attributes: dict[str, Any], size: int | None, slide: tuple[int, int]
) -> None:
    read = read_coordinates("s_patches.h5", h5(attributes))
    assert np.array_equal(read.coords_l0_px, COORDS)
    assert (read.tile_size_l0_px, read.slide_size_l0_px) == (size, slide)
    beside_features = h5(attributes, features=np.ones((3, 4), np.float32), coords=COORDS)
    assert np.array_equal(read_coordinates("s.h5", beside_features).coords_l0_px, COORDS)


@pytest.mark.parametrize("names", [("x", "y"), ("x_l0_px", "y_l0_px")])
def test_tables_state_places(names: tuple[str, str]) -> None:
    rows = table(**{names[0]: [0, 512, 1024], names[1]: [0, 0, 512], "label": [1, 1, 1], "tile_size_l0_px": [512] * 3})
    as_parquet = write_parquet(rows, schema=pa.schema([(name, pa.int64()) for name in rows[0]]))
    for read in (read_coordinates("s.csv", write_csv(rows)), read_coordinates("s.parquet", as_parquet)):
        assert isinstance(read, ForeignPlaces)
        assert np.array_equal(read.coords_l0_px, COORDS)
        assert read.tile_size_l0_px == 512


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("s.csv", b"x,y\n1,2\n1.5,3\n", "whole pixels"),
        ("s.csv", b"x,y\n1,nan\n", "whole pixels"),
        ("s.csv", b"x,y\n1,two\n", "cannot be read"),
        ("s.csv", b"x,y,tile_size_l0_px\n1,2,256\n3,4,512\n", "several sizes"),
        ("s.csv", b"\xff\xfe\x00", "cannot be read"),
        ("s.parquet", b"PAR1", "cannot be read"),
        ("s.h5", b"no HDF5", "cannot be read"),
    ],
)
def test_what_names_no_places_fails_by_a_sentence(name: str, data: bytes, said: str) -> None:
    with pytest.raises(SlideError) as refused:
        read_coordinates(name, data)
    assert refused.value.reason is FailureReason.BAD_ANNOTATION
    assert said in refused.value.message
    assert not isinstance(refused.value, OtherFormatError)


@pytest.mark.parametrize("name", ["s.csv", "s.h5"])
def test_a_whole_file_of_something_else_is_told_apart(name: str) -> None:
    data = b"left,top\n1,2\n" if name == "s.csv" else h5(features=np.ones((3, 4), np.float32))
    with pytest.raises(OtherFormatError, match=r"left, top|no .*coords"):
        read_coordinates(name, data)


def test_places_of_another_shape_are_refused() -> None:
    with pytest.raises(SlideError, match="N × 2"):
        read_coordinates("s.h5", h5(coords=np.ones((3, 3), np.int64)))
