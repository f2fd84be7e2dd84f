"""Model files: safetensors that describe themselves, and plain inference with them."""

from collections.abc import Sequence
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from mhim_core.errors import IntegrityError
from mhim_core.mil.layout import Layout
from mhim_core.mil.model import MilModel
from mhim_core.mil.packed import Pack
from mhim_core.train.card import ModelCard, load_card


class LoadedModel(NamedTuple):
    """A model file: the reported student, and the teacher beside it (None in stage 1)."""

    card: ModelCard
    student: MilModel
    teacher: MilModel | None


class ModelOutput(NamedTuple):
    """One bag's prediction, on the model's device. The card's `task` defines the C numbers."""

    logits_C: Float[Tensor, "C"]
    attention_N: Float[Tensor, "N"]
    """Attention of this very forward pass, mean over heads (DSMIL: over classes). Sums to 1, or to less where recycled
    tokens took their part; TransMIL's is only about a distribution and may dip below 0."""
    class_attention_CN: Float[Tensor, "C N"] | None = None
    """Each class's own, whose mean it is, where the aggregator draws a map of each (MDMIL)."""


def save_model(card: ModelCard, student: dict[str, Tensor], teacher: dict[str, Tensor] | None = None) -> bytes:
    """The file's bytes; equal arguments give equal bytes."""
    tensors = {f"student/{name}": tensor.contiguous().cpu() for name, tensor in student.items()}
    tensors |= {f"teacher/{name}": tensor.contiguous().cpu() for name, tensor in (teacher or {}).items()}
    return safetensors.torch.save(tensors, {"card": card.to_text()})


def load_model(data: bytes, device: str | torch.device = "cpu") -> LoadedModel:
    """The models of a file whose sha256 the caller has verified. Raises IntegrityError if it is not a model file."""
    card = load_card(data)
    try:
        tensors = safetensors.torch.load(data)
        models = {}
        for role in ("student", "teacher"):
            state = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{role}/")}
            if not state:
                continue
            with torch.device("meta"):
                model = MilModel(card.d_in, card.task.num_outputs, card.model, card.mhim)
            model.load_state_dict(state, assign=True)
            model.demands_layout = True
            models[role] = model.to(device).requires_grad_(False).eval()
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"the model file does not hold the model its card describes: {error}") from error
    if "student" not in models:
        raise IntegrityError("the model file holds no student")
    return LoadedModel(card, models["student"], models.get("teacher"))


@torch.no_grad()
def predict_bag(
    model: MilModel, x_NF: Float[Tensor, "N F"], append_recycled: bool = False, layout: Layout | None = None
) -> ModelOutput:
    """Plain inference on all instances. `append_recycled`: see `ModelCard.append_recycled`; `layout`: the bag's.

    The features may be of another precision than the model.
    """
    weight = model.embed.weight
    layout = None if layout is None else layout.to(weight.device)
    output = model(x_NF.to(weight.device), append_recycled, layout)
    attention_HN = output.attention_HN[:, : len(x_NF)]
    of_classes = attention_HN if model.aggregator.attends_by_class else None
    return ModelOutput(output.logits_C, attention_HN.mean(dim=0), of_classes)


@torch.no_grad()
def predict_pack(
    model: MilModel,
    bags: Sequence[Float[Tensor, "N F"]],
    append_recycled: bool = False,
    layouts: Sequence[Layout | None] | None = None,
) -> Float[Tensor, "B C"]:
    """The logits of `predict_bag` for several bags at once, equal up to rounding."""
    weight = model.embed.weight
    pack = Pack([len(x_NF) for x_NF in bags], weight.device)
    x_NF = torch.cat([bag_NF.to(weight.device) for bag_NF in bags])
    return model.forward_packed(x_NF, pack, append_recycled, layouts).logits_BC
