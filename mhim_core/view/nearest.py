"""The tiles of a cohort that are most alike in their features, among a sample of bounded size."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mhim_core.fingerprint import sha256
from mhim_core.types import SlideId

MAX_SLIDES, MAX_TILES_A_SLIDE = 64, 256


class TileSample(NamedTuple):
    """Some tiles of some slides. S tiles."""

    slide_ids: tuple[str, ...]
    """Those that tiles are of."""
    slide_S: np.ndarray
    """int32 (S,): the place in `slide_ids`."""
    row_S: np.ndarray
    """int32 (S,): the tile's number within its slide."""
    unit_SD: np.ndarray
    """float32 (S, D), of length 1 each."""
    num_slides: int
    """Of the whole cohort."""
    num_tiles: int
    left_out: tuple[str, ...] = ()
    """Slides whose features could not be read."""


class Neighbour(NamedTuple):
    """A tile, and the cosine of the angle between its features and those asked for."""

    slide_id: str
    row: int
    similarity: float


def draw_sample(lengths: Mapping[SlideId, int], read: Callable[[SlideId], np.ndarray | None]) -> TileSample:
    """At most 64 slides and 256 tiles of each, drawn by a hash of the ids, so that the same cohort gives the same.

    `lengths`: tiles by slide; `read`: a slide's features (N, D), or None where they cannot be read.
    """
    known = {slide_id: num for slide_id, num in lengths.items() if num}
    chosen = sorted(known, key=lambda slide_id: sha256(slide_id.encode()))[:MAX_SLIDES]
    slides: list[str] = []
    slide_S, row_S, parts, left_out = [], [], [], []
    for slide_id in sorted(chosen):
        features = read(slide_id)
        if features is None:
            left_out.append(str(slide_id))
            continue
        rows = np.unique(np.linspace(0, len(features) - 1, min(len(features), MAX_TILES_A_SLIDE)).round().astype(int))
        slide_S.append(np.full(len(rows), len(slides), np.int32))
        row_S.append(rows.astype(np.int32))
        parts.append(_units(features[rows]))
        slides.append(str(slide_id))
    empty = np.zeros(0, np.int32)
    return TileSample(
        tuple(slides),
        np.concatenate(slide_S) if slide_S else empty,
        np.concatenate(row_S) if row_S else empty,
        np.concatenate(parts) if parts else np.zeros((0, 0), np.float32),
        len(known),
        sum(known.values()),
        tuple(left_out),
    )


def nearest_tiles(sample: TileSample, feature_D: np.ndarray, num: int, without: tuple[str, int]) -> list[Neighbour]:
    """The `num` most similar tiles, at most two of a slide; `without`: the tile itself, its slide and row."""
    if not len(sample.row_S):
        return []
    similarity_S = sample.unit_SD @ _units(feature_D[None])[0]
    taken: dict[int, int] = {}
    found = []
    for index in np.argsort(-similarity_S, kind="stable"):
        slide, row = int(sample.slide_S[index]), int(sample.row_S[index])
        if (sample.slide_ids[slide], row) == without or taken.get(slide, 0) == 2:
            continue
        taken[slide] = taken.get(slide, 0) + 1
        found.append(Neighbour(sample.slide_ids[slide], row, float(similarity_S[index])))
        if len(found) == num:
            break
    return found


def _units(features_ND: np.ndarray) -> np.ndarray:
    values = features_ND.astype(np.float32)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
