"""Which tiles speak for which class: each instance's own part in a bag's logits, by finished models.

Shapes: N instances of a bag, C outputs of a model.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mhim_core.store.schema import FeatureTable
from mhim_core.train.inference import Voter, fixed_threads


@torch.no_grad()
def instance_evidence(tables: Sequence[FeatureTable], voters: Sequence[Voter]) -> tuple[np.ndarray, ...] | None:
    """float64 (N, C) per slide of the bag: the aggregators' `instance_logits`, the mean over the models.

    Where a model's head is linear in what its attention sums up (ABMIL, CLAM-SB), the sum over all instances is the
    bag's logits but for the bias, and for recycled tokens where it sees some. Of a pair both models count alike. None
    where an aggregator does not weigh single instances.
    """
    members = [member for voter in voters for member in (voter, voter.beside) if member is not None]
    x_NF = torch.from_numpy(np.concatenate([table.features for table in tables]))
    with fixed_threads():
        parts = [_of_model(x_NF, member) for member in members]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    ends = np.cumsum([len(table.features) for table in tables])[:-1]
    return tuple(np.split(np.mean(known, axis=0), ends))


def _of_model(x_NF: torch.Tensor, voter: Voter) -> np.ndarray | None:
    model = voter.model
    h_ND = model.embed_instances(x_NF.to(model.embed.weight.device))
    if voter.append_recycled and model.recycle is not None:
        h_ND = torch.cat([h_ND, model.recycle(h_ND)])
    output = model.aggregator(h_ND)
    try:
        logits_NC = model.aggregator.instance_logits(h_ND, output)
    except NotImplementedError:
        return None
    return np.asarray(logits_NC[: len(x_NF)].double().cpu().numpy()) * voter.task.target_deviation
