"""What a model sees in one bag: attention, evidence of each tile, and the prediction with and without one of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mhim_core.errors import InputError
from mhim_core.features import has_places
from mhim_core.mil.layout import TREE_BESIDE, Layout
from mhim_core.mil.model import MilModel
from mhim_core.task import FittedTask
from mhim_core.train.inference import Voter, fixed_threads, outputs_of
from mhim_core.train.model_file import predict_bag


class BagLook(NamedTuple):
    """One bag by one model."""

    outputs: np.ndarray
    """float64 (K,): class probabilities, the risk (1,) or the number (1,)."""
    attention_N: np.ndarray
    """float32 (N,), of this very forward pass; sums to 1, or to less where recycled tokens took their part."""
    evidence_NC: np.ndarray | None
    """float32 (N, C): each tile's own evidence (logits without the head's bias); None: the aggregator weighs none."""


def layout_in_bag(model: MilModel, features_NF: np.ndarray, places: Sequence[np.ndarray]) -> Layout | None:
    """Of the whole bag, where the model asks for it; `places`: x and y of the tiles of each of its slides.

    Raises InputError where they are not known.
    """
    if not model.needs_places:
        return None
    if not all(has_places(coords_l0_px) for coords_l0_px in places):
        raise InputError("the features have no coordinates, and this model needs them")
    parts = np.split(features_NF, np.cumsum([len(coords_l0_px) for coords_l0_px in places])[:-1])
    return Layout.of_arrays([TREE_BESIDE.make(*part) for part in zip(parts, places, strict=True)])


@torch.no_grad()
def look_at_bag(voter: Voter, features_NF: np.ndarray, layout: Layout | None = None) -> BagLook:
    """The whole bag through the model, as `evaluate` and `predict` pass it; on two threads of a CPU.

    `layout`: what `layout_in_bag` says of it.
    """
    h_NF = torch.from_numpy(np.ascontiguousarray(features_NF))
    model, num = voter.model, len(features_NF)
    with fixed_threads():
        h_ND = model.embed_instances(h_NF.to(model.embed.weight.device))
        layout = model.layout_of(None if layout is None else layout.to(h_ND.device), h_ND)
        if voter.append_recycled and model.recycle is not None:
            tokens_kD = model.recycle(h_ND)
            h_ND = torch.cat([h_ND, tokens_kD])
            layout = None if layout is None else layout.with_tokens(len(tokens_kD))
        output = model.aggregate(h_ND, None, layout)
        attention_N = output.attention_HN[:, :num].mean(dim=0)
        try:
            evidence_NC = model.aggregator.instance_logits(h_ND, output)[:num].float().cpu().numpy()
        except NotImplementedError:
            evidence_NC = None
    outputs = outputs_of(_in_users_unit(output.logits_C, voter.task), voter.task.kind)
    return BagLook(outputs, attention_N.float().cpu().numpy(), evidence_NC)


def outputs_without(
    voter: Voter, features_NF: np.ndarray, rows: Sequence[int], layout: Layout | None = None
) -> np.ndarray | None:
    """float64 (K,): the prediction of the bag without these tiles; None where none would be left.

    `layout`: of the whole bag, which what is left inherits.
    """
    kept = np.delete(features_NF, list(rows), axis=0)
    if not len(kept):
        return None
    if layout is not None:
        layout = layout.select(torch.from_numpy(np.delete(np.arange(len(features_NF)), list(rows))))
    with fixed_threads():
        output = predict_bag(voter.model, torch.from_numpy(kept), voter.append_recycled, layout)
    return outputs_of(_in_users_unit(output.logits_C, voter.task), voter.task.kind)


def _in_users_unit(logits_C: torch.Tensor, task: FittedTask) -> np.ndarray:
    return np.asarray(logits_C.double().cpu().numpy() * task.target_deviation + task.target_mean)
