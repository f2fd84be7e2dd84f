"""The losses of one bag (IJCV 2025, section 3.5). Shape suffixes: see the package's docstring."""

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor


def classification_loss(logits_C: Float[Tensor, "C"], label_index: Int64[Tensor, ""]) -> Float[Tensor, ""]:
    """Cross-entropy."""
    return F.cross_entropy(logits_C[None], label_index[None])


def consistency_loss(
    teacher_feature_D: Float[Tensor, "*D"], student_feature_D: Float[Tensor, "*D"], temperature: float
) -> Float[Tensor, ""]:
    """-Σ_d softmax(F_t/τ)_d log softmax(F_s)_d over the features; no gradient into F_t. Rows (C×D) are averaged."""
    target_D = (teacher_feature_D.detach() / temperature).softmax(dim=-1)
    return -(target_D * student_feature_D.log_softmax(dim=-1)).sum(dim=-1).mean()
