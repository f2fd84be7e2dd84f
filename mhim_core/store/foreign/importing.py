"""What another tool's features become in a store: what the tool states is kept, what it leaves open stays open.

The set's encoder is a card of runtime `imported` with the tool and the encoder's name in it, its tiling what the files
state of theirs, so nothing looks as if it had been computed here, and no command recomputes it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mhim_core.errors import MhimError, SlideError
from mhim_core.features import NO_PLACE_PX, MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.fingerprint import fingerprint, sha256
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.foreign.feature_format import FeatureFormat, ForeignBag, ForeignFile
from mhim_core.store.foreign.names import CoordsUnit
from mhim_core.store.schema import MAX_ROWS, all_finite
from mhim_core.types import IMPORTED, FailureReason, SlideId

_MAX_PX = 2**31 - 1
_SAME_MPP_RTOL = 0.01
"""Within it a table's µm/px is the file's own, rounded."""
_ROWS_AT_ONCE = 8192
"""Converted at a time, so that a large bag is not held in a third form."""


@dataclass(frozen=True, kw_only=True)
class StatedByUser:
    """What the user says of all files where they do not say it themselves."""

    encoder: str = ""
    coords_unit: CoordsUnit | None = None
    tile_size_l0_px: int | None = None
    default_mpp: float | None = None
    """µm/px of level 0 where neither the file nor the cohort table states it."""


class ImportedSlide(NamedTuple):
    """A slide's features for a store."""

    feature_set: FeatureSet
    features: SlideFeatures
    dtype: str
    """Of the file."""
    max_rounding: float
    """The largest difference between a feature and its float16."""
    has_places: bool
    """Whether its tiles have coordinates."""


class FileMatch(NamedTuple):
    """Which file is which slide's. Keys are of the tool's folder."""

    file_of: dict[SlideId, str]
    repeated: dict[SlideId, list[str]]
    """Slides with several files."""
    strangers: list[str]
    """Files that are no slide's."""


def match_files(names: Mapping[str, Iterable[str]], slide_ids: Iterable[SlideId]) -> FileMatch:
    """Ids are compared as a whole. `names`: by a file's key the ids that its name may be, the likeliest first."""
    known = set(slide_ids)
    files: dict[SlideId, list[str]] = defaultdict(list)
    strangers = []
    for key, ids in sorted(names.items()):
        slide_id = next((SlideId(candidate) for candidate in ids if candidate in known), None)
        if slide_id is None:
            strangers.append(key)
        else:
            files[slide_id].append(key)
    repeated = {slide_id: keys for slide_id, keys in files.items() if len(keys) > 1}
    return FileMatch({slide_id: keys[0] for slide_id, keys in files.items() if len(keys) == 1}, repeated, strangers)


def read_slide(
    kind: FeatureFormat,
    file: ForeignFile,
    slide_id: SlideId,
    stated: StatedByUser,
    *,
    table_mpp: float | None,
    hint: SourceHint,
    read: Callable[[ForeignFile], ForeignBag] | None = None,
) -> ImportedSlide:
    """The slide's features for a store. `table_mpp`: µm/px of level 0 in the cohort table, which wins, but for files
    whose µm were made by another that they state; None: none.
    `read`: reads the file in the place of `kind.read`; None: that does.

    Raises SlideError: OPEN (no file of that format), BAD_FEATURES (what cannot be stored as it is, or contradicts what
    the user states), NO_MPP (coordinates in µm without the µm/px of level 0).
    """
    others: dict[str, str] = {}

    def read_other(place: str) -> bytes | None:
        data = file.read_other(place)
        if data is not None:
            others[place.rpartition("/")[2]] = sha256(data)
        return data

    bag = read_bag(kind, read or kind.read, file._replace(read_other=read_other), slide_id)
    digest = sha256(file.data)
    # what the user states decides what the features become, as the files do
    source = SourceIdentity(len(file.data), fingerprint({"file": digest, "others": others, "stated": stated}))
    mpp = _mpp_used(bag, slide_id, stated, table_mpp)
    feature_set = _feature_set(kind, bag, slide_id, stated)
    coords = _coords(bag, slide_id, stated, mpp)
    size_l0 = _tile_size_l0_px(bag, slide_id, stated, bag.mpp or mpp.x)
    half = _half(bag.features, slide_id)
    num = len(bag.features)
    unknown = np.full(num, np.nan, np.float32)
    scale = size_l0 / bag.tile_px if size_l0 and bag.tile_px else 0.0
    width, height = bag.slide_size_l0_px
    features = SlideFeatures(
        slide_id=slide_id,
        features=half.values,
        coords_l0_px=coords,
        tissue_share=unknown if bag.tissue_share is None else bag.tissue_share,
        background_share=unknown,
        reading=SlideReading(
            source=source,
            hint=hint,
            source_sha256=digest,
            mpp=mpp,
            effective_mpp=(scale * mpp.x, scale * mpp.y),
            upsample=0.0,
            backend=None,
        ),
        cut=TileCut(
            tiling=feature_set.tiling, tile_size_l0_px=(size_l0, size_l0), width_l0_px=width, height_l0_px=height
        ),
        encoder=feature_set.encoder,
        versions=dict(bag.versions),
    )
    return ImportedSlide(feature_set, features, str(bag.features.dtype), half.max_rounding, bag.coords is not None)


def missing_keys(bag: ForeignBag, stated: StatedByUser, *, has_mpp: bool) -> dict[str, str]:
    """The keys without which no file like this can be imported, with what each says. `has_mpp`: a table states it."""
    missing = {}
    if not (bag.encoder or stated.encoder):
        missing["encoder"] = "the name of the encoder"
    if bag.coords is None:
        return missing
    unit = bag.unit or stated.coords_unit
    if unit is None:
        missing["coords_unit"] = "level0_px or um, what coordinates are counted in"
    if unit is not CoordsUnit.level0_px and not (has_mpp or bag.mpp or stated.default_mpp):
        only = "" if unit else "for um "
        missing["default_mpp"] = f"{only}the µm/px of level 0, or a column mpp in the cohort table"
    return missing


def imported_set(tiling: Mapping[str, Any], encoder: Mapping[str, Any]) -> FeatureSet:
    """The set of imported features with this tiling and card."""
    identity = {key: encoder[key] for key in ("id", "dim", "runtime", "tool", "stated")}
    return FeatureSet(tiling=dict(tiling), encoder=dict(encoder), encoder_identity=identity)


def is_imported_by(feature_set: FeatureSet, format_name: str) -> bool:
    """Whether the set was imported from files of this format."""
    return bool(feature_set.tiling.get(IMPORTED, {}).get("format") == format_name)


def read_bag(
    kind: FeatureFormat, read: Callable[[ForeignFile], ForeignBag], file: ForeignFile, slide_id: SlideId
) -> ForeignBag:
    """What the file states, with arrays that fit together. Raises SlideError as `read_slide`."""
    try:
        bag = read(file)
    except SlideError as error:
        raise type(error)(error.reason, f"slide {slide_id}: {file.place}: {error.message}") from error
    except (MemoryError, MhimError):
        raise
    except Exception as error:  # a foreign file may break the reader in any way
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise SlideError(
            FailureReason.OPEN, f"slide {slide_id}: {file.place} cannot be read as format={kind.name}: {reason}"
        ) from error
    _check_arrays(bag, slide_id)
    return bag


def _check_arrays(bag: ForeignBag, slide_id: SlideId) -> None:
    features, coords, share = bag.features, bag.coords, bag.tissue_share
    if features.ndim != 2 or features.dtype.kind != "f" or features.shape[1] < 1 or len(features) > MAX_ROWS:
        raise _bad(slide_id, f"its features are {features.dtype} of shape {features.shape}, not floats of N × D")
    if coords is not None and (coords.shape != (len(features), 2) or coords.dtype.kind not in "iuf"):
        raise _bad(slide_id, f"its coordinates are {coords.dtype} of shape {coords.shape}, not of {len(features)} × 2")
    if share is not None and share.shape != (len(features),):
        raise _bad(slide_id, f"its shares of tissue have the shape {share.shape}, not one of {len(features)} tiles")


def _feature_set(kind: FeatureFormat, bag: ForeignBag, slide_id: SlideId, stated: StatedByUser) -> FeatureSet:
    if bag.encoder and stated.encoder and bag.encoder != stated.encoder:
        raise _bad(slide_id, f"it states the encoder {bag.encoder}, and encoder= says {stated.encoder}")
    name = bag.encoder or stated.encoder
    if not name:
        raise _bad(slide_id, "it does not state its encoder; name it with encoder=")
    encoder: dict[str, Any] = {
        "id": f"{kind.name}/{name}",
        "dim": int(bag.features.shape[1]),
        "runtime": IMPORTED,
        "tool": kind.name,
        "stated": name,
        "dtype": str(bag.features.dtype),
        "source": f"imported from files of {kind.name}",
        "licence": "unknown",
    }
    unit = _unit(bag, slide_id, stated)
    tiling: dict[str, Any] = {IMPORTED: {"format": kind.name, "coords": "none" if unit is None else unit.value}}
    for setting in ("tile_px", "overlap_px", "target_mpp", "target_magnification"):
        if getattr(bag, setting) is not None:
            tiling[setting] = getattr(bag, setting)
    return imported_set(tiling, encoder)


def _unit(bag: ForeignBag, slide_id: SlideId, stated: StatedByUser) -> CoordsUnit | None:
    """None: the file has no coordinates."""
    if bag.coords is None:
        return None
    if bag.unit is not None and stated.coords_unit not in (None, bag.unit):
        raise _bad(slide_id, f"its coordinates are in {bag.unit}, and coords_unit= says {stated.coords_unit}")
    unit = bag.unit or stated.coords_unit
    if unit is None:
        raise _bad(slide_id, "it does not state the unit of its coordinates; coords_unit= says level0_px or um")
    return unit


def _mpp_used(bag: ForeignBag, slide_id: SlideId, stated: StatedByUser, table_mpp: float | None) -> MppUsed:
    """µm/px of level 0; 0: not known. Raises SlideError where µm were made by another one than the table's."""
    if (
        bag.unit is CoordsUnit.um
        and bag.mpp
        and table_mpp
        and not math.isclose(bag.mpp, table_mpp, rel_tol=_SAME_MPP_RTOL)
    ):
        raise _bad(slide_id, f"its coordinates became µm at {bag.mpp:.6g} µm/px, and the table says {table_mpp:.6g}")
    if table_mpp:
        return MppUsed(table_mpp, table_mpp, IMPORTED)
    mpp = bag.mpp or stated.default_mpp or 0.0
    return MppUsed(mpp, (bag.mpp and bag.mpp_y) or mpp, IMPORTED)


def _coords(bag: ForeignBag, slide_id: SlideId, stated: StatedByUser, mpp: MppUsed) -> np.ndarray:
    """int32 (N, 2) in level-0 pixels."""
    unit = _unit(bag, slide_id, stated)
    if bag.coords is None:
        return np.full((len(bag.features), 2), NO_PLACE_PX, np.int32)
    values = bag.coords.astype(np.float64)
    if unit is CoordsUnit.um:
        if not mpp.x:
            raise SlideError(
                FailureReason.NO_MPP,
                f"slide {slide_id}: its coordinates are in µm, and without the µm/px of level 0 they are no places on "
                "the slide; give it in the column mpp of the cohort table, or by default_mpp=",
            )
        # by what the file was made with, to the last bit: the table's may be rounded
        values = np.rint(values / ((bag.mpp, bag.mpp_y or bag.mpp) if bag.mpp else (mpp.x, mpp.y)))
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise _bad(slide_id, "its coordinates are no whole pixels of level 0")
    if values.size and not (values.min() >= 0 and values.max() <= _MAX_PX):
        raise _bad(slide_id, f"its coordinates reach from {values.min():g} to {values.max():g} level-0 pixels")
    width, height = bag.slide_size_l0_px
    if values.size and width and height and (values.max(axis=0) >= (width, height)).any():
        x, y = values.max(axis=0)
        raise _bad(slide_id, f"its coordinates reach to {x:g}, {y:g}, outside the slide of {width} × {height} pixels")
    return values.astype(np.int32)


def _tile_size_l0_px(bag: ForeignBag, slide_id: SlideId, stated: StatedByUser, mpp: float) -> int:
    """0: not known."""
    size = bag.tile_size_l0_px
    if size is None and bag.tile_size_um is not None and mpp:
        size = round(bag.tile_size_um / mpp)
    if size is not None and stated.tile_size_l0_px not in (None, size):
        raise _bad(
            slide_id, f"its tiles have {size} level-0 pixels, and tile_size_l0_px= says {stated.tile_size_l0_px}"
        )
    return size or stated.tile_size_l0_px or 0


class _Half(NamedTuple):
    values: np.ndarray
    max_rounding: float


def _half(features: np.ndarray, slide_id: SlideId) -> _Half:
    """float16 (N, D). Raises SlideError where a value is not finite, or float16 cannot hold it."""
    values = np.empty(features.shape, np.float16)
    max_rounding = 0.0
    for start in range(0, len(features), _ROWS_AT_ONCE):
        part = features[start : start + _ROWS_AT_ONCE]
        if not np.isfinite(part).all():
            raise _bad(slide_id, "its features are NaN or infinite")
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and is refused
            half = part.astype(np.float16)
        if not all_finite(half):
            raise _bad(slide_id, f"its features reach {np.abs(part).max():g}; float16 ends at 65504")
        if features.dtype != np.float16 and half.size:
            max_rounding = max(max_rounding, float(np.abs(part - half.astype(part.dtype)).max()))
        values[start : start + len(half)] = half
    return _Half(values, max_rounding)


def _bad(slide_id: SlideId, finding: str) -> SlideError:
    return SlideError(FailureReason.BAD_FEATURES, f"slide {slide_id}: {finding}")
