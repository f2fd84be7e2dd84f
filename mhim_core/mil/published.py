"""Weights under the names of the published checkpoints, as their users hold them, to and from ours (ABMIL).

Only names and shapes differ; see the authors' papers for the modules. Plain ABMIL is what was published.
"""

from collections.abc import Mapping

from torch import Tensor

from mhim_core.errors import InputError

_NAMES = {
    "embed.weight": "feature.0.weight",
    "embed.bias": "feature.0.bias",
    "aggregator.hidden.weight": "online_encoder.attention.attention.0.weight",
    "aggregator.energy.weight": "online_encoder.attention.attention.2.weight",
    "aggregator.head.weight": "predictor.weight",
    "aggregator.head.bias": "predictor.bias",
    "recycle.queries": "merge.global_q_mm",
    "recycle.norm.weight": "merge.norm.weight",
    "recycle.norm.bias": "merge.norm.bias",
    "recycle.to_q.weight": "merge.attn.to_q.weight",
    "recycle.to_kv.weight": "merge.attn.to_kv.weight",
    "recycle.to_out.weight": "merge.attn.to_out.0.weight",
    "recycle.to_out.bias": "merge.attn.to_out.0.bias",
}
_QUERIES_ALIAS = "merge.global_q"


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published ABMIL checkpoint as our state dict; the recycle network may be absent.

    Raises InputError naming every tensor that is missing or that we do not know.
    """
    ours_of = {published: ours for ours, published in _NAMES.items()}
    unknown = sorted(set(tensors) - set(ours_of) - {_QUERIES_ALIAS})
    required = {name for name in ours_of if not name.startswith("merge.")}
    if any(name.startswith("merge.") for name in tensors):
        required = set(ours_of)
    missing = sorted(required - set(tensors))
    if unknown or missing:
        raise InputError(
            f"not a published ABMIL checkpoint: unknown tensors {unknown}, missing tensors {missing}; "
            "only plain ABMIL checkpoints can be imported"
        )
    state = {ours_of[name]: tensor for name, tensor in tensors.items() if name != _QUERIES_ALIAS}
    if "recycle.queries" in state:
        state["recycle.queries"] = state["recycle.queries"][0]
    return state


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_published`, the alias of the queries included. Raises InputError for a gated model."""
    unknown = sorted(set(state) - set(_NAMES))
    if unknown:
        raise InputError(f"these tensors have no name in the published checkpoints: {unknown}")
    tensors = {_NAMES[name]: tensor for name, tensor in state.items()}
    if "recycle.queries" in state:
        tensors[_NAMES["recycle.queries"]] = tensors[_QUERIES_ALIAS] = state["recycle.queries"][None]
    return tensors
