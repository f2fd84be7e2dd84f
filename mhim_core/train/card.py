"""A model file's card, read without loading a tensor. Light: no torch."""

from dataclasses import dataclass, field

from mhim_core.errors import IntegrityError
from mhim_core.fingerprint import canonical_json, sha256, to_plain
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.records import parse_json, read_record
from mhim_core.task import FittedTask
from mhim_core.train.fit_options import Precision
from mhim_core.train.plan import Stage

SCHEMA = 1
INTENDED_USE = "Research use only. Not a medical device: not for diagnosis, nor for decisions about patients."


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

    def to_text(self) -> str:
        """For the file's metadata; equal cards give equal text."""
        return canonical_json({"schema": SCHEMA} | to_plain(self)).decode()


def load_card(data: bytes) -> ModelCard:
    """The card of a model file. Raises IntegrityError if it is not one, of another schema, or a newer version's."""
    try:
        raw = parse_json(read_metadata(data)["card"])
        schema = raw.pop("schema")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"not a model file of this project: {type(error).__name__}: {error}") from error
    if schema != SCHEMA:
        raise IntegrityError(f"the model file has another schema than {SCHEMA}")
    return read_record(ModelCard, raw, "the model file's card")


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file held in memory. Raises ValueError or KeyError if it is not one."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = parse_json(data[8 : 8 + length])["__metadata__"]
    return metadata


def weights_digest(data: bytes) -> str:
    """sha256 of a model file's tensors alone: equal for equal weights, whatever its card says of where they come from.

    Raises IntegrityError if it is not a safetensors file.
    """
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        header = parse_json(data[8:end])
        header.pop("__metadata__", None)
    except (ValueError, AttributeError) as error:
        raise IntegrityError(f"not a safetensors file: {error}") from error
    return sha256(canonical_json(header) + data[end:])
