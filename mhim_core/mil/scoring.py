"""How salient an instance is to the teacher: its score for masking. Shape suffixes: see the package's docstring."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mhim_core.mil.aggregator import BagOutput, PackedOutput
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import Score
from mhim_core.mil.packed import Pack


@torch.no_grad()
def score_instances(
    model: MilModel,
    h_ND: Float[Tensor, "N D"],
    output: BagOutput,
    score: Score,
    label_index: Int64[Tensor, ""] | None = None,
) -> Float[Tensor, "H N"]:
    """The instances' scores, per head where the score is the attention of several heads that vote, else H = 1.

    `output` is what the model's aggregator made of `h_ND`. The class-aware scores need no label: for two classes both
    rank strong evidence for *either* class first. Where the instances have predictions of their own (DSMIL), the
    largest logit is the class-aware score, whichever is asked for. Survival's time bins score as classes do. A single
    output (regression) competes with no other: the score is its magnitude, |l_n|. `label_index`: of the bag, where its
    task has classes; MDMIL's attention is that of the bag's class.
    """
    if score is Score.attention:
        if label_index is not None and model.aggregator.scores_by_label:
            return model.aggregator.labelled_score(output, label_index)
        return model.aggregator.attention_score(output)
    logits_NC = model.aggregator.instance_logits(h_ND, output)
    if logits_NC.shape[1] == 1:
        score_N = logits_NC[:, 0].abs()
    elif model.aggregator.classifies_instances:
        score_N = logits_NC.amax(dim=1)
    else:
        score_N = max_softmax(logits_NC) if score is Score.softmax_max else margin(logits_NC)
    return score_N[None]


def score_pack(
    model: MilModel,
    h_ND: Float[Tensor, "N D"],
    output: PackedOutput,
    pack: Pack,
    score: Score,
    label_index_B: Int64[Tensor, "B"] | None = None,
) -> Float[Tensor, "H N"]:
    """`score_instances` of every bag of a pack."""
    needs_label = score is Score.attention and model.aggregator.scores_by_label and label_index_B is not None
    if model.aggregator.scores_rows and not needs_label:
        return score_instances(model, h_ND, output.as_one_bag(), score)
    labels = [None] * len(pack.lengths) if label_index_B is None else label_index_B
    bags = zip(pack.split(h_ND), output.bags(pack), labels, strict=True)
    return torch.cat([score_instances(model, h, bag, score, label) for h, bag, label in bags], dim=1)


def max_softmax(logits_NC: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
    """max_c softmax_c(l_n), the published score. Where attention is sharp, most instances tie at 1/C in float32."""
    return logits_NC.softmax(dim=1).amax(dim=1)


def margin(logits_NC: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
    """-logsumexp over c ≠ c* of (l_c - l_c*), c* = argmax: the order of `max_softmax` without its ties.

    For two classes it is |l_1 - l_0|.
    """
    top = logits_NC.max(dim=1, keepdim=True)
    behind_NC = (logits_NC - top.values).scatter(1, top.indices, -torch.inf)
    return -behind_NC.logsumexp(dim=1)
