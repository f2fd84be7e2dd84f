"""Weights under the names of the published MHIM-MIL checkpoints, as their users hold them, to and from ours.

Only names and shapes differ; see the authors' papers for the modules. ABMIL (plain), TransMIL and DSMIL were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from mhim_core.errors import InputError
from mhim_core.mil.checkpoint_format import CheckpointFormat, PublishedModel, Weights, register_format
from mhim_core.mil.pt_file import write_states

if TYPE_CHECKING:
    from torch import Tensor

_MODEL = {
    "embed.weight": "feature.0.weight",
    "embed.bias": "feature.0.bias",
    "aggregator.head.weight": "predictor.weight",
    "aggregator.head.bias": "predictor.bias",
}
_RECYCLE = {
    "recycle.queries": "merge.global_q_mm",
    "recycle.norm.weight": "merge.norm.weight",
    "recycle.norm.bias": "merge.norm.bias",
    "recycle.to_q.weight": "merge.attn.to_q.weight",
    "recycle.to_kv.weight": "merge.attn.to_kv.weight",
    "recycle.to_out.weight": "merge.attn.to_out.0.weight",
    "recycle.to_out.bias": "merge.attn.to_out.0.bias",
}
_QUERIES_ALIAS = "merge.global_q"
_WITH_BATCH_AXIS = ("recycle.queries", "aggregator.cls_token")
"""Published with a leading axis of length 1."""


def _encoder_names(pairs: Mapping[str, str], kinds: tuple[str, ...] = ("weight", "bias")) -> dict[str, str]:
    return {
        f"aggregator.{ours}.{kind}": f"online_encoder.{published}.{kind}"
        for ours, published in pairs.items()
        for kind in kinds
    }


_ENCODERS = {
    "abmil": _encoder_names({"hidden": "attention.attention.0", "energy": "attention.attention.2"}, ("weight",)),
    "dsmil": _encoder_names(
        {
            "instance_head": "i_classifier.0",
            "query.0": "b_classifier.q.0",
            "query.2": "b_classifier.q.2",
            "value.0": "b_classifier.v.1",
            "bag_head": "b_classifier.fcc",
        }
    ),
    "transmil": {"aggregator.cls_token": "online_encoder.cls_token"}
    | _encoder_names(
        {
            "layer1.norm": "layer1.norm",
            "layer1.attention.to_out": "layer1.attn.to_out.0",
            "positions.conv7": "pos_embedding.proj",
            "positions.conv5": "pos_embedding.proj1",
            "positions.conv3": "pos_embedding.proj2",
            "layer2.norm": "layer2.norm",
            "layer2.attention.to_out": "layer2.attn.to_out.0",
            "norm": "norm",
        }
    )
    | _encoder_names(
        {
            f"{layer}.attention.{ours}": f"{layer}.attn.{ours}"
            for layer in ("layer1", "layer2")
            for ours in ("to_qkv", "res_conv")
        },
        ("weight",),
    ),
}
"""Our names to the published ones, by the aggregator's name."""


@register_format("mhim-mil", suffixes=(".pt", ".pth"), reads=True, writes=True)
class MhimMil(CheckpointFormat):
    """Checkpoints with the names of the published code: the student, perhaps with its teacher."""

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        return _MODEL["embed.weight"] in tensors

    def read(self, tensors: Mapping[str, Tensor]) -> Weights:
        return Weights(_match(_without_alias(tensors), published=True).aggregator, from_published(tensors))

    def write(self, model: PublishedModel) -> bytes:
        return save_published(model.student, model.teacher)


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published checkpoint as our state dict; the recycle network may be absent.

    Raises InputError naming every tensor that is missing or that we do not know.
    """
    names = _match(_without_alias(tensors), published=True).names
    return {
        ours: tensors[published][0] if ours in _WITH_BATCH_AXIS else tensors[published]
        for ours, published in names.items()
    }


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_published`, the alias of the queries included.

    Raises InputError for a model that was never published, such as gated ABMIL or a baseline.
    """
    names = _match(set(state), published=False).names
    tensors = {
        published: state[ours][None] if ours in _WITH_BATCH_AXIS else state[ours] for ours, published in names.items()
    }
    if "recycle.queries" in names:
        tensors[_QUERIES_ALIAS] = tensors[names["recycle.queries"]]
    return tensors


def save_published(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None = None) -> bytes:
    """The bytes of a `.pt` file: `{"model": …}`, with `"teacher"` where there is one, in the published names.

    Takes our state dicts. Raises InputError as `to_published`.
    """
    return write_states(to_published(student), None if teacher is None else to_published(teacher))


class _Match(NamedTuple):
    aggregator: str
    names: dict[str, str]
    """Ours → published."""


def _without_alias(tensors: Mapping[str, Tensor]) -> set[str]:
    import torch

    alias, queries = tensors.get(_QUERIES_ALIAS), tensors.get(_RECYCLE["recycle.queries"])
    if alias is not None and queries is not None and not torch.equal(alias, queries):
        raise InputError(f"{_QUERIES_ALIAS} is not the same as {_RECYCLE['recycle.queries']}, of which it is an alias")
    return {name for name in tensors if name != _QUERIES_ALIAS}


def _match(present: set[str], published: bool) -> _Match:
    """The published model whose names, whole, are exactly those present."""
    closest: tuple[int, str, list[str], list[str]] | None = None
    for aggregator, encoder in _ENCODERS.items():
        names = _MODEL | encoder
        if present & set(_RECYCLE.values() if published else _RECYCLE):
            names = names | _RECYCLE
        expected = set(names.values()) if published else set(names)
        if expected == present:
            return _Match(aggregator, names)
        unknown, missing = sorted(present - expected), sorted(expected - present)
        candidate = (len(unknown) + len(missing), aggregator, unknown, missing)
        closest = candidate if closest is None else min(closest, candidate)
    assert closest is not None
    _, aggregator, unknown, missing = closest
    raise InputError(
        f"not the weights of a published model (plain ABMIL, TransMIL or DSMIL); compared with {aggregator}, "
        f"unknown tensors {unknown}, missing tensors {missing}"
    )
