"""The demo's `truth.json`: where the tumour of each painted slide lies, and how much of each tile that is."""

import json
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mhim_core.demo.cohort import FociKind
from mhim_core.demo.slide import Focus, FocusKind

_SAMPLES = 16
"""Points along a tile's side at which its share is measured: a 256th of its area."""


class SlideTruth(NamedTuple):
    """What is known of one painted slide."""

    shows: FociKind
    foci: tuple[Focus, ...]


def read_truth(data: bytes) -> dict[str, SlideTruth]:
    """By slide id, from the bytes of `truth.json`."""
    return {
        slide_id: SlideTruth(
            FociKind(known["shows"]),
            tuple(
                Focus(FocusKind(focus["kind"]), tuple((x, y) for x, y in focus["polygon_l0_px"]))
                for focus in known["foci"]
            ),
        )
        for slide_id, known in json.loads(data).items()
    }


def focus_shares(foci: tuple[Focus, ...], coords_l0_px: np.ndarray, tile_size_l0_px: tuple[int, int]) -> np.ndarray:
    """float64 (N,): the share, 0 to 1, of each tile's area that lies inside a focus.

    `coords_l0_px` (N, 2) are the tiles' top-left corners (x, y); sizes are (width, height), all in level-0 pixels.
    """
    size = np.asarray(tile_size_l0_px)
    extent = np.vstack([coords_l0_px + size, *(np.asarray(focus.outline) for focus in foci)]).max(axis=0)
    step = size / _SAMPLES
    width, height = (int(cells) + 1 for cells in np.ceil(extent / step))
    picture = Image.new("L", (width, height))
    for focus in foci:
        ImageDraw.Draw(picture).polygon([(x / step[0], y / step[1]) for x, y in focus.outline], fill=1)
    inside = np.asarray(picture)
    corners = np.rint(np.asarray(coords_l0_px) / step).astype(np.int64)
    return np.array([inside[y : y + _SAMPLES, x : x + _SAMPLES].mean() for x, y in corners], np.float64)
