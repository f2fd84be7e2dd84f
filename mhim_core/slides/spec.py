"""What a tile is (identity) and which slides are let in (policy). Standard library only: the command line reads this.

`TileSpec` and the tissue rule change features and are fingerprinted by `tiling_identity`; `SlidePolicy` and the limits
only admit or refuse a slide, so relaxing them later never invalidates what is already embedded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mhim_core.errors import ConfigError, InputError, IntegrityError
from mhim_core.fingerprint import to_plain
from mhim_core.records import read_record
from mhim_core.slides.registry import BACKEND_NAMES, BACKEND_VERSIONS, PIXELS_OF
from mhim_core.types import IMPORTED

MIN_MPP, MAX_MPP = 0.05, 20.0
"""µm/px: what a light microscope's level 0 can plausibly be (100× oil is about 0.06, a macro scan 20)."""
MAX_MPP_ANISOTROPY = 0.02
"""How far x and y may differ before the file's resolution is not believed."""

MIN_TILE_PX, MAX_TILE_PX = 16, 4096
MAX_SIDE_PX = 1_000_000
"""Level-0 width or height: the largest real scans are below 500,000."""
MAX_AREA_PX = 200_000_000_000
"""Level-0 pixels: a whole 75 × 25 mm glass at 0.1 µm/px has 187,500,000,000."""
MAX_FILE_TILE_PX = 8192
"""Side of a tile as stored in the file: a decoder holds it whole (4 bytes a pixel, 268 MB at this limit)."""
MAX_FILE_TILES = 4_000_000
"""Tiles stored at one level of the file."""
MAX_GRID_CELLS = 4_000_000
"""Places a tile could be, before tissue is looked at."""
MAX_TILES = 2_000_000
"""Tiles kept of one slide."""
MAX_READ_PX = 67_108_864
"""Pixels decoded for one tile (8192 × 8192): more means that the file lacks a level near the wanted resolution."""
READ_BYTES_PER_PX = 14
"""Memory of a decoder while it reads a tile, per pixel read (measured): 0.9 GB at MAX_READ_PX."""
MAX_PLAIN_PX = 150_000_000
"""Pixels of a picture that has no tiles and is therefore read whole: 450 MB in memory."""
MAX_THUMBNAIL_PX = 100_000_000
"""Pixels of the picture tissue is found on: at 8 µm/px three whole glasses."""

LEVEL_TOLERANCE = 1.01
"""A level up to 1 % coarser than wanted is taken as it is: pyramids round their sizes (3.997 for 4, 4.001 for 4)."""


class TissueMethod(StrEnum):
    """How tissue is distinguished from glass."""

    auto = "auto"
    glass = "glass"
    otsu = "otsu"
    mask = "mask"
    file = "file"


class ColourMethod(StrEnum):
    """What is done to the colours of tiles before they are encoded."""

    none = "none"
    reinhard = "reinhard"
    macenko = "macenko"


AUTO = "auto"
DIRECT, OPENSLIDE, PLAIN = "direct", "openslide", "plain"
FASTSLIDE, TIFFFILE, ZARR = "fastslide", "tifffile", "zarr"
"""The backends among which auto chooses by the file."""


@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """The tiles to cut: part of a feature file's identity."""

    target_mpp: float = 0.5
    """Resolution of the encoded tiles in µm/px (0.5 is about 20×, 1.0 about 10×)."""
    tile_px: int = 256
    """Side of the square tile in pixels at `target_mpp`."""
    overlap_px: int = 0
    """Overlap of neighbouring tiles in pixels at `target_mpp`; 0 for none."""
    min_tissue: float = 0.25
    """Minimum share of a tile's area that must be tissue, 0 to 1; 0 keeps every tile, background included."""
    tissue: TissueMethod = field(default=TissueMethod.auto, metadata={"neutral": TissueMethod.otsu})
    """glass: tissue is what differs from the slide's own glass; otsu: saturation above 0.05, as in mhim 0.1, which
    misses pale tissue; auto: glass, except in a store that has features with the same keys made only with otsu, which
    is then continued with otsu; mask: each slide's own picture of its tissue, from masks= or the column mask; file:
    what your own tissue_file= finds."""
    tissue_sha256: str = field(default="", metadata={"neutral": "", "is_key": False})
    """Of the file of tissue=file."""
    keep_fat: bool = field(default=True, metadata={"neutral": True})
    """Count fat as tissue; false leaves it out. Only with tissue=glass."""
    keep_pen: bool = field(default=False, metadata={"neutral": False})
    """Count blue, green and red marks as tissue, for special stains of these colours; false leaves them out as pen.
    Only with tissue=glass."""
    backend: str = field(default=AUTO, metadata={"neutral": AUTO, "choices": (AUTO, *BACKEND_NAMES)})
    """Decoder of the slides. auto: direct for TIFFs of JPEG tiles, plain for what openslide cannot read (PNG, JPEG,
    untiled TIFF, planes of OME-TIFF), tifffile for TIFFs that neither can, zarr for OME-Zarr, fastslide for CZI,
    iSyntax and VSI, else openslide; openslide: the reference; direct: the same pixels, several times faster, of JPEG
    tiles alone; plain: all files, each read whole into memory; tifffile: TIFFs, with the pyramids of
    OME-TIFF's SubIFDs."""
    roi: tuple[str, ...] = field(default=(), metadata={"neutral": ()})
    """Classes of annotated regions to take tiles from, separated by commas, such as Tumor; empty: from everywhere.
    Regions without a class are called unclassified. Needs annotations=."""
    exclude: tuple[str, ...] = field(default=(), metadata={"neutral": ()})
    """Classes of annotated regions to take no tiles from, separated by commas, such as Artefact; empty: none. Needs
    annotations=."""
    min_roi: float = field(default=0.5, metadata={"neutral": 0.5})
    """Minimum share of a tile's area that must lie inside roi and outside exclude, above 0, at most 1; unused without
    either."""
    tile_classes: bool = field(default=False, metadata={"neutral": False})
    """Write into the features, as column tile_class, the class of the region that covers half of each tile or more; of
    several the one with the smallest area on the slide. Needs annotations=."""

    quality: bool = field(default=False, metadata={"neutral": False})
    """Write into the features how sharp each tile is (column sharpness) and how much of it lies under pen
    (pen_share)."""
    min_sharpness: float = field(default=0.0, metadata={"neutral": 0.0})
    """Leave out tiles whose sharpness, the variance of their Laplacian, is lower; 0: none. It depends on target_mpp and
    stain: look at the column of a few slides first."""
    max_pen: float = field(default=1.0, metadata={"neutral": 1.0})
    """Leave out tiles of which a larger share lies under pen, 0 to 1; 1: none. Where tissue is found by glass, pen is
    no tissue in any case."""
    tissue_folds: bool = field(default=False, metadata={"neutral": False})
    """Write into the features how much of each tile lies under folds of the tissue (column fold_share)."""
    max_fold: float = field(default=1.0, metadata={"neutral": 1.0})
    """Leave out tiles of which a larger share lies under folds, 0 to 1; 1: none."""
    colour: ColourMethod = field(default=ColourMethod.none, metadata={"neutral": ColourMethod.none})
    """Transform the colours of tiles to those of a fixed reference, by statistics of the whole slide: macenko
    (haematoxylin and eosin, separated) or reinhard (mean and spread); none: as they are. For H&E alone."""
    placed: bool = field(default=False, metadata={"neutral": False, "is_key": False})
    """The tiles are those that the files of coordinates= name, and no grid's."""
    select_share: float = field(default=1.0, metadata={"neutral": 1.0})
    """With select_by= or select_run=: the share of each slide's tiles that is embedded, above 0, below 1; 1: all."""
    select_rule: str = field(default="", metadata={"neutral": "", "is_key": False})
    """How they are chosen: `spread` or `attention`; empty: all are taken."""
    select_features: str = field(default="", metadata={"neutral": "", "is_key": False})
    """Fingerprint of the feature set by which they are chosen."""
    select_models: str = field(default="", metadata={"neutral": "", "is_key": False})
    """Digest of the models that score them; empty: none do."""

    def __post_init__(self) -> None:
        if self.backend not in (AUTO, *BACKEND_NAMES):
            raise ConfigError(f"backend is {self.backend!r}; set {AUTO} or one of {', '.join(BACKEND_NAMES)}")
        is_glass = self.tissue in (TissueMethod.auto, TissueMethod.glass)
        if not is_glass and (self.keep_pen or not self.keep_fat):
            raise ConfigError(
                f"tissue={self.tissue.value} knows neither fat nor pen; leave keep_fat and keep_pen, or set "
                "tissue=glass"
            )
        if self.tissue_sha256 and self.tissue is not TissueMethod.file:
            raise ConfigError(f"tissue={self.tissue.value} is no file's; tissue_sha256 is for tissue=file")
        self._check_regions()
        if not (math.isfinite(self.min_sharpness) and self.min_sharpness >= 0):
            raise ConfigError(f"min_sharpness is {self.min_sharpness}; set a number of at least 0")
        for name in ("max_pen", "max_fold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; set a share between 0 and 1")
        if not 0 < self.select_share <= 1:
            raise ConfigError(f"select_share is {self.select_share}; set a share above 0, at most 1")
        if self.placed:
            self._check_placed()
        if not (math.isfinite(self.target_mpp) and MIN_MPP <= self.target_mpp <= MAX_MPP):
            raise ConfigError(f"target_mpp is {self.target_mpp}; set it between {MIN_MPP} and {MAX_MPP} µm/px")
        if not MIN_TILE_PX <= self.tile_px <= MAX_TILE_PX:
            raise ConfigError(f"tile_px is {self.tile_px}; set it between {MIN_TILE_PX} and {MAX_TILE_PX} pixels")
        if not 0 <= self.overlap_px < self.tile_px:
            raise ConfigError(f"overlap_px is {self.overlap_px}; set it from 0 to below tile_px ({self.tile_px})")
        if not 0 <= self.min_tissue <= 1:
            raise ConfigError(f"min_tissue is {self.min_tissue}; set a share between 0 and 1")

    def _check_regions(self) -> None:
        for name in ("roi", "exclude"):  # in whatever order and spacing they are named, they are the same classes
            classes = {text.strip() for text in getattr(self, name)} - {""}
            object.__setattr__(self, name, tuple(sorted(classes)))
        if both := {*self.roi} & {*self.exclude}:
            raise ConfigError(f"{', '.join(sorted(both))}: a class is either in roi or in exclude")
        if not 0 < self.min_roi <= 1:
            raise ConfigError(f"min_roi is {self.min_roi}; set a share above 0, at most 1")
        if self.min_roi != 0.5 and not (self.roi or self.exclude):
            raise ConfigError(f"min_roi={self.min_roi:g} needs roi or exclude")

    def _check_placed(self) -> None:
        """The tiles are the files', all of them."""
        neutral = {"overlap_px": 0, "min_tissue": 0.0, "roi": (), "exclude": (), "min_sharpness": 0.0, "max_pen": 1.0}
        neutral |= {"max_fold": 1.0, "select_share": 1.0}
        if set_otherwise := [name for name, value in neutral.items() if getattr(self, name) != value]:
            raise ConfigError(
                f"coordinates= says which tiles there are, and {', '.join(set_otherwise)} would say it too; give the "
                "one or the other"
            )

    @property
    def judges_folds(self) -> bool:
        """Whether folds are looked for."""
        return self.tissue_folds or self.max_fold < 1

    @property
    def leaves_out_tiles(self) -> bool:
        """Whether tiles with enough tissue are left out for what they show."""
        return self.min_sharpness > 0 or self.max_pen < 1 or self.max_fold < 1

    @property
    def selects(self) -> bool:
        """Whether some tiles of the grid are embedded, chosen by other features of theirs."""
        return bool(self.select_rule)

    @property
    def judges_quality(self) -> bool:
        """Whether tiles are left out, or described, by their quality."""
        return self.quality or self.min_sharpness > 0 or self.max_pen < 1

    @property
    def uses_annotations(self) -> bool:
        """Whether tiles depend on the regions that are annotated on a slide."""
        return bool(self.roi or self.exclude or self.tile_classes)

    @property
    def needs_files(self) -> bool:
        """Whether a slide needs an annotation, a mask or coordinates beside it."""
        return self.uses_annotations or self.tissue is TissueMethod.mask or self.placed


@dataclass(frozen=True, kw_only=True)
class SlidePolicy:
    """Which slides are let in: never part of an identity."""

    max_upsample: float = 1.1
    """How far level 0 may be enlarged to reach `target_mpp` before the slide is refused; 1.0 allows no enlargement."""
    default_mpp: float | None = None
    """Resolution in µm/px of slides that state none and have none in the cohort table; none: such slides fail."""
    max_mpp_factor: float = field(default=4.0, metadata={"neutral": 4.0})  # what was let in before stays in
    """Factor by which the mpp in the cohort table may differ from that in the file before the slide is refused, and the
    file's from what its objective's power gives (10 µm/px / power; without a power, how much finer than 40× it may be);
    smaller differences give a warning. 0: trust the table, or else the file, in any case."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_upsample) and self.max_upsample >= 1):
            raise ConfigError(f"max_upsample is {self.max_upsample}; set a finite number of at least 1.0")
        if self.default_mpp is not None and not MIN_MPP <= self.default_mpp <= MAX_MPP:
            raise ConfigError(f"default_mpp is {self.default_mpp}; set {MIN_MPP} to {MAX_MPP} µm/px, or null for none")
        if self.max_mpp_factor and not self.max_mpp_factor >= 1:
            raise ConfigError(f"max_mpp_factor is {self.max_mpp_factor}; set at least 1.0, or 0 for no limit")


@dataclass(frozen=True, kw_only=True)
class TissueRule:
    """The tissue finder and its constants: every one of them changes which tiles exist, so they are identity."""

    name: str = "saturation-otsu"
    version: int = 1
    mask_mpp: float = 8.0
    """µm/px of the mask: 16 mask pixels along a tile of 128 µm."""
    min_saturation: float = 0.05
    """Floor of Otsu's threshold on HSV saturation: below it lie tinted glass and JPEG noise."""
    max_saturation: float = 0.08
    """Its ceiling: on a slide full of tissue Otsu would split strong stain from weak."""
    min_value: float = 0.2
    """HSV value below which a pixel is black: an unscanned area, a frame, a fluorescence background."""
    min_background_value: float = 0.6
    """Median HSV value that what is not tissue must reach: bright-field glass is bright."""
    min_contrast: float = 0.05
    """Least difference of mean saturation between tissue and the rest."""
    max_speck_um2: float = 6_000.0
    """Tissue islands up to this area are dust."""
    max_hole_um2: float = 20_000.0
    """Holes up to this area are lumens and cracks, part of the tissue."""


@dataclass(frozen=True, kw_only=True)
class GlassRule:
    """The tissue finder that stands relative to the slide's own glass; its constants are identity.

    Saturation and optical density are those of pixels divided by the glass's colour, so that glass is 0 in both.
    """

    name: str = "glass"
    version: int = 1
    """Raised by any change of `glass.py` or `tissue_glass.py` that moves a mask, constants there included."""
    mask_mpp: float = 8.0
    """µm/px of the mask: 16 mask pixels along a tile of 128 µm."""
    glass_spread: float = 1.25
    """Saturation below this many times the 99th percentile of the glass's own is glass."""
    min_saturation: float = 0.03
    """Saturation that is tissue by itself. Stray light around tissue reaches 0.02."""
    faint_saturation: float = 0.012
    """Saturation that is tissue where the pixel is also darker than glass: grey dust and shadows stay below it."""
    max_glass_saturation: float = 0.06
    """Ceiling of what the glass's own spread makes of the two."""
    min_density: float = 0.018
    """Optical density (mean of the channels) above which a pixel is darker than glass. Stray light stays below."""
    min_value: float = 0.2
    """HSV value below which a pixel is black: an unscanned area, a frame, a fluorescence background."""
    min_background_value: float = 0.6
    """HSV value that glass reaches: bright-field glass is bright."""
    max_speck_um2: float = 6_000.0
    """Tissue islands up to this area are dust."""
    max_hole_um2: float = 20_000.0
    """Holes up to this area are lumens and cracks, part of the tissue."""
    pen_version: int = 1
    """Of `pen.py`."""
    fat_version: int = 1
    """Of `fat.py`."""


TISSUE_RULE = TissueRule()
GLASS_RULE = GlassRule()
MASK_RULE = {"name": "mask", "version": 1, "mask_mpp": GLASS_RULE.mask_mpp}
"""Of slides that bring a mask. The version is raised by any change of `tissue_mask.py` that moves one."""
QUALITY_RULE = {"version": 1}
"""Raised by any change of `quality.py` or of `pen.py` that moves a number."""
FOLD_RULE = {"version": 1}
"""Raised by any change of `folds.py` that moves a mask."""
PLACES_RULE = {"version": 1}
"""Raised by any change of `grid.py` that moves or resizes a tile of coordinates that files name."""
SELECTION_RULE = {"version": 1}
"""Raised by any change of `store/selection.py` that chooses other tiles."""
FILE_RULE = {"name": "file", "version": 1, "mask_mpp": GLASS_RULE.mask_mpp}
"""Of a user's own tissue finder, which the identity names by its sha256."""
REGIONS_RULE = {"version": 1}
"""Raised by any change of `regions.py` or `raster.py` that moves a tile or its class."""

COLOUR_RULES = {
    ColourMethod.macenko: {"name": "macenko", "version": 1, "reference": "macenko-2009"},
    ColourMethod.reinhard: {"name": "reinhard", "version": 1, "reference": "amgad-2019"},
}
"""The version is raised by any change of `colour.py` or of what is sampled that moves a pixel."""

RULE_NAMES = {
    TissueMethod.glass: GLASS_RULE.name,
    TissueMethod.otsu: TISSUE_RULE.name,
    TissueMethod.mask: str(MASK_RULE["name"]),
    TissueMethod.file: str(FILE_RULE["name"]),
}
"""What a tiling's identity calls them."""


def tiling_identity(spec: TileSpec) -> dict[str, Any]:
    """Everything that decides which tiles exist and what their pixels are, as plain JSON types, for fingerprints.

    tissue=otsu with backend=auto gives the identity that version 0.1 recorded; tissue=auto stands for glass.
    backend=openslide makes the same tiles as auto, of fewer files, and is not told apart from it.
    """
    identity: dict[str, Any] = {
        **{name: value for name, value in to_plain(spec).items() if name not in _OF_RULES},
        "tissue": _tissue_identity(spec),
        "grid": {"version": 1, "level_tolerance": LEVEL_TOLERANCE},
        "pixels": {"version": 1, "resample": "lanczos", "background": "white"},
    }
    if backend := _backend_identity(spec.backend):
        identity["backend"] = backend
    if spec.colour is not ColourMethod.none:
        identity["colour"] = dict(COLOUR_RULES[spec.colour])
    if spec.judges_quality:
        identity["quality_rule"] = dict(QUALITY_RULE)
    if spec.judges_folds:
        identity["fold_rule"] = dict(FOLD_RULE)
    if spec.uses_annotations:
        identity["regions"] = dict(REGIONS_RULE)
    if spec.placed:
        identity["places_rule"] = dict(PLACES_RULE)
    if spec.selects:
        identity["selection_rule"] = dict(SELECTION_RULE)
    return identity


_AUTO_READERS = (OPENSLIDE, PLAIN, FASTSLIDE, TIFFFILE, ZARR)
"""Those whose pixels auto gives: the last three of files that failed before there was such a reader."""
_OF_RULES = ("tissue", "tissue_sha256", "keep_fat", "keep_pen", "backend", "colour")
"""Options that the identity states by their rule."""
_RULES = (
    *("tissue", "grid", "pixels", "backend", "regions", "colour"),
    *("quality_rule", "fold_rule", "places_rule", "selection_rule"),
)
"""The parts of a tiling's identity that are this version's own, not the spec's."""


def stored_spec(tiling: Mapping[str, Any], what: str) -> TileSpec:
    """The tile spec of a stored `tiling_identity`; `what` is named in errors.

    Raises InputError if this version cuts tiles otherwise or another tool cut them, IntegrityError if a newer one wrote
    options that are unknown here.
    """
    if IMPORTED in tiling:
        raise InputError(
            f"{what} were cut by another tool, whose features were imported; what reads slides again needs features "
            "that mhim embedded"
        )
    values = {key: item for key, item in tiling.items() if key not in _RULES}
    spec = read_record(TileSpec, values | _rule_options(tiling, what), what)
    current = tiling_identity(spec)
    if differing := [key for key in _RULES if tiling.get(key) != current.get(key)]:
        raise InputError(
            f"{what} were tiled by another version of the {' and the '.join(differing)} rule; use that version of mhim"
        )
    return spec


def _tissue_identity(spec: TileSpec) -> dict[str, Any]:
    if spec.tissue is TissueMethod.otsu:
        return dict(to_plain(TISSUE_RULE))
    if spec.tissue is TissueMethod.mask:
        return dict(MASK_RULE)
    if spec.tissue is TissueMethod.file:
        return FILE_RULE | {"sha256": spec.tissue_sha256}
    return to_plain(GLASS_RULE) | {"keep_fat": spec.keep_fat, "keep_pen": spec.keep_pen}


def _backend_identity(name: str) -> dict[str, Any]:
    """Empty for what version 0.1 did: auto, or openslide, whose backends' pixels never changed."""
    name = PIXELS_OF.get(name, name)
    if name not in (AUTO, OPENSLIDE):
        return {"name": name, "version": BACKEND_VERSIONS[name]}
    changed = {reader: BACKEND_VERSIONS[reader] for reader in _AUTO_READERS if BACKEND_VERSIONS[reader] > 1}
    return {"name": AUTO, "versions": changed} if changed else {}


def _rule_options(tiling: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What the identity's rules say of the spec's options."""
    try:
        rule, backend = tiling["tissue"], tiling.get("backend", {"name": AUTO})
        if rule["name"] == GLASS_RULE.name:
            options = {"tissue": TissueMethod.glass.value, "keep_fat": rule["keep_fat"], "keep_pen": rule["keep_pen"]}
        elif rule["name"] == FILE_RULE["name"]:
            options = {"tissue": TissueMethod.file.value, "tissue_sha256": rule["sha256"]}
        elif rule["name"] == MASK_RULE["name"]:
            options = {"tissue": TissueMethod.mask.value}
        else:
            options = {"tissue": TissueMethod.otsu.value}
        colour = tiling.get("colour", {"name": ColourMethod.none.value})
        return options | {"backend": backend["name"], "colour": colour["name"]}
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{what}: not the identity of a tiling: {error!r}") from error
