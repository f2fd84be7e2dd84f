"""Which tiles speak for which class: each instance's own part in a bag's logits, by finished models.

Shapes: N instances of a bag, C outputs of a model.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mhim_core.mil.layout import Layout
from mhim_core.store.schema import FeatureTable
from mhim_core.train.inference import Voter, bag_layout, fixed_threads


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
        layout = bag_layout(tables, members)
        parts = [_of_model(x_NF, member, layout) for member in members]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    ends = np.cumsum([len(table.features) for table in tables])[:-1]
    return tuple(np.split(np.mean(known, axis=0), ends))


def _of_model(x_NF: torch.Tensor, voter: Voter, layout: Layout | None) -> np.ndarray | None:
    model = voter.model
    x_NF = x_NF.to(model.embed.weight.device)
    h_ND = model.embed_instances(x_NF)
    layout = model.layout_of(None if layout is None else layout.to(x_NF.device), x_NF)
    if voter.append_recycled and model.recycle is not None:
        tokens_kD = model.recycle(h_ND)
        h_ND = torch.cat([h_ND, tokens_kD])
        layout = None if layout is None else layout.with_tokens(len(tokens_kD))
    output = model.aggregate(h_ND, None, layout)
    try:
        logits_NC = model.aggregator.instance_logits(h_ND, output)
    except NotImplementedError:
        return None
    return np.asarray(logits_NC[: len(x_NF)].double().cpu().numpy()) * voter.task.target_deviation
