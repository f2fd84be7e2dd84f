"""Published MHIM-MIL and CLAM checkpoints (`.pt`) as files, read without running anything that is in them, and written.

What a tensor's name and shape say is taken from there: the aggregator, the features of a tile, D, C and k. Activations
are in no tensor, so the reader says them.
"""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from mhim_core.errors import InputError
from mhim_core.mil.clam_weights import from_clam, is_clam
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions
from mhim_core.mil.published import from_published, published_aggregator, to_published

_MODEL_KEYS = ("model", "student", "state_dict")
"""Under which a training script may have put the weights."""
_TEACHER_KEY = "teacher"
_DISTRIBUTED = "module."
"""What data parallelism puts before every name."""


class PublishedModel(NamedTuple):
    """A published checkpoint in our names; weights on the CPU, bit for bit."""

    options: ModelOptions
    d_in: int
    """Features per tile."""
    num_outputs: int
    """C."""
    recycle_queries: int | None
    """k; None where the checkpoint has no recycle network."""
    dtype: torch.dtype
    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None


def load_published(data: bytes, options: ModelOptions | None = None) -> PublishedModel:
    """Read a `.pt` file's bytes: a state dict, or a dict that holds one under `model` and perhaps one under `teacher`.

    `options`: for what no tensor says (activations; by default those of v2, and always ReLU for CLAM), the aggregator
    and D are the file's.
    Recycle weights that the teacher lacks are the student's. Raises InputError where the file holds more than tensors
    and plain data, or tensors (listed) that no published model has.
    """
    checkpoint = _unpickle(data)
    student = _state(checkpoint, _MODEL_KEYS)
    if student is None:
        raise InputError(
            f"the checkpoint holds no state dict, neither itself nor under {', '.join(_MODEL_KEYS)}; "
            f"found {', '.join(map(str, list(checkpoint)[:10])) or 'nothing'}"
        )
    model = _describe(student, options or ModelOptions())
    teacher = None if _is_state(checkpoint) else _state(checkpoint, (_TEACHER_KEY,))
    if teacher is not None:
        teacher = model.student | from_published(teacher)
        _check_shapes(teacher, model, "teacher")
    return model._replace(teacher=teacher)


def save_published(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None = None) -> bytes:
    """The bytes of a `.pt` file: `{"model": …}`, with `"teacher"` where there is one, in the published names.

    Takes our state dicts. Raises InputError for a model that was never published.
    """
    states = {"model": student} | ({} if teacher is None else {_TEACHER_KEY: teacher})
    buffer = io.BytesIO()
    torch.save({key: _on_cpu(to_published(state)) for key, state in states.items()}, buffer)
    return buffer.getvalue()


def _unpickle(data: bytes) -> dict[str, Any]:
    try:
        checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may break the reader in any way
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            "not a checkpoint of tensors and plain data, and nothing else is read, since a pickle can run code; save "
            f"the state dict alone ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"the checkpoint holds a {type(checkpoint).__name__}, not a state dict")
    return dict(checkpoint)


def _is_state(value: Any) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(item, Tensor) for item in value.values())


def _state(checkpoint: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Tensor] | None:
    """The state dict itself or the first one under `keys`, without the prefix of data parallelism."""
    for candidate in (checkpoint, *(checkpoint.get(key) for key in keys)):
        if _is_state(candidate):
            names = [name.removeprefix(_DISTRIBUTED) for name in candidate]
            state = dict(zip(names, (tensor.detach() for tensor in candidate.values()), strict=True))
            return {name: tensor.float() if tensor.dtype.itemsize < 4 else tensor for name, tensor in state.items()}
    return None


def _describe(published: Mapping[str, Tensor], options: ModelOptions) -> PublishedModel:
    if is_clam(published):
        aggregator, state = from_clam(published)
        options = dataclasses.replace(options, embed_activation=Activation.relu)  # as CLAM's code, which has no other
    else:
        aggregator, state = published_aggregator(published), from_published(published)
    dtypes = {tensor.dtype for tensor in state.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise InputError(f"the checkpoint's tensors are of {sorted(map(str, dtypes))}; expected one kind of float")
    embed_dim, d_in = state["embed.weight"].shape
    model = PublishedModel(
        options=ModelOptions(
            aggregator=aggregator,
            embed_dim=embed_dim,
            embed_activation=options.embed_activation,
            attention_activation=options.attention_activation,
        ),
        d_in=d_in,
        num_outputs=len(state["aggregator.head.bias"]),
        recycle_queries=len(state["recycle.queries"]) if "recycle.queries" in state else None,
        dtype=dtypes.pop(),
        student=state,
        teacher=None,
    )
    _check_shapes(state, model, "model")
    return model


def _check_shapes(state: Mapping[str, Tensor], model: PublishedModel, role: str) -> None:
    """Names are known to fit by now; do the shapes, for the aggregator as we build it?"""
    mhim = None if model.recycle_queries is None else MhimOptions(recycle_queries=model.recycle_queries)
    with torch.device("meta"):
        expected = MilModel(model.d_in, model.num_outputs, model.options, mhim).state_dict()
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    unmatched = sorted(set(expected) ^ set(state))
    if wrong or unmatched:
        raise InputError(
            f"the {role} of the checkpoint is no {model.options.aggregator} of D={model.options.embed_dim}, "
            f"C={model.num_outputs} as published: {'; '.join(wrong) or ', '.join(unmatched)}"
        )


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
