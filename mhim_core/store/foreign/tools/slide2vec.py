"""slide2vec: `tile_embeddings/<slide>.pt` or `.npz` with `<slide>.meta.json` beside it, and coordinates in `tiles/`.

`tiles/<slide>.coordinates.npz` holds x, y (level-0 pixels) and `tissue_fractions` in the order of the features, its
`.coordinates.meta.json` the slide's size and µm/px.
"""

from __future__ import annotations

import posixpath
from typing import Any, NamedTuple

import numpy as np

from mhim_core.errors import OtherFormatError, SlideError
from mhim_core.records import parse_json
from mhim_core.store.foreign.arrays import read_npz, read_tensor
from mhim_core.store.foreign.feature_format import (
    FeatureFormat,
    ForeignBag,
    ForeignFile,
    register_feature_format,
)
from mhim_core.store.foreign.names import CoordsUnit
from mhim_core.store.foreign.numbers import count_of, length_of
from mhim_core.types import FailureReason


class _Places(NamedTuple):
    coords: np.ndarray
    tissue_share: np.ndarray | None


class _Slide2Vec(FeatureFormat):
    """What both kinds of files have in common."""

    def features_of(self, data: bytes) -> np.ndarray:
        raise NotImplementedError

    def bag_of(self, file: ForeignFile) -> ForeignBag:
        folder, name = posixpath.split(file.place)
        stem = name.removesuffix(self.suffix)
        meta = _object(file, posixpath.join(folder, f"{stem}.meta.json"))
        tiles = posixpath.join(posixpath.dirname(folder), "tiles", stem)
        tiling_meta = _object(file, f"{tiles}.coordinates.meta.json")
        slide, tiling = (_section(tiling_meta, section) for section in ("slide", "tiling"))
        places = _places(file.read_other(f"{tiles}.coordinates.npz"))
        width, height = (count_of({"size": size}, "size") or 0 for size in slide.get("dimensions") or (0, 0))
        return ForeignBag(
            features=self.features_of(file.data),
            coords=None if places is None else places.coords,
            unit=None if places is None else CoordsUnit.level0_px,
            encoder=str(meta.get("encoder_name") or ""),
            tile_px=count_of(meta, "requested_tile_size_px") or count_of(tiling, "requested_tile_size_px"),
            target_mpp=length_of(meta, "requested_spacing_um") or length_of(tiling, "requested_spacing_um"),
            tile_size_l0_px=count_of(meta, "tile_size_lv0") or count_of(tiling, "tile_size_lv0"),
            slide_size_l0_px=(width, height),
            mpp=length_of(slide, "base_spacing_um"),
            tissue_share=None if places is None else places.tissue_share,
        )


@register_feature_format("slide2vec", suffix=".pt", folder="tile_embeddings", reads=True, has_companions=True)
class Slide2VecPt(_Slide2Vec):
    """Embeddings in .pt, as the tool writes them unless told otherwise."""

    def read(self, file: ForeignFile) -> ForeignBag:
        return self.bag_of(file)

    def features_of(self, data: bytes) -> np.ndarray:
        return read_tensor(data)


@register_feature_format("slide2vec-npz", suffix=".npz", folder="tile_embeddings", reads=True, has_companions=True)
class Slide2VecNpz(_Slide2Vec):
    """Embeddings in .npz (`output_format=npz`)."""

    def read(self, file: ForeignFile) -> ForeignBag:
        return self.bag_of(file)

    def features_of(self, data: bytes) -> np.ndarray:
        arrays = read_npz(data)
        if "features" not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise OtherFormatError(FailureReason.OPEN, f"it holds {held}, and no features")
        return arrays["features"]


def _places(data: bytes | None) -> _Places | None:
    if data is None:
        return None
    arrays = read_npz(data)
    if not {"x", "y"} <= arrays.keys() or arrays["x"].shape != arrays["y"].shape or arrays["x"].ndim != 1:
        raise SlideError(FailureReason.BAD_FEATURES, "its file of coordinates has no x and y of each tile")
    share = arrays.get("tissue_fractions")
    return _Places(np.stack([arrays["x"], arrays["y"]], axis=1), None if share is None else share.astype(np.float32))


def _object(file: ForeignFile, place: str) -> dict[str, Any]:
    """Of a JSON file; {} where it is not there."""
    data = file.read_other(place)
    try:
        value = {} if data is None else parse_json(data)
    except ValueError as error:
        raise SlideError(FailureReason.OPEN, f"{place} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise SlideError(FailureReason.OPEN, f"{place} is damaged: it holds no object")
    return value


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}
