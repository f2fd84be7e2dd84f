"""Files of tiles' places: TRIDENT's and CLAM's patches, and tables of x and y. Nothing is computed from pixels here.

.h5               data set `coords`, level-0 pixels; its attributes state the tile's size (TRIDENT `patch_size_level0`;
                  CLAM `patch_size`, `patch_level` and `downsample`). Files of features beside coords will do too
.csv, .parquet    columns x and y (or x_l0_px and y_l0_px), and perhaps tile_size_l0_px, the same in every row
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mhim_core.errors import OtherFormatError, SlideError
from mhim_core.store.foreign.arrays import attributes, h5_array, opened_h5
from mhim_core.store.foreign.numbers import count_of
from mhim_core.store.foreign.tools.clam import size_at_level_0
from mhim_core.tables import read_parquet
from mhim_core.types import FailureReason

SUFFIXES = (".h5", ".hdf5", ".csv", ".parquet")
NAME_ENDINGS = ("_patches", ".coordinates", ".coords")
"""What tools put between a slide's name and the suffix."""
_MAX_PX = 2**31 - 1
_NAMES = (("x", "y"), ("x_l0_px", "y_l0_px"))
_SIZE = "tile_size_l0_px"


class ForeignPlaces(NamedTuple):
    """What a file states."""

    coords_l0_px: np.ndarray
    """int64 (N, 2): x, y of the tiles' top-left corners."""
    tile_size_l0_px: int | None
    """Side of a tile at level 0; None: it does not say."""
    slide_size_l0_px: tuple[int, int]
    """(0, 0): it does not say."""


def read_coordinates(name: str, data: bytes) -> ForeignPlaces:
    """The places in a file; its name says the kind.

    Raises OtherFormatError for a whole file that names no places, SlideError(bad_annotation) for any other that cannot
    be read.
    """
    try:
        if name.lower().endswith((".h5", ".hdf5")):
            return _from_h5(data)
        if name.lower().endswith(".parquet"):
            table = read_parquet(data)
            columns = {name: table[name].to_numpy() for name in table.column_names if _is_read(name)}
            return _from_columns(columns, table.column_names)
        header, *rows = csv.reader(io.StringIO(data.decode("utf-8-sig")))
        columns = {
            name: np.array([float(row[place]) for row in rows if row])
            for place, name in enumerate(header)
            if _is_read(name)
        }
        return _from_columns(columns, header)
    except SlideError as error:
        raise type(error)(FailureReason.BAD_ANNOTATION, error.message) from error
    except (OSError, KeyError, ValueError, IndexError, RuntimeError, pa.ArrowException, csv.Error) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise SlideError(FailureReason.BAD_ANNOTATION, f"it cannot be read: {reason}") from error


def _from_h5(data: bytes) -> ForeignPlaces:
    with opened_h5(data) as file:
        coords = h5_array(file, "coords", len(data))
        if coords is None:
            held = ", ".join(sorted(map(str, file))[:8]) or "nothing"
            raise OtherFormatError(FailureReason.BAD_ANNOTATION, f"it has no coords; it holds {held}")
        stated = attributes(file["coords"])
    size = count_of(stated, "patch_size_level0")
    if size is None:
        size = size_at_level_0(count_of(stated, "patch_size"), stated)
    width, height = (count_of(stated, f"level0_{side}") or 0 for side in ("width", "height"))
    if not width and stated.get("patch_level") == 0:
        width, height = _pair(stated.get("level_dim"))
    return ForeignPlaces(_whole(coords.reshape(-1, 2) if coords.size == 0 else coords), size or None, (width, height))


def _from_columns(columns: dict[str, np.ndarray], held: Sequence[str]) -> ForeignPlaces:
    names = next((pair for pair in _NAMES if columns.keys() >= {*pair}), None)
    if names is None:
        listed = ", ".join(held[:8]) or "none"
        raise OtherFormatError(FailureReason.BAD_ANNOTATION, f"it needs columns x and y, and has {listed}")
    sizes = np.unique(columns[_SIZE]) if _SIZE in columns else np.empty(0)
    if len(sizes) > 1:
        raise SlideError(
            FailureReason.BAD_ANNOTATION, f"its column {_SIZE} has several sizes, of which a slide has one"
        )
    size = count_of({_SIZE: sizes[0]}, _SIZE) if len(sizes) else None
    return ForeignPlaces(_whole(np.stack([columns[name] for name in names], axis=1)), size or None, (0, 0))


def _is_read(column: str) -> bool:
    return column in {*_NAMES[0], *_NAMES[1], _SIZE}


def _whole(coords: np.ndarray) -> np.ndarray:
    """int64 (N, 2). Raises SlideError(bad_annotation) for anything but whole pixels."""
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iuf":
        raise SlideError(
            FailureReason.BAD_ANNOTATION, f"its places are {coords.dtype} of shape {coords.shape}, not N × 2"
        )
    values = coords.astype(np.float64)
    if not np.isfinite(values).all() or (values != np.floor(values)).any() or (np.abs(values) > _MAX_PX).any():
        raise SlideError(FailureReason.BAD_ANNOTATION, "its places are no whole pixels of level 0")
    return values.astype(np.int64)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(item, int) for item in value):
        return value[0], value[1]
    return 0, 0
