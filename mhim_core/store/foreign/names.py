"""The registered formats by name, read from the source of `tools/`: `mhim --help` lists them without NumPy or torch."""

from enum import StrEnum
from functools import cache

from mhim_core.registrations import Registration, registrations
from mhim_core.store.foreign import tools

IMAGE_FORMATS = ("tiles", "webdataset")
"""What mhim export writes of slides instead of features."""
DECORATOR = "register_feature_format"


class CoordsUnit(StrEnum):
    """What coordinates of tiles are counted in."""

    level0_px = "level0_px"
    um = "um"


def formats_to_import() -> tuple[str, ...]:
    """The names of those that can be read; no format is imported."""
    return tuple(name for name, entry in registered().items() if entry.options.get("reads"))


def formats_to_export() -> tuple[str, ...]:
    """The names of those that can be written; no format is imported."""
    return tuple(name for name, entry in registered().items() if entry.options.get("writes"))


def names_encoder(name: str) -> bool:
    """Whether files of the format can name their encoder; no format is imported."""
    return bool(registered()[name].options.get("names_encoder", True))


@cache
def registered() -> dict[str, Registration]:
    """Every registration by its name."""
    return {entry.name: entry for entry in registrations(tools, DECORATOR)}
