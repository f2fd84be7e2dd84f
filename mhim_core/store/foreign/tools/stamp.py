"""STAMP: `<extractor>/<slide>.h5` with `feats` (float16) and `coords` in µm; attributes of the file state the rest.

From version 2.1 on a file states `tile_size_um`, before `tile_size` with `unit` um. The tables are one of slides
(`PATIENT`, `FILENAME`) and one of patients (`PATIENT` and the targets).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mhim_core.errors import OtherFormatError, SlideError
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

_MPP_L0 = ("mhim_mpp_l0_x", "mhim_mpp_l0_y")
"""Attributes that mhim adds: the µm/px of level 0 by which coordinates became µm, so that they become the same pixels
again."""


@register_feature_format("stamp", suffix=".h5", reads=True, writes=True)
class Stamp(FeatureFormat):
    """Features of tiles; those of slides and patients are no bags."""

    def read(self, file: ForeignFile) -> ForeignBag:
        with opened_h5(file.data) as opened:
            features, coords = features_and_coords(opened, "feats", "STAMP", len(file.data))
            stated = attributes(opened)
        if str(stated.get("feat_type", "tile")) != "tile":
            kind = stated["feat_type"]
            raise OtherFormatError(FailureReason.BAD_FEATURES, f"its features are of a {kind}, not of tiles")
        tile_size_um, tile_px = _tile_size_um(stated), count_of(stated, "tile_size_px")
        mpp_x, mpp_y = (length_of(stated, name) for name in _MPP_L0)
        version = str(stated.get("stamp_version", ""))
        return ForeignBag(
            features=features,
            coords=coords,
            unit=None if tile_size_um is None else CoordsUnit.um,
            encoder=str(stated.get("extractor", "")),
            tile_px=tile_px,
            target_mpp=tile_size_um / tile_px if tile_size_um and tile_px else None,
            tile_size_um=tile_size_um,
            mpp=mpp_x,
            mpp_y=mpp_y,
            versions={"stamp": version} if version else {},
        )

    def write(self, slide: OwnSlide) -> dict[str, bytes]:
        coords = slide.required_coords(self.name)
        name, mpp = exported_name(slide.feature_set), slide.mpp
        if not all(mpp) or not slide.tile_size_l0_px[0]:
            raise SlideError(
                FailureReason.NO_MPP,
                f"slide {slide.slide_id}: format=stamp needs µm, and its features were imported without the µm/px of "
                "level 0 or without the size of a tile",
            )
        tile_px, target_mpp = (setting(slide.feature_set, each) for each in ("tile_px", "target_mpp"))
        stated: dict[str, object] = {
            "extractor": name,
            "unit": "um",
            # as it was asked for, where that is known: the tool's own is one for all slides
            "tile_size_um": tile_px * target_mpp if tile_px and target_mpp else slide.tile_size_l0_px[0] * mpp[0],
            "feat_type": "tile",
            **dict(zip(_MPP_L0, mpp, strict=True)),
        } | ({} if tile_px is None else {"tile_size_px": tile_px})
        coords_um = (coords * np.array(mpp)).astype(np.float32)
        file = write_h5({"coords": coords_um, "feats": slide.table.features}, file_attributes=stated)
        return {f"{name}/{slide.slide_id}.h5": file}

    def tables(self, rows: Sequence[ExportedSlide], feature_set: FeatureSet) -> dict[str, bytes]:
        lines = [(row.patient_id, f"{row.slide_id}.h5", mpp_cell(row.mpp)) for row in rows]
        slides = table_of([("PATIENT", "FILENAME", "mpp"), *lines])  # the tool reads its columns by name
        patients = _targets_of_patients(rows)
        return {"slide.csv": slides} | ({"clini.csv": table_of(patients)} if len(patients) > 1 else {})


def _tile_size_um(stated: dict[str, Any]) -> float | None:
    if stated.get("unit") == "um" and "tile_size" in stated:
        return length_of(stated, "tile_size")
    return length_of(stated, "tile_size_um")


def _targets_of_patients(rows: Sequence[ExportedSlide]) -> list[tuple[object, ...]]:
    """A header and a row for every patient whose slides agree; a patient of two labels has none in such a table."""
    targets: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for row in rows:
        if row.label is not None or row.time is not None:
            event = None if row.event is None else int(row.event)
            targets[row.patient_id].add((row.label, None if row.time is None else repr(row.time), event))
    lines = [(patient, *next(iter(found))) for patient, found in sorted(targets.items()) if len(found) == 1]
    has_time = any(line[2] is not None for line in lines)
    header = ("PATIENT", "label", "time", "event") if has_time else ("PATIENT", "label")
    return [header, *(line[: len(header)] for line in lines)]
