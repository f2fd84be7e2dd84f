"""A bag's embedding by a trained model, of the forward pass that also predicts it."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mhim_core.metrics.arrays import Floats
from mhim_core.mil.layout import Layout
from mhim_core.task import TaskKind
from mhim_core.train.inference import Voter, fixed_threads, join_logits


class BagEmbedding(NamedTuple):
    """One bag by one model."""

    feature_D: np.ndarray
    """float32: what the model's head sees of the bag; of a model with an embedding a class, these one after another."""
    logits_C: Floats
    """As `BagPrediction.logits_MC`; of a pair the joined ones, beside the student's embedding."""


@torch.no_grad()
def embed_bag(x_NF: Float[Tensor, "N F"], voter: Voter, layout: Layout | None = None) -> BagEmbedding:
    """By all instances, of a classification. On a CPU the same bits whatever number of threads torch was set to.

    `layout`: the bag's, where a model asks for it (`inference.bag_layout`).
    """
    device = voter.model.embed.weight.device
    with fixed_threads():
        own = None if layout is None else layout.to(device)
        output = voter.model(x_NF.to(device), voter.append_recycled, own)
    logits_C = output.logits_C.double().cpu().numpy()
    if voter.beside is not None:
        beside = embed_bag(x_NF, voter.beside, layout)
        logits_C = join_logits(beside.logits_C[None], logits_C[None], TaskKind.classification)[0]
    return BagEmbedding(output.feature_D.flatten().float().cpu().numpy(), logits_C)
