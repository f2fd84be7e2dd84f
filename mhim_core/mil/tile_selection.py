"""Which tiles make the query of a class: MDMIL's two rules. Shape suffixes: see `packed`.

Nothing here takes a gradient: the instance head learns by its own loss, and the means of the chosen tiles by theirs.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mhim_core.mil.aggregators.mdmil_options import MdmilOptions, MdmilSelection
from mhim_core.mil.packed import Pack


@torch.no_grad()
def query_weights(logits_NC: Float[Tensor, "N C"], pack: Pack, options: MdmilOptions) -> Float[Tensor, "B C N"]:
    """Each class's weights of its bag's tiles: 1/n for its n most probable ones, 0 for all others.

    n is max(1, ⌊N·share⌋), with the first share for the class that the rule prefers and the other for the rest. Tiles
    are ranked by the log-odds of their class, which do not tie where probabilities round to 1.
    """
    ranked_CN = pack.ranked(log_odds(logits_NC).T)
    first_BCN = _top_means(ranked_CN, pack, options.first_share, logits_NC)
    other_BCN = _top_means(ranked_CN, pack, options.other_share, logits_NC)
    probability_CN = logits_NC.softmax(dim=1).T
    mean_BC = (first_BCN * probability_CN).sum(dim=2)
    # of one tile it is 0, where the usual estimate would divide by 0
    deviation_BC = (first_BCN * (probability_CN - mean_BC[:, :, None]).square()).sum(dim=2).sqrt()
    preferred_BC = preferred_class(mean_BC, deviation_BC, options)
    return torch.where(preferred_BC[:, :, None], first_BCN, other_BCN)


def preferred_class(
    mean_BC: Float[Tensor, "B C"], deviation_BC: Float[Tensor, "B C"], options: MdmilOptions
) -> Bool[Tensor, "B C"]:
    """Of each bag the class whose query is made of the first share of its tiles, at most one.

    μ, σ: of the probabilities of a class's top tiles; cf = μ - σ. tcga: the class of the largest cf if, with the margin
    added, it still exceeds the second largest, and if the largest μ and the smallest σ are one class's. camelyon: class
    0 if its cf with the margin exceeds class 1's, otherwise class 1 if its cf is the larger.
    """
    confidence_BC = mean_BC - deviation_BC
    none_BC = torch.zeros_like(confidence_BC, dtype=torch.bool)
    if confidence_BC.shape[1] == 1:
        return none_BC
    if options.mdmil_selection == MdmilSelection.camelyon:
        first_B = confidence_BC[:, 0] + options.margin > confidence_BC[:, 1]
        second_B = ~first_B & (confidence_BC[:, 1] > confidence_BC[:, 0])
        return torch.cat([first_B[:, None], second_B[:, None], none_BC[:, 2:]], dim=1)
    two_B2 = confidence_BC.topk(2, dim=1)
    leads_B = two_B2.values[:, 0] + options.margin > two_B2.values[:, 1]
    agrees_B = mean_BC.argmax(dim=1) == deviation_BC.argmin(dim=1)
    classes_C = torch.arange(mean_BC.shape[1], device=mean_BC.device)
    return (leads_B & agrees_B)[:, None] & (classes_C == two_B2.indices[:, :1])


def log_odds(logits_NC: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    """log p/(1 - p) of each class's softmax probability p; of a single class the logit itself."""
    if logits_NC.shape[1] == 1:
        return logits_NC
    is_own_CC = torch.eye(logits_NC.shape[1], dtype=torch.bool, device=logits_NC.device)
    others_NC = torch.where(is_own_CC, -torch.inf, logits_NC[:, None]).logsumexp(dim=2)
    return logits_NC - others_NC


def _top_means(ranked_CN: Tensor, pack: Pack, share: float, like: Tensor) -> Tensor:
    """The weights (B×C×N, of the precision of `like`, N×C) that average each bag's first rows in every ranking."""
    counts = [max(1, int(length * share)) for length in pack.lengths]
    rows_CM = ranked_CN.index_select(1, pack.first_rows(counts))
    weight_M = torch.cat([like.new_full((count,), 1 / count) for count in counts])
    weight_CN = torch.zeros_like(like.T).scatter(1, rows_CM, weight_M.expand_as(rows_CM))
    return torch.where(pack.is_own[:, None], weight_CN, 0)
