"""TRIDENT: `features_<encoder>/<slide>.h5` with `features` and `coords`, whose attributes state the tiling.

Coordinates are level-0 pixels. A tile has `patch_size` pixels at `target_magnification`, and `patch_size_level0` at
level 0; TRIDENT counts in magnifications and states no µm/px. The encoder is named by the folder alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from mhim_core.errors import SlideError
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.foreign.arrays import attributes, features_and_coords, opened_h5, write_h5
from mhim_core.store.foreign.feature_format import (
    ExportedSlide,
    FeatureFormat,
    ForeignBag,
    ForeignFile,
    OwnSlide,
    exported_name,
    mpp_cell,
    register_feature_format,
    setting,
    table_of,
)
from mhim_core.store.foreign.names import CoordsUnit
from mhim_core.store.foreign.numbers import count_of, length_of
from mhim_core.types import FailureReason

_FOLDER = re.compile(r"features_(.+)")
_UM_PX_AT_1X = 10.0
"""µm/px times magnification, as the tool itself takes it."""


@register_feature_format("trident", suffix=".h5", folder="features_*", reads=True, writes=True)
class Trident(FeatureFormat):
    """Features with coordinates, as `--task feat` writes them; the file of coordinates beside them."""

    def read(self, file: ForeignFile) -> ForeignBag:
        with opened_h5(file.data) as opened:
            features, coords = features_and_coords(opened, "features", "TRIDENT", len(file.data))
            stated = attributes(opened["coords"])
        folder = _FOLDER.fullmatch(PurePosixPath(file.place).parent.name)
        width, height = (count_of(stated, f"level0_{side}") or 0 for side in ("width", "height"))
        return ForeignBag(
            features=features,
            coords=coords.reshape(-1, 2) if coords.size == 0 else coords,
            unit=CoordsUnit.level0_px,
            encoder="" if folder is None else folder[1],
            tile_px=count_of(stated, "patch_size"),
            overlap_px=count_of(stated, "overlap"),
            target_magnification=length_of(stated, "target_magnification"),
            tile_size_l0_px=count_of(stated, "patch_size_level0"),
            slide_size_l0_px=(width, height),
        )

    def write(self, slide: OwnSlide) -> dict[str, bytes]:
        coords = slide.required_coords(self.name).astype(np.int64)
        stated = _coords_attributes(slide)
        name, folder = exported_name(slide.feature_set), _tiling_folder(slide.feature_set)
        features = write_h5(
            {"features": slide.table.features.astype(np.float32), "coords": coords},
            {"features": {"name": slide.slide_id, "encoder": name}, "coords": stated},
        )
        patches = write_h5({"coords": coords}, {"coords": stated})
        return {
            f"{folder}features_{name}/{slide.slide_id}.h5": features,
            f"{folder}patches/{slide.slide_id}_patches.h5": patches,
        }

    def tables(self, rows: Sequence[ExportedSlide], feature_set: FeatureSet) -> dict[str, bytes]:
        lines = [(row.file_name, mpp_cell(row.mpp)) for row in rows]
        return {"slides.csv": table_of([("wsi", "mpp"), *lines])}


def _coords_attributes(slide: OwnSlide) -> dict[str, object]:
    """What the tool's own files state, as far as it is known. Raises SlideError without the tiles' size at level 0."""
    width, height = slide.tile_size_l0_px
    if not width:
        raise SlideError(
            FailureReason.BAD_FEATURES,
            f"slide {slide.slide_id}: the size of its tiles at level 0 is not known, which format=trident states",
        )
    tile_px, overlap_px = (setting(slide.feature_set, name) for name in ("tile_px", "overlap_px"))
    target, mpp = _magnification(slide.feature_set), slide.mpp[0]
    size_l0 = {
        "level0_width": slide.table.metadata["width_l0_px"],
        "level0_height": slide.table.metadata["height_l0_px"],
    }
    stated: dict[str, object] = {
        "patch_size": tile_px,
        # the tool knows squares of pixels alone
        "patch_size_level0": round((width + height) / 2),
        "level0_magnification": round(_UM_PX_AT_1X / mpp) if mpp else None,
        "target_magnification": target,
        "overlap": overlap_px,
        "name": slide.slide_id,
        **{name: size or None for name, size in size_l0.items()},
    }
    return {name: value for name, value in stated.items() if value is not None}


def _magnification(feature_set: FeatureSet) -> int | None:
    """At which tiles were cut, in the tool's whole numbers; None: not known."""
    stated, target_mpp = setting(feature_set, "target_magnification"), setting(feature_set, "target_mpp")
    if stated is not None:
        return round(stated)
    return None if target_mpp is None else round(_UM_PX_AT_1X / target_mpp)


def _tiling_folder(feature_set: FeatureSet) -> str:
    """`20x_256px_0px_overlap/`, as the tool names it; empty where not all of that is known."""
    magnification = _magnification(feature_set)
    tile_px, overlap_px = (setting(feature_set, name) for name in ("tile_px", "overlap_px"))
    known = magnification is not None and tile_px is not None and overlap_px is not None
    return f"{magnification}x_{tile_px}px_{overlap_px}px_overlap/" if known else ""
