"""What another tool's format of feature files is: a file a tool in `tools/`, its name registered by decorator.

A format says what a file states and nothing else; what follows from that for a store is in `importing.py`.
"""

from __future__ import annotations

import csv
import importlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.features import has_places
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.foreign import names
from mhim_core.store.foreign.names import CoordsUnit
from mhim_core.store.schema import FeatureTable
from mhim_core.types import FailureReason, SlideId


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignBag:
    """One slide's features as another tool's file states them. N tiles, D features; None and "": it does not say."""

    features: np.ndarray
    """(N, D), of any type of floats, in the file's order."""
    coords: np.ndarray | None
    """(N, 2): x, y of the tiles' top-left corners."""
    unit: CoordsUnit | None
    """Of the coordinates."""
    encoder: str = ""
    """The encoder's name as the tool has it."""
    tile_px: int | None = None
    """Side of a tile as it was cut, in pixels."""
    overlap_px: int | None = None
    target_mpp: float | None = None
    """µm/px of the tiles as it was asked for."""
    target_magnification: float | None = None
    tile_size_l0_px: int | None = None
    """Side of a tile in level-0 pixels."""
    tile_size_um: float | None = None
    slide_size_l0_px: tuple[int, int] = (0, 0)
    """Width and height; (0, 0): not stated."""
    mpp: float | None = None
    """µm/px of level 0."""
    mpp_y: float | None = None
    """The same down the slide, where it is another; None: `mpp`."""
    tissue_share: np.ndarray | None = None
    """float32 (N,)."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the programs that made the file."""


class ForeignFile(NamedTuple):
    """A file to read."""

    place: str
    """Its path or URI."""
    data: bytes
    read_other: Callable[[str], bytes | None]
    """Another file by its place; None: it is not there."""


class OwnSlide(NamedTuple):
    """A slide of a store, to be written."""

    slide_id: SlideId
    table: FeatureTable
    feature_set: FeatureSet

    @property
    def tile_size_l0_px(self) -> tuple[int, int]:
        """(0, 0): not known."""
        width, height = self.table.metadata["tile_size_l0_px"]
        return int(width), int(height)

    @property
    def mpp(self) -> tuple[float, float]:
        """µm/px of level 0; (0, 0): not known."""
        x, y = self.table.metadata["mpp"]
        return float(x), float(y)

    def required_coords(self, format_name: str) -> np.ndarray:
        """The tiles' places, int32 (N, 2). Raises SlideError where they are not known."""
        if not has_places(self.table.coords_l0_px):
            raise SlideError(
                FailureReason.BAD_FEATURES,
                f"slide {self.slide_id}: its features were imported without coordinates, and format={format_name} "
                "has them",
            )
        return self.table.coords_l0_px


class ExportedSlide(NamedTuple):
    """A slide's row in the tables that are written for the other tool."""

    slide_id: SlideId
    patient_id: str
    label: str | None
    time: float | None
    event: bool | None
    file_name: str
    """Of the slide, such as `s17.svs`."""
    mpp: float
    """µm/px of level 0 at which it was embedded; 0: not known."""


class FeatureFormat:
    """A format to read, to write, or both: a subclass defines what its decorator says it does."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    """What follows a slide's id in the name of its file."""
    folder: ClassVar[str]
    """A pattern of the name of the folder in which the tool puts these files, such as features_*; empty: any."""
    has_companions: ClassVar[bool]
    """Whether a slide's features are read from several files."""
    names_encoder: ClassVar[bool]
    """Whether files, or their folder, can name the encoder."""

    def read(self, file: ForeignFile) -> ForeignBag:
        """What the file states. Raises SlideError(open, bad_features), or anything for a file of another kind."""
        raise NotImplementedError(self.name)

    def write(self, slide: OwnSlide) -> dict[str, bytes]:
        """The slide's files by key, the same bytes for the same features. Raises SlideError if the format needs what is
        not known of the slide."""
        raise NotImplementedError(self.name)

    def tables(self, rows: Sequence[ExportedSlide], feature_set: FeatureSet) -> dict[str, bytes]:
        """The tool's own tables of these slides by key; rows are sorted by slide."""
        return {}


FormatClass = TypeVar("FormatClass", bound=type[FeatureFormat])
_CLASSES: dict[str, type[FeatureFormat]] = {}


def register_feature_format(
    name: str,
    *,
    suffix: str,
    folder: str = "",
    reads: bool = False,
    writes: bool = False,
    has_companions: bool = False,
    names_encoder: bool = True,
) -> Callable[[FormatClass], FormatClass]:
    """A class decorator: `format=<name>` of mhim import and mhim export is this class of `tools/`. All arguments are
    literals.

    `reads`: the class defines `read`; `writes`: it defines `write`; the rest as in `FeatureFormat`.
    """

    def register(kind: FormatClass) -> FormatClass:
        assert names.registered()[name].module == kind.__module__, name
        assert (reads, writes) == tuple(word in vars(kind) for word in ("read", "write")), name
        kind.name, kind.suffix, kind.folder = name, suffix, folder
        kind.has_companions, kind.names_encoder = has_companions, names_encoder
        _CLASSES[name] = kind
        return kind

    return register


assert register_feature_format.__name__ == names.DECORATOR


def feature_format(name: str) -> FeatureFormat:
    """The registered format of that name."""
    importlib.import_module(names.registered()[name].module)
    return _CLASSES[name]()


def exported_name(feature_set: FeatureSet) -> str:
    """The encoder's name as a folder's: an imported one as its tool had it, any other by its id."""
    name = str(feature_set.encoder.get("stated") or feature_set.encoder_id)
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def setting(feature_set: FeatureSet, name: str) -> Any:
    """A setting of the tiling by its name, such as tile_px; None: it is not stated."""
    return next(
        (value for path, value in feature_set.tiling_settings.items() if path.rpartition(".")[2] == name),
        None,
    )


def mpp_cell(mpp: float) -> str:
    """µm/px in a table, without the noise of its last bits; empty: not known."""
    return f"{mpp:.10g}" if mpp else ""


def table_of(rows: Iterable[Sequence[object]]) -> bytes:
    """CSV whose cells are exactly these: a program reads it, which would take an escaped formula for another id."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue().encode()
