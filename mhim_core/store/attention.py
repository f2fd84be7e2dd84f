"""A slide's attention as a Parquet file: where each tile lies, and how much the models looked at it."""

import io
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mhim_core.errors import IntegrityError
from mhim_core.store.schema import FeatureTable
from mhim_core.tables import read_parquet

_COLUMNS = pa.schema(
    [
        pa.field("x_l0_px", pa.int32(), nullable=False),
        pa.field("y_l0_px", pa.int32(), nullable=False),
        pa.field("attention", pa.float32(), nullable=False),
    ]
)
_PART = "attention_"
_NO_PARTS: Mapping[str, np.ndarray] = MappingProxyType({})


def encode_attention(table: FeatureTable, attention: np.ndarray, parts: Mapping[str, np.ndarray] = _NO_PARTS) -> bytes:
    """A Parquet file of each tile's place and attention, (N,) float32; the same values give the same bytes.

    `parts`: of several models whose mean it is, the attention of each, by its name; each is a column more.
    """
    x, y = table.coords_l0_px.T
    values = [pa.array(each, pa.float32()) for each in (attention, *parts.values())]
    columns = pa.table([pa.array(x), pa.array(y), *values], schema=_schema(_PART + name for name in parts))
    buffer = io.BytesIO()
    pq.write_table(columns, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


class AttentionTable(NamedTuple):
    """What `encode_attention` kept."""

    coords_l0_px: np.ndarray
    """int32 (N, 2)."""
    attention: np.ndarray
    """float32 (N,)."""
    parts: Mapping[str, np.ndarray] = _NO_PARTS
    """float32 (N,) each."""


def decode_attention(data: bytes) -> AttentionTable:
    """Raises IntegrityError if the bytes are no such table."""
    try:
        columns = read_parquet(data)
        names = [name for name in columns.column_names if name.startswith(_PART)]
        columns = columns.cast(_schema(names))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise IntegrityError(f"a table of attention is damaged: {error}") from error
    coords = np.stack([columns["x_l0_px"].to_numpy(), columns["y_l0_px"].to_numpy()], axis=1)
    parts = {name.removeprefix(_PART): columns[name].to_numpy() for name in names}
    return AttentionTable(coords, columns["attention"].to_numpy(), parts)


def _schema(parts: Iterable[str]) -> pa.Schema:
    return pa.schema([*_COLUMNS, *(pa.field(name, pa.float32(), nullable=False) for name in parts)])
