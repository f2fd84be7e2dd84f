"""What a checkpoint format is, and the registered ones: checkpoints of other code, a file each in `formats/`.

Names are read from the source (`mhim_core.registrations`), so `mhim --help` knows them without importing a format.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

from mhim_core.mil import formats
from mhim_core.registrations import Registration, registrations

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mhim_core.mil.model_options import Activation, ModelOptions

DEFAULT_FORMAT = "mhim-mil"


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


class CheckpointFormat:
    """A format to read, to write, or both: a subclass defines what its decorator says it does."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these tensors look like this format's; the first format that recognises them reads them."""
        return False

    def read(self, tensors: Mapping[str, Tensor]) -> Weights:
        """A state dict's tensors in our names. Raises InputError listing the tensors that are unknown or missing."""
        raise NotImplementedError(self.name)

    def write(self, model: PublishedModel) -> bytes:
        """A file's bytes, equal for equal models. Raises InputError for a model that the format has no names for."""
        raise NotImplementedError(self.name)


FormatClass = TypeVar("FormatClass", bound=type[CheckpointFormat])
_CLASSES: dict[str, type[CheckpointFormat]] = {}


def register_format(
    name: str, *, suffixes: tuple[str, ...], reads: bool = False, writes: bool = False
) -> Callable[[FormatClass], FormatClass]:
    """A class decorator: `format=<name>` of mhim convert is this class of `formats/`. All arguments are literals.

    `suffixes`: of its files; one that is read is a state dict in a `.pt` or `.pth`. `reads`: the class defines
    `recognises` and `read`; `writes`: it defines `write`.
    """

    def register(kind: FormatClass) -> FormatClass:
        assert _registered()[name].module == kind.__module__, name
        assert (reads, reads, writes) == tuple(word in vars(kind) for word in ("recognises", "read", "write")), name
        kind.name, kind.suffixes = name, suffixes
        _CLASSES[name] = kind
        return kind

    return register


def checkpoint_format(name: str) -> CheckpointFormat:
    """The registered format of that name."""
    importlib.import_module(_registered()[name].module)
    return _CLASSES[name]()


def formats_to_read() -> tuple[CheckpointFormat, ...]:
    """Those that can read, by file name."""
    return tuple(checkpoint_format(name) for name, entry in _registered().items() if entry.options.get("reads"))


def formats_to_write() -> dict[str, tuple[str, ...]]:
    """The suffixes of those that can write, by name; no format is imported."""
    return {name: entry.options["suffixes"] for name, entry in _registered().items() if entry.options.get("writes")}


@cache
def _registered() -> dict[str, Registration]:
    return {entry.name: entry for entry in registrations(formats, register_format.__name__)}
