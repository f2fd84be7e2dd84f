"""State dicts in `.pt` files, read without running anything that is in them, and written. No torch at import."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from mhim_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pt", ".pth")
_MODEL_KEYS = ("model", "student", "state_dict")
"""Under which a training script may have put the weights."""
_TEACHER_KEY = "teacher"
_DISTRIBUTED = "module."
"""What data parallelism puts before every name."""


class States(NamedTuple):
    """The state dicts of a checkpoint, in its own names; halves as float32."""

    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None


def read_states(data: bytes) -> States:
    """Of a state dict, or of a dict that holds one under `model` and perhaps one under `teacher`.

    Raises InputError where the file holds more than tensors and plain data, or no state dict.
    """
    checkpoint = _unpickle(data)
    student = _state(checkpoint, _MODEL_KEYS)
    if student is None:
        raise InputError(
            f"the checkpoint holds no state dict, neither itself nor under {', '.join(_MODEL_KEYS)}; "
            f"found {', '.join(map(str, list(checkpoint)[:10])) or 'nothing'}"
        )
    return States(student, None if _is_state(checkpoint) else _state(checkpoint, (_TEACHER_KEY,)))


def write_states(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None) -> bytes:
    """`{"model": …}`, with `"teacher"` where there is one."""
    import torch

    states = {"model": student} | ({} if teacher is None else {_TEACHER_KEY: teacher})
    buffer = io.BytesIO()
    torch.save({key: _on_cpu(state) for key, state in states.items()}, buffer)
    return buffer.getvalue()


def _unpickle(data: bytes) -> dict[str, Any]:
    import torch

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
    from torch import Tensor

    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(item, Tensor) for item in value.values())


def _state(checkpoint: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Tensor] | None:
    """The state dict itself or the first one under `keys`, without the prefix of data parallelism."""
    for candidate in (checkpoint, *(checkpoint.get(key) for key in keys)):
        if _is_state(candidate):
            names = [name.removeprefix(_DISTRIBUTED) for name in candidate]
            state = dict(zip(names, (tensor.detach() for tensor in candidate.values()), strict=True))
            return {name: tensor.float() if tensor.dtype.itemsize < 4 else tensor for name, tensor in state.items()}
    return None


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
