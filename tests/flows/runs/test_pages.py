"""A page is written with its pictures, and nothing of an earlier page is left beside it."""

from pathlib import Path

import numpy as np

from flows.config.keys import PageKeys
from flows.runs.pages import pictures_for, write_page
from mhim_core.report.images import encode_png
from mhim_core.storage import LocalStorage

PNG = encode_png(np.zeros((3, 3, 3), np.uint8))


def write(folder: Path, slide_ids: list[str], keys: PageKeys) -> set[str]:
    """The files in the folder after the page of these slides was written."""
    storage = LocalStorage(str(folder))
    pictures = pictures_for(keys, "report")
    page = "".join(pictures.place("overview", slide_id, PNG).src for slide_id in slide_ids)
    assert (
        set(write_page(storage, "report.html", page, pictures, "report")) < {entry.key for entry in storage.list("")}
        or keys.single_file
    )
    assert storage.get("report.html").decode() == page
    return {entry.key for entry in storage.list("")}


def test_pictures_lie_beside_the_page_and_those_of_an_earlier_page_go(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report/resolved.yaml").write_text("run: x")
    others = {"report.html", "report/resolved.yaml"}
    both = write(tmp_path, ["s1", "s2"], PageKeys())
    assert both == others | {"report/overview/s1.png", "report/overview/s2.png"}
    assert write(tmp_path, ["s2"], PageKeys()) == others | {"report/overview/s2.png"}
    assert write(tmp_path, ["s2"], PageKeys(single_file=True)) == others


def test_the_more_slides_a_page_may_show_the_less_each_may_weigh() -> None:
    keys = PageKeys(max_heatmaps=1000)
    assert keys.bytes_per_slide(10) > 40 * keys.bytes_per_slide(1000)
    assert keys.bytes_per_slide(5000) == keys.bytes_per_slide(1000)
    assert PageKeys(max_heatmaps=1000, page_mb=200).bytes_per_slide(1000) > 9 * keys.bytes_per_slide(1000)
    assert PageKeys(max_heatmaps=0).bytes_per_slide(1000) > 0
