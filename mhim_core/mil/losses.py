"""The losses of one bag (IJCV 2025, section 3.5). Shape suffixes: see the package's docstring.

In survival the C classes are time bins: logit t belongs to the hazard h_t = σ(logit_t), the probability of an event in
bin t given none before, and S_t = Π_{u≤t} (1 - h_u) is the probability of none up to and including bin t.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def classification_loss(logits_C: Float[Tensor, "C"], label_index: Int64[Tensor, ""]) -> Float[Tensor, ""]:
    """Cross-entropy."""
    return F.cross_entropy(logits_C[None], label_index[None])


def survival_loss(
    logits_C: Float[Tensor, "C"], time_bin: Int64[Tensor, ""], censored: Bool[Tensor, ""]
) -> Float[Tensor, ""]:
    """Negative log-likelihood of a bag whose event or last visit lies in `time_bin` (Zadeh & Schmid, 2020).

    Event: -log S(y-1) - log h(y), with S(-1) = 1. Censored: -log S(y).
    """
    bin_C = torch.arange(len(logits_C), device=logits_C.device)
    outlived_C = torch.where(censored, bin_C <= time_bin, bin_C < time_bin)
    event_C = (bin_C == time_bin) & ~censored
    zero = logits_C.new_zeros(())
    # log(1 - σ(x)) = logsigmoid(-x): finite however sure the model is, so that no ε is needed
    log_likelihood_C = torch.where(outlived_C, F.logsigmoid(-logits_C), zero)
    log_likelihood_C = log_likelihood_C + torch.where(event_C, F.logsigmoid(logits_C), zero)
    return -log_likelihood_C.sum()


def regression_loss(output_C: Float[Tensor, "1"], standardised_target: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Squared error on the target as standardised by the training bags (`FittedTask.standardise`)."""
    return (output_C[0] - standardised_target).square()


def consistency_loss(
    teacher_feature_D: Float[Tensor, "*D"], student_feature_D: Float[Tensor, "*D"], temperature: float
) -> Float[Tensor, ""]:
    """-Σ_d softmax(F_t/τ)_d log softmax(F_s)_d over the features; no gradient into F_t. Rows (C×D) are averaged."""
    target_D = (teacher_feature_D.detach() / temperature).softmax(dim=-1)
    return -(target_D * student_feature_D.log_softmax(dim=-1)).sum(dim=-1).mean()
