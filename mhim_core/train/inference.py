"""From bags to predictions by finished models: what evaluation and prediction share.

Shapes: N instances, C classes, M models.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mhim_core.mil.model import MilModel
from mhim_core.store.schema import FeatureTable
from mhim_core.train.checkpoint import predict_bag

_COLUMNS = pa.schema(
    [
        pa.field("x_l0_px", pa.int32(), nullable=False),
        pa.field("y_l0_px", pa.int32(), nullable=False),
        pa.field("attention", pa.float32(), nullable=False),
    ]
)


class Voter(NamedTuple):
    """One model and how it is asked."""

    model: MilModel
    append_recycled: bool


class BagPrediction(NamedTuple):
    """One bag by M models."""

    probabilities: np.ndarray
    """float64 (C,): the mean over the models."""
    spread: np.ndarray
    """float64 (C,): the standard deviation over the models, 0 for one."""
    attention: np.ndarray
    """float32 (N,): of these very forward passes, the mean over the models."""


def predict_table(table: FeatureTable, voters: Sequence[Voter]) -> BagPrediction:
    """The features of one slide through the models, plain inference on all its instances."""
    h_NF = torch.from_numpy(table.features).float()
    found = [predict_bag(voter.model, h_NF, voter.append_recycled) for voter in voters]
    probabilities_MC = torch.stack([one.probabilities_C.double().cpu() for one in found]).numpy()
    attention_MN = torch.stack([one.attention_N.float().cpu() for one in found]).numpy()
    return BagPrediction(probabilities_MC.mean(axis=0), probabilities_MC.std(axis=0), attention_MN.mean(axis=0))


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
    columns = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    coords = np.stack([columns["x_l0_px"].to_numpy(), columns["y_l0_px"].to_numpy()], axis=1)
    return AttentionTable(coords, columns["attention"].to_numpy())
