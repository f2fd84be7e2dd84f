"""What embedding hands to the store: one slide's features with everything needed to trust them later."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mhim_core.fingerprint import neutral_fields
from mhim_core.types import IMPORTED, SlideId

TILE_CLASS = "tile_class"
"""The column of the class of region that covers a tile, "" for none."""
SHARPNESS, PEN_SHARE, FOLD_SHARE = "sharpness", "pen_share", "fold_share"
"""The columns of a tile's quality."""


class SourceIdentity(NamedTuple):
    """Which bytes a slide was read from: its size and a digest of head, tail and middle blocks; never mtime or path."""

    num_bytes: int
    digest: str


class SourceHint(NamedTuple):
    """A cheap sign that a source is unchanged: place, size, mtime or etag. Equal hints: it is not read again."""

    uri: str
    num_bytes: int
    version: str
    """mtime in nanoseconds of a file, etag of an object."""


class MppUsed(NamedTuple):
    """The level-0 resolution that was used, µm/px along x and y, and who stated it."""

    x: float
    y: float
    source: str
    """override (the cohort table) | slide (the file's own) | default (`default_mpp`) | imported (the table or file that
    the features were imported with; x = y = 0: neither states it)."""


class BackendUsed(NamedTuple):
    """Whose pixels they are: a backend, and its version, which is raised when its pixels change."""

    name: str
    version: int


BACKEND_OF_0_1 = BackendUsed("openslide", 1)
"""The only one of version 0.1."""


@neutral_fields(inside_share=None, class_shares=None, colour="", left_out_share=None, fold_share=None, chosen_from=None)
class SlideView(NamedTuple):
    """What was seen of a slide when its tissue was looked for."""

    tissue_mm2: float = 0.0
    left_out_mm2: float = 0.0
    """Darker than the slide's glass and yet neither tissue nor pen nor black frame."""
    pen_share: float = 0.0
    """Share of the scan under pen."""
    black_share: float = 0.0
    """Share of the scan that is black: frames, unscanned areas."""
    glass_rgb: tuple[int, ...] | None = None
    """The glass's colour, 0 to 255; None where nothing looks like glass."""
    resolution: str = ""
    """What speaks against the resolution used, with its numbers; empty: nothing."""
    inside_share: float | None = None
    """Share of the tissue inside the regions of `roi` and outside those of `exclude`; None: it is not restricted."""
    class_shares: dict[str, float] | None = None
    """Share of the tissue in the regions of each class that is used; None: none are."""
    colour: str = ""
    """What speaks against the colours that were read, or against their transform; empty: nothing."""
    left_out_share: float | None = None
    """Share of the planned tiles that were left out for their quality; None: none are left out for it."""
    fold_share: float | None = None
    """Share of the tissue under folds; None: they were not looked for."""
    chosen_from: int | None = None
    """How many tiles there were of which those with features were chosen; None: all have features."""

    def describe(self) -> str:
        """In words, for people: `3.1 mm² tissue, 12 % pen`."""
        parts = [f"{self.tissue_mm2:.3g} mm² tissue"]
        if self.left_out_mm2 >= 0.05:
            parts.append(f"{self.left_out_mm2:.3g} mm² darker than glass left out")
        parts += [
            f"{share:.0%} {mark}"
            for share, mark in ((self.pen_share, "pen"), (self.black_share, "black"))
            if share >= 0.005
        ]
        if self.inside_share is not None:
            parts.append(f"{self.inside_share:.0%} of it inside the regions")
        parts += [f"{name} {share:.0%}" for name, share in (self.class_shares or {}).items()]
        if self.fold_share is not None:
            parts.append(f"{self.fold_share:.1%} of it folded")
        if self.chosen_from is not None:
            parts.append(f"chosen of {self.chosen_from} tiles")
        if self.left_out_share is not None:
            parts.append(f"{self.left_out_share:.0%} of the tiles left out for their quality")
        if self.glass_rgb is None:
            parts.append("no bright glass")
        if self.resolution:
            parts.append(self.resolution)
        return ", ".join(parts)

    def leaving_out(self, num_left_out: int, num_planned: int) -> "SlideView":
        """With the share of the tiles with enough tissue that are left out for their quality."""
        return self._replace(left_out_share=round(num_left_out / max(1, num_planned), 6))

    def warning(self) -> str:
        """What a person should look at; empty: nothing."""
        return "; ".join(text for text in self._warnings() if text)

    def _warnings(self) -> tuple[str, ...]:
        return self.resolution, self.colour, self._tissue_warning(), self._region_warning(), self._quality_warning()

    def _quality_warning(self) -> str:
        if self.left_out_share is None or self.left_out_share <= MAX_LEFT_OUT_TILES:
            return ""
        return f"{self.left_out_share:.0%} of its tiles are left out for their quality"

    def _region_warning(self) -> str:
        if self.inside_share is None or self.inside_share >= MIN_INSIDE_SHARE:
            return ""
        return (
            f"only {self.inside_share:.2%} of the tissue lies inside the regions; is the annotation of this slide, and "
            "in level-0 pixels?"
        )

    def _tissue_warning(self) -> str:
        dark_mm2 = self.tissue_mm2 + self.left_out_mm2
        if self.left_out_mm2 >= MIN_LEFT_OUT_MM2 and self.left_out_mm2 > MAX_LEFT_OUT_SHARE * dark_mm2:
            return (
                f"{self.left_out_mm2 / dark_mm2:.0%} of what is darker than glass ({self.left_out_mm2:.3g} mm²) is not "
                "taken as tissue; look at it with `mhim check pictures=FOLDER`"
            )
        if self.pen_share > MAX_PEN_SHARE:
            return f"{self.pen_share:.0%} of the slide is taken as pen; if that is stain, set keep_pen=true"
        return ""


MIN_LEFT_OUT_MM2, MAX_LEFT_OUT_SHARE = 0.25, 0.25
"""Of what is darker than glass: beyond both, a slide's tissue is worth a look."""
MAX_PEN_SHARE = 0.1
MIN_INSIDE_SHARE = 0.005
MAX_LEFT_OUT_TILES = 0.25


@dataclass(frozen=True, kw_only=True)
class SlideReading:
    """How a slide was read: what its commit states beside the features. The commit's record has these fields flat."""

    source: SourceIdentity
    """Which bytes the slide was read from."""
    hint: SourceHint
    """How the source looked when its identity was last read: unchanged means that it need not be read again."""
    source_sha256: str
    """sha256 of the whole source, where the cohort table named one and it was checked; empty: it was not read whole."""
    mpp: MppUsed
    effective_mpp: tuple[float, float]
    """µm/px of the encoded tiles along x and y: what `target_mpp` became after rounding the read size."""
    upsample: float
    """How far the finest level had to be enlarged: 1.0 means not at all."""
    backend: BackendUsed | None = field(compare=False, metadata={"neutral": BACKEND_OF_0_1})
    """The backend that decoded the slide; None: not known here, since a manifest does not state it."""
    view: SlideView | None = field(default=None, compare=False, metadata={"neutral": None})
    """What was seen of the slide when its tissue was looked for; None: committed by version 0.1, or a manifest's."""
    fallback: str = field(default="", compare=False, metadata={"neutral": ""})
    """Which levels of the file are broken, and which was read instead; empty: none is."""
    regions: str = field(default="", metadata={"neutral": ""})
    """Digest of the slide's annotation and mask as far as the tiling uses them; empty: it has, or uses, none."""

    @property
    def is_imported(self) -> bool:
        """Whether another tool read the slide: source, hint and sha256 are then of its file of features. Of the
        effective mpp and of `upsample`, 0 means that it does not say."""
        return self.mpp.source == IMPORTED


NO_PLACE_PX = -1
"""x and y of every tile of a slide whose tiles' places are not known, as in files of another tool without them."""


def has_places(coords_l0_px: np.ndarray) -> bool:
    """Whether tiles' places (N, 2) are known."""
    return not (len(coords_l0_px) and bool((coords_l0_px == NO_PLACE_PX).all()))


@dataclass(frozen=True, kw_only=True)
class TileCut:
    """How a slide was cut into tiles: what a feature file states beside the reading."""

    tiling: dict[str, Any]
    """The tiling's identity: tile spec and tissue algorithm, or `imported` with what another tool states of its own."""
    tile_size_l0_px: tuple[int, int]
    """Width and height of a tile at level 0; (0, 0): imported features that do not say."""
    width_l0_px: int
    """Of the slide, at level 0; 0, as the height: imported features that do not say."""
    height_l0_px: int

    @property
    def is_imported(self) -> bool:
        """Whether another tool cut the tiles."""
        return IMPORTED in self.tiling


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideFeatures:
    """The tile features of one slide by one encoder. N tiles, D features, row-major order, N = 0: no tissue."""

    slide_id: SlideId
    features: np.ndarray
    """float16 (N, D)."""
    coords_l0_px: np.ndarray
    """int32 (N, 2): x, y of each tile's top-left corner in level-0 pixels; NO_PLACE_PX in all: not known (imported)."""
    tissue_share: np.ndarray
    """float32 (N,): share of the tile's area that is tissue, 0 to 1; NaN in all: not known (imported)."""
    background_share: np.ndarray
    """float32 (N,): share of the tile where the scanner stored nothing: transparent, or over the slide's edge; NaN in
    all: not known (imported)."""
    reading: SlideReading
    cut: TileCut
    encoder: dict[str, Any]
    """The encoder's card, whole."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of what computed it: mhim, openslide, torch, …"""
    num_bad_tiles: int = 0
    """Planned tiles that could not be read and are therefore missing here."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """What was asked for beside: by name of `store.schema.OPTIONAL_COLUMNS`, (N,)."""
