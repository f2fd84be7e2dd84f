"""What a model sees in one bag: attention, evidence of each tile, and the prediction with and without one of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

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


@torch.no_grad()
def look_at_bag(voter: Voter, features_NF: np.ndarray) -> BagLook:
    """The whole bag through the model, as `evaluate` and `predict` pass it; on two threads of a CPU."""
    h_NF = torch.from_numpy(np.ascontiguousarray(features_NF))
    model, num = voter.model, len(features_NF)
    with fixed_threads():
        h_ND = model.embed_instances(h_NF.to(model.embed.weight.device))
        if voter.append_recycled and model.recycle is not None:
            h_ND = torch.cat([h_ND, model.recycle(h_ND)])
        output = model.aggregator(h_ND)
        attention_N = output.attention_HN[:, :num].mean(dim=0)
        try:
            evidence_NC = model.aggregator.instance_logits(h_ND, output)[:num].float().cpu().numpy()
        except NotImplementedError:
            evidence_NC = None
    outputs = outputs_of(_in_users_unit(output.logits_C, voter.task), voter.task.kind)
    return BagLook(outputs, attention_N.float().cpu().numpy(), evidence_NC)


def outputs_without(voter: Voter, features_NF: np.ndarray, rows: Sequence[int]) -> np.ndarray | None:
    """float64 (K,): the prediction of the bag without these tiles; None where none would be left."""
    kept = np.delete(features_NF, list(rows), axis=0)
    if not len(kept):
        return None
    with fixed_threads():
        output = predict_bag(voter.model, torch.from_numpy(kept), voter.append_recycled)
    return outputs_of(_in_users_unit(output.logits_C, voter.task), voter.task.kind)


def _in_users_unit(logits_C: torch.Tensor, task: FittedTask) -> np.ndarray:
    return np.asarray(logits_C.double().cpu().numpy() * task.target_deviation + task.target_mean)
