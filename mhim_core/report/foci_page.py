"""The demo's page: figures of both models, and their heat maps next to the foci, whose place is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mhim_core.demo.slide import Focus
from mhim_core.features import MppUsed
from mhim_core.report.frame import Anchor, render_page
from mhim_core.report.heatmap import heatmap
from mhim_core.report.images import RgbImage, encode_jpeg, fit
from mhim_core.report.pictures import Pictures
from mhim_core.report.slide_pictures import top_tiles
from mhim_core.slides.reader import open_slide

NUM_TOP = 10
_MAX_SIDE_PX = 640
_GAP_PX = 10
_LINE_RGB = (0, 160, 0)


class FociPanel(NamedTuple):
    """A slide on the page."""

    slide_id: str
    shows: str
    """quiet or loud."""
    num_tiles: int
    facts: Mapping[str, str]
    """By model, the caption of its heat map."""
    picture: bytes
    """JPEG: the slide, then each model's heat map, the foci outlined on all."""


class FociPage(NamedTuple):
    """Everything on the page. `titles`: the name to show for each model of `summary`, in the order of the columns."""

    summary: Mapping[str, Any]
    """`evaluation.foci_figures`'s document."""
    titles: Mapping[str, str]
    num_train: int
    panels: Sequence[FociPanel]


def draw_foci(
    path: Path,
    foci: Sequence[Focus],
    coords_l0_px: np.ndarray,
    tile_size_l0_px: tuple[int, int],
    mpp: MppUsed,
    attentions: Sequence[np.ndarray],
) -> bytes:
    """JPEG: the slide and a heat map for each of `attentions` (N,), side by side, with the foci outlined in green and
    the ten most attended tiles framed in red. Raises SlideError where the slide cannot be read."""
    with open_slide(path) as reader:
        size = (reader.info().width_l0_px, reader.info().height_l0_px)
        thumbnail = reader.thumbnail(mpp, max(mpp.x, mpp.y, max(size) * max(mpp.x, mpp.y) / _MAX_SIDE_PX)).pixels
    pictures = [thumbnail] + [
        heatmap(
            thumbnail,
            coords_l0_px,
            attention,
            tile_size_l0_px=tile_size_l0_px,
            slide_size_l0_px=size,
            outlined=top_tiles(attention, NUM_TOP).tolist(),
            with_bar=False,
        )
        for attention in attentions
    ]
    return encode_jpeg(_side_by_side([_outlined(picture, foci, size) for picture in pictures]))


def render_foci(page: FociPage, pictures: Pictures | None = None) -> str:
    """The page; `pictures`: where they go, None: inside. The same data gives the same bytes."""
    models = page.summary["models"]
    return render_page(
        "foci.html.j2",
        pictures=pictures,
        anchors=[
            Anchor("answer", "What it shows"),
            Anchor("labels", "Which slides have tumour?"),
            Anchor("foci", "Where do the models look?"),
            *([Anchor("slides", "Slides")] if page.panels else []),
        ],
        page=page,
        summary=page.summary,
        titles=page.titles,
        quiet={page.titles[name]: models[name]["auroc"]["quiet"] for name in page.titles},
    )


def _outlined(picture: RgbImage, foci: Sequence[Focus], size_l0_px: tuple[int, int]) -> RgbImage:
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(picture)
    scale_x, scale_y = canvas.width / size_l0_px[0], canvas.height / size_l0_px[1]
    for focus in foci:
        points = [(x * scale_x, y * scale_y) for x, y in (*focus.outline, focus.outline[0])]
        ImageDraw.Draw(canvas).line(points, fill=_LINE_RGB, width=4, joint="curve")
    return np.asarray(canvas)


def _side_by_side(pictures: Sequence[RgbImage]) -> RgbImage:
    gap = np.full((pictures[0].shape[0], _GAP_PX, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)][:-1]
    return fit(np.concatenate(row, axis=1), 3 * _MAX_SIDE_PX)
