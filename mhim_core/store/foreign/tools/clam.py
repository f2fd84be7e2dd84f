"""CLAM: `h5_files/<slide>.h5` with `features` and `coords`, `pt_files/<slide>.pt` with the tensor of features alone.

Coordinates are level-0 pixels. Feature files state neither the encoder nor the size of a tile; those of coordinates,
from which features may have been written as well, state `patch_size` at `patch_level` and its `downsample`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhim_core.errors import OtherFormatError
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.foreign.arrays import (
    attributes,
    features_and_coords,
    opened_h5,
    read_tensor,
    write_h5,
    write_tensor,
)
from mhim_core.store.foreign.feature_format import (
    ExportedSlide,
    FeatureFormat,
    ForeignBag,
    ForeignFile,
    OwnSlide,
    register_feature_format,
    table_of,
)
from mhim_core.store.foreign.names import CoordsUnit
from mhim_core.store.foreign.numbers import count_of, length_of
from mhim_core.types import FailureReason


@register_feature_format("clam", suffix=".h5", folder="h5_files", reads=True, writes=True, names_encoder=False)
class Clam(FeatureFormat):
    """Both kinds of files; the .h5 are read."""

    def read(self, file: ForeignFile) -> ForeignBag:
        with opened_h5(file.data) as opened:
            features, coords = features_and_coords(opened, "features", "CLAM", len(file.data))
            stated = attributes(opened["coords"])
        if "patch_size_level0" in stated:
            raise OtherFormatError(
                FailureReason.BAD_FEATURES,
                "its coords state patch_size_level0, as those of TRIDENT do; format=trident reads all that they state",
            )
        tile_px = count_of(stated, "patch_size")
        return ForeignBag(
            features=features,
            coords=coords,
            unit=CoordsUnit.level0_px,
            tile_px=tile_px,
            tile_size_l0_px=size_at_level_0(tile_px, stated),
        )

    def write(self, slide: OwnSlide) -> dict[str, bytes]:
        coords = slide.required_coords(self.name)
        features = slide.table.features.astype(np.float32)
        file = write_h5({"features": features, "coords": coords.astype(np.int32)})
        return {f"h5_files/{slide.slide_id}.h5": file, **_tensor_file(slide.slide_id, features)}

    def tables(self, rows: Sequence[ExportedSlide], feature_set: FeatureSet) -> dict[str, bytes]:
        return clam_tables(rows)


@register_feature_format("clam-pt", suffix=".pt", folder="pt_files", reads=True, writes=True, names_encoder=False)
class ClamPt(FeatureFormat):
    """The tensors alone, without coordinates."""

    def read(self, file: ForeignFile) -> ForeignBag:
        return ForeignBag(features=read_tensor(file.data), coords=None, unit=None)

    def write(self, slide: OwnSlide) -> dict[str, bytes]:
        return _tensor_file(slide.slide_id, slide.table.features.astype(np.float32))

    def tables(self, rows: Sequence[ExportedSlide], feature_set: FeatureSet) -> dict[str, bytes]:
        return clam_tables(rows)


def clam_tables(rows: Sequence[ExportedSlide]) -> dict[str, bytes]:
    """`case_id,slide_id,label`, of the slides with a label."""
    lines = [(row.patient_id, row.slide_id, row.label) for row in rows if row.label is not None]
    return {"slides.csv": table_of([("case_id", "slide_id", "label"), *lines])} if lines else {}


def _tensor_file(slide_id: str, features: np.ndarray) -> dict[str, bytes]:
    return {f"pt_files/{slide_id}.pt": write_tensor(features)}


def size_at_level_0(tile_px: int | None, stated: dict[str, object]) -> int | None:
    """Side of a tile at level 0, where its coords state it; of the downsample, a list is of x and y."""
    if tile_px is None or "patch_level" not in stated:
        return None
    downsample = stated.get("downsample")
    factors = downsample if isinstance(downsample, list) else [downsample]
    if stated["patch_level"] == 0:
        factors = [1.0]
    sizes = {round(tile_px * (length_of({"downsample": factor}, "downsample") or 0)) for factor in factors}
    return sizes.pop() or None if len(sizes) == 1 else None
