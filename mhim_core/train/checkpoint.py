"""Model files: safetensors that describe themselves, and plain inference with them."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from mhim_core.errors import IntegrityError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.mil.model import MilModel
from mhim_core.mil.options import (
    Activation,
    MhimOptions,
    ModelOptions,
    RecycleAtTest,
    Schedule,
    Score,
    StudentInit,
    TeacherMode,
    TokenOrder,
)
from mhim_core.task import FittedTask, TaskKind
from mhim_core.train.options import Precision
from mhim_core.train.plan import Stage, TrainPlan
from mhim_core.train.results import FitResult
from mhim_core.train.state import read_metadata

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model file says about itself."""

    stage: Stage
    fold: int
    seed: int
    d_in: int
    """Features per tile."""
    task: FittedTask
    """What is predicted, with the fit's own time bins or scale."""
    precision: Precision
    model: ModelOptions
    mhim: MhimOptions | None
    """None for a stage-1 model."""
    provenance: dict[str, str] = field(default_factory=dict)
    """What the features are: manifest, encoder fingerprint, …"""

    @property
    def append_recycled(self) -> bool:
        """Whether inference appends recycled tokens."""
        return self.mhim is not None and self.mhim.recycles_at_test


class LoadedModel(NamedTuple):
    """A model file: the reported student, and the teacher beside it (None in stage 1)."""

    card: ModelCard
    student: MilModel
    teacher: MilModel | None


class Prediction(NamedTuple):
    """One bag's prediction, on the model's device. What the C numbers mean is the card's `task`'s to say."""

    logits_C: Float[Tensor, "C"]
    attention_N: Float[Tensor, "N"]
    """Attention of this very forward pass, mean over heads (DSMIL: over classes). Sums to 1, or to less where recycled
    tokens took their part; TransMIL's is only about a distribution and may dip below 0."""


def save_model(card: ModelCard, student: dict[str, Tensor], teacher: dict[str, Tensor] | None = None) -> bytes:
    """The file's bytes; equal arguments give equal bytes."""
    tensors = {f"student/{name}": tensor.contiguous().cpu() for name, tensor in student.items()}
    tensors |= {f"teacher/{name}": tensor.contiguous().cpu() for name, tensor in (teacher or {}).items()}
    return safetensors.torch.save(tensors, {"card": canonical_json({"schema": SCHEMA, **_fields(card)}).decode()})


INTENDED_USE = "Research use only. Not a medical device: not for diagnosis, nor for decisions about patients."


def describe(card: ModelCard, plan: TrainPlan, result: FitResult) -> dict[str, object]:
    """The card beside the model file, for people and other programs; `load_card` reads the file's own."""
    spec = next(spec for spec in plan.fits if spec.name == result.name)
    return _fields(card) | {
        "schema": SCHEMA,
        "model_sha256": result.model_sha256,
        "fit": plan.fit,
        "training_bags": {"number": len(spec.train), "identity": result.data_identity},
        "metrics": {
            "selected_by": result.metric_name,
            "validation_metric": result.metric,
            "validation_loss": result.validation_loss,
            "best_epoch": result.best_epoch,
            "num_epochs": len(result.history),
        },
        "intended_use": INTENDED_USE,
        "about": plan.about,
    }


def weights_digest(data: bytes) -> str:
    """sha256 of a model file's tensors alone: equal for equal weights, whatever its card says of where they come from.

    Raises IntegrityError if it is not a safetensors file.
    """
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        header.pop("__metadata__", None)
    except (ValueError, AttributeError) as error:
        raise IntegrityError(f"not a safetensors file: {error}") from error
    return sha256(canonical_json(header) + data[end:])


def load_card(data: bytes) -> ModelCard:
    """The card of a model file. Raises IntegrityError if it is not one, or of another schema."""
    try:
        raw = json.loads(read_metadata(data)["card"])
        if raw.pop("schema") != SCHEMA:
            raise IntegrityError(f"the model file has another schema than {SCHEMA}")
        return ModelCard(
            **raw
            | {
                "stage": Stage(raw["stage"]),
                "task": _task(raw["task"]),
                "precision": Precision(raw["precision"]),
                "model": ModelOptions(**_with_enums(raw["model"])),
                "mhim": None if raw["mhim"] is None else MhimOptions(**_with_enums(raw["mhim"])),
            }
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"not a model file of this project: {type(error).__name__}: {error}") from error


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
            models[role] = model.to(device).requires_grad_(False).eval()
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"the model file does not hold the model its card describes: {error}") from error
    if "student" not in models:
        raise IntegrityError("the model file holds no student")
    return LoadedModel(card, models["student"], models.get("teacher"))


@torch.no_grad()
def predict_bag(model: MilModel, x_NF: Float[Tensor, "N F"], append_recycled: bool = False) -> Prediction:
    """Plain inference on all instances. `append_recycled`: see `ModelCard.append_recycled`."""
    weight = model.embed.weight
    output = model(x_NF.to(weight.device, weight.dtype), append_recycled)
    attention_N = output.attention_HN[:, : len(x_NF)].mean(dim=0)
    return Prediction(output.logits_C, attention_N)


_ENUM_OF = {
    "embed_activation": Activation,
    "attention_activation": Activation,
    "high_mask_schedule": Schedule,
    "ema_schedule": Schedule,
    "score": Score,
    "teacher_mode": TeacherMode,
    "student_init": StudentInit,
    "recycle_at_test": RecycleAtTest,
    "token_order": TokenOrder,
}


def _task(raw: dict[str, Any]) -> FittedTask:
    lists = {name: tuple(raw[name]) for name in ("classes", "inner_edges")}
    return FittedTask(**raw | lists | {"kind": TaskKind(raw["kind"])})


def _fields(card: ModelCard) -> dict[str, object]:
    return {item.name: getattr(card, item.name) for item in dataclasses.fields(card)}


def _with_enums(raw: dict[str, Any]) -> dict[str, Any]:
    return {name: _ENUM_OF[name](value) if name in _ENUM_OF else value for name, value in raw.items()}
