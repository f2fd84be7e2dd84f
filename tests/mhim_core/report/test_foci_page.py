import io
from pathlib import Path

import numpy as np
from PIL import Image

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.demo.slide import Focus, FocusKind
from mhim_core.features import MppUsed
from mhim_core.report.foci_page import FociPage, FociPanel, draw_foci, render_foci
from mhim_core.report.images import encode_png

FOCUS = Focus(FocusKind.quiet, ((100, 100), (300, 100), (300, 300), (100, 300)))
SUMMARY = {
    "num": {"none": 3, "quiet": 2, "loud": 1},
    "possible": {"quiet": 0.6, "loud": None},
    "models": {
        name: {
            "auroc": {"all": 0.8, "quiet": quiet, "loud": 1.0},
            "dice": {"quiet": 0.1, "loud": None},
            "top_ten": {"quiet": 0.2, "loud": 0.1},
        }
        for name, quiet in {"plain": 0.511, "mhim": 0.933}.items()
    },
}


def test_the_slide_and_both_heat_maps_stand_side_by_side_with_the_foci_outlined(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "slide.tiff", np.full((500, 400, 3), 200, np.uint8), mpp=(0.5, 0.5))
    coords = np.array([[0, 0], [128, 128], [256, 256]])
    attention = np.array([0.1, 0.6, 0.3])
    drawn = draw_foci(
        tmp_path / "slide.tiff", [FOCUS], coords, (128, 128), MppUsed(0.5, 0.5, "slide"), [attention, attention]
    )
    pixels = np.asarray(Image.open(io.BytesIO(drawn))).astype(int)
    assert pixels.shape == (500, 3 * 400 + 20, 3)
    is_green = (pixels[..., 1] - pixels[..., [0, 2]].max(-1)) > 60
    for start in (0, 410, 820):
        assert is_green[150:250, start + 97 : start + 104].any()
    assert not is_green[400:, :390].any()


def test_the_page_has_every_figure_and_a_dash_for_what_is_not_there() -> None:
    panel = FociPanel(
        "slide-1",
        "quiet",
        55,
        {"plain": "Dice 0.10", "MHIM student": "Dice 0.55"},
        encode_png(np.zeros((3, 9, 3), np.uint8)),
    )
    page = render_foci(FociPage(SUMMARY, {"plain": "plain", "mhim": "MHIM student"}, 36, [panel]))
    for text in ("0.511", "0.933", "36 training slides", "slide-1", "Dice 0.55", "Research use only", "–"):
        assert text in page
    assert "://" not in page
