"""The encoder card: everything that makes an encoder's numbers what they are, and where it came from.

The same encoder name does not mean the same vector (one tool's is 2,560-d with the class token appended, another's
1,280-d without), so the card states pooling, transform, weights and precision, and travels with every feature file.
"""

import json
from dataclasses import dataclass
from typing import Any

from mhim_core.errors import EncoderError, IntegrityError
from mhim_core.fingerprint import to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.types import IMPORTED

CPU_BATCH_SIZE = 8
"""Tiles per forward pass on a CPU. Small batches win there: 105 tiles/s at 8 against 27 at 64 (EfficientNet-lite0)."""
CPU_NUM_THREADS = 1
"""Torch threads on a CPU: a feature's bits depend on them, so they never follow the machine. One, and an actor per
core: two threads that wait for each other on shared cores cost a factor of four (4.5 against 20 tiles/s)."""
CUDA_BATCH_SIZE = 128
OPENVINO_BATCH_SIZE = 2
"""Tiles per forward pass of OpenVINO, whose activations then stay in a core's cache: 110 tiles/s at 2, 85 at 8."""
RUNTIME_CPU = "torch"
RUNTIME_CUDA = "torch-cuda"
RUNTIME_OPENVINO = "openvino-cpu"
FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"
_PRECISIONS = {
    RUNTIME_CPU: (FLOAT32, BFLOAT16),
    RUNTIME_CUDA: (FLOAT32, BFLOAT16, FLOAT16),
    RUNTIME_OPENVINO: (FLOAT32, BFLOAT16),
}

_PROVENANCE = ("source", "revision", "licence")


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """One encoder, whole. Serializable, comparable, and enough (with the weights' file) to build the encoder again."""

    id: str
    """The name in the registry, such as `efficientnet-lite0` or `timm/resnet50.a1_in1k`."""
    source: str
    """Where the weights come from, for people. Never a local path."""
    weights_sha256: str
    """sha256 of the weights' file, 64 hex digits; empty for an encoder without weights."""
    revision: str
    """The commit the weights' repository was at; empty where there is none."""
    licence: str
    """The weights' licence as their source states it, or `unknown`."""
    pooling: str
    """How a tile's map becomes one vector: `avg`, `token`, `statistics`, …"""
    network: dict[str, Any]
    """The architecture's name and arguments, or the algorithm's name and version."""
    transform: dict[str, Any]
    """input_px (0: tiles as they come), interpolation, crop, mean and std (of values scaled to 0–1)."""
    precision: str = FLOAT32
    """The arithmetic's type: float32, bfloat16 or, with `torch-cuda`, float16; features are stored as float16 whatever
    it is."""
    runtime: str = RUNTIME_CPU
    """What computes it: `torch` (CPU), `torch-cuda` or `openvino-cpu`; their results differ in the last bits."""
    dim: int
    """The feature's length D."""
    batch_size: int = CPU_BATCH_SIZE
    """Tiles per forward pass, the last one padded: on a CPU a feature's bits depend on it."""
    num_threads: int = CPU_NUM_THREADS
    """Threads during a forward pass, for the same reason; 0: not set (CUDA)."""

    def __post_init__(self) -> None:
        for name in ("dim", "batch_size"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise EncoderError(
                    f"encoder card {self.id!r}: {name} is {getattr(self, name)!r}, not a positive integer"
                )
        if self.runtime not in _PRECISIONS:
            raise EncoderError(f"encoder card {self.id!r}: unknown runtime {self.runtime!r}")
        if self.precision not in (known := _PRECISIONS[self.runtime]):
            raise EncoderError(
                f"encoder card {self.id!r}: unknown precision {self.precision!r} of {self.runtime}, "
                f"known is {' and '.join(known)}"
            )

    def identity(self) -> dict[str, Any]:
        """What goes into fingerprints: every field that changes the numbers, none that is provenance only.

        The weights count by their sha256, so the same file from another place or commit is the same encoder.
        """
        return {name: value for name, value in self.to_dict().items() if name not in _PROVENANCE}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, deep-copied, as a feature file and a run's record hold them: without neutral fields."""
        fields: dict[str, Any] = to_plain(self)
        return fields

    def to_json(self) -> str:
        """One line, sorted keys: the same card gives the same text."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "EncoderCard":
        """The card of `to_dict`. Raises EncoderError if fields are missing or unknown, or if another tool's encoder is
        meant, which is known by name alone."""
        if fields.get("runtime") == IMPORTED:
            raise EncoderError(
                f"the features of {fields.get('id')} were imported from another tool, whose encoder is not here; "
                "that tool alone can make such features, and mhim import brings them into a store"
            )
        try:
            return read_record(cls, fields, "stored encoder card")
        except IntegrityError as error:
            raise EncoderError(str(error)) from error

    @classmethod
    def from_json(cls, text: str) -> "EncoderCard":
        """The card of `to_json`. Raises EncoderError if the text is not a card."""
        try:
            fields = parse_json(text)
        except ValueError as error:
            raise EncoderError(f"stored encoder card is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise EncoderError("stored encoder card is not a JSON object")
        return cls.from_dict(fields)
