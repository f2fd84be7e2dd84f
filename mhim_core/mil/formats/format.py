"""What a checkpoint format is. No torch at import: the command line reads the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mhim_core.mil.model_options import Activation, ModelOptions


class PublishedModel(NamedTuple):
    """A checkpoint in our names; weights on the CPU, bit for bit."""

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


class Weights(NamedTuple):
    """What a reader makes of a checkpoint's tensors."""

    aggregator: str
    state: dict[str, Tensor]
    """In our names."""
    embed_activation: Activation | None = None
    """Where the other code has but one; None: the user says it."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """A format to read, to write, or both."""

    name: str
    """`format=` of mhim convert."""
    suffixes: tuple[str, ...]
    """Of its files; a format that is read is a state dict in a `.pt` or `.pth`."""
    read: Callable[[Mapping[str, Tensor]], Weights] | None = None
    """A state dict's tensors in our names. Raises InputError listing the tensors that are unknown or missing."""
    recognises: Callable[[Mapping[str, Tensor]], bool] = lambda tensors: False
    """Whether these tensors look like this format's; the first format that recognises them reads them."""
    write: Callable[[PublishedModel], bytes] | None = None
    """A file's bytes. Raises InputError for a model that the format has no names for."""
