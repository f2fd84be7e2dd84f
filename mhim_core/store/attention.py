"""A slide's attention as a Parquet file: where each tile lies, and how much the models looked at it."""

import io
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


def encode_attention(table: FeatureTable, attention: np.ndarray) -> bytes:
    """A Parquet file of each tile's place and attention, (N,) float32; the same values give the same bytes."""
    x, y = table.coords_l0_px.T
    columns = pa.table([pa.array(x), pa.array(y), pa.array(attention, pa.float32())], schema=_COLUMNS)
    buffer = io.BytesIO()
    pq.write_table(columns, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


class AttentionTable(NamedTuple):
    """What `encode_attention` kept."""

    coords_l0_px: np.ndarray
    """int32 (N, 2)."""
    attention: np.ndarray
    """float32 (N,)."""


def decode_attention(data: bytes) -> AttentionTable:
    """Raises IntegrityError if the bytes are no such table."""
    try:
        columns = read_parquet(data).cast(_COLUMNS)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise IntegrityError(f"a table of attention is damaged: {error}") from error
    coords = np.stack([columns["x_l0_px"].to_numpy(), columns["y_l0_px"].to_numpy()], axis=1)
    return AttentionTable(coords, columns["attention"].to_numpy())
