"""A page is written with its pictures, and nothing of an earlier page is left beside it."""

from pathlib import Path

import numpy as np
import pytest

from cluster.storage import open_storage
from flows.config.keys import PageKeys
from flows.runs.pages import pictures_for, write_page
from mhim_core.report.images import encode_png
from mhim_core.storage import Storage

PNG = encode_png(np.zeros((3, 3, 3), np.uint8))


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    is_folder = request.param == "folder"
    return open_storage(str(tmp_path) if is_folder else f"s3://{request.getfixturevalue('bucket')}/run")


def write(storage: Storage, slide_ids: list[str], keys: PageKeys) -> set[str]:
    """What is there after the page of these slides was written."""
    pictures = pictures_for(keys, "report")
    page = "".join(pictures.place("overview", slide_id, PNG).src for slide_id in slide_ids)
    files = write_page(storage, "report.html", page, pictures, "report")
    assert storage.get("report.html").decode() == page
    there = {entry.key for entry in storage.list("")}
    assert set(files) <= there
    return there


def test_pictures_lie_beside_the_page_and_those_of_an_earlier_page_go(storage: Storage) -> None:
    storage.put("report/resolved.yaml", b"run: x")
    others = {"report.html", "report/resolved.yaml"}
    both = write(storage, ["s1", "s2"], PageKeys())
    assert both == others | {"report/overview/s1.png", "report/overview/s2.png"}
    assert write(storage, ["s2"], PageKeys()) == others | {"report/overview/s2.png"}
    assert write(storage, ["s2"], PageKeys(single_file=True)) == others


def test_the_more_slides_a_page_may_show_the_less_each_may_weigh() -> None:
    keys = PageKeys(max_heatmaps=1000)
    assert keys.bytes_per_slide(10) > 40 * keys.bytes_per_slide(1000)
    assert keys.bytes_per_slide(5000) == keys.bytes_per_slide(1000)
    assert PageKeys(max_heatmaps=1000, page_mb=200).bytes_per_slide(1000) > 9 * keys.bytes_per_slide(1000)
    assert PageKeys(max_heatmaps=0).bytes_per_slide(1000) > 0
