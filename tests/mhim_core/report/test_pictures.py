"""Pictures beside a page or inside it: their names, their weight, their format."""

import io

import numpy as np
import pytest
from PIL import Image

from mhim_core.report.images import encode_smallest, encode_within, media_type
from mhim_core.report.pictures import PicturesBeside, PicturesInside, bytes_per_slide

TISSUE = np.random.default_rng(0).integers(120, 220, (120, 160, 3)).astype(np.uint8)
DRAWING = np.repeat(np.random.default_rng(0).integers(0, 2, (120, 160, 1)) * 255, 3, axis=2).astype(np.uint8)


def test_a_drawing_is_kept_without_loss_and_tissue_in_the_smaller_of_the_others() -> None:
    drawn, tissue = encode_smallest(DRAWING), encode_smallest(TISSUE)
    assert media_type(drawn) == "image/png"
    assert (np.asarray(Image.open(io.BytesIO(drawn))) == DRAWING).all()
    assert media_type(tissue) in ("image/webp", "image/jpeg")
    for image_format in ("WEBP", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(TISSUE).save(buffer, image_format, quality=80)
        assert len(tissue) <= len(buffer.getvalue())
    assert encode_smallest(TISSUE) == tissue


def test_a_picture_becomes_smaller_until_it_fits_and_is_never_left_out() -> None:
    full = encode_within(TISSUE)
    assert Image.open(io.BytesIO(full)).size == (160, 120)
    half = encode_within(TISSUE, len(full) // 4)
    assert len(half) <= len(full) // 4
    width, height = Image.open(io.BytesIO(half)).size
    assert width < 160
    assert width / height == pytest.approx(160 / 120, rel=0.05)
    assert Image.open(io.BytesIO(encode_within(TISSUE, 1))).size == (19, 14), "the smallest there is"


def test_a_thousand_slides_stay_below_the_pages_weight_and_base64_is_reckoned_with() -> None:
    beside, inside = (bytes_per_slide(20, 1000, inside=inside) for inside in (False, True))
    assert 1000 * beside < 20e6
    assert 1000 * inside * 4 / 3 < 20e6
    assert inside == pytest.approx(beside * 3 / 4, abs=1)
    assert bytes_per_slide(1, 10**6, inside=False) == 1


def test_files_are_named_like_their_slides_and_a_name_that_is_no_file_name_by_its_digest() -> None:
    pictures, data = PicturesBeside("report"), encode_smallest(DRAWING)
    placed = pictures.place("overview", "slide-1.a", data)
    assert placed == ("report/overview/slide-1.a.png", 160, 120, False)
    for hostile in ("../../etc/passwd", "a/b", "..", "%2e%2e", "a\0b", "x" * 200, "Ä", '"><script>', ""):
        src = pictures.place("overview", hostile, data).src
        assert src.startswith("report/overview/")
        assert src.removeprefix("report/overview/").removesuffix(".png").isalnum()
    assert set(pictures.files.values()) == {data}
    assert len(pictures.files) == 10
    pictures.place("overview", "slide-1.a", data)
    with pytest.raises(ValueError, match=r"slide-1\.a"):
        pictures.place("overview", "slide-1.a", encode_smallest(DRAWING[:60]))


def test_inside_a_page_the_picture_is_its_address() -> None:
    placed = PicturesInside().place("overview", "s", encode_smallest(np.zeros((10, 60, 3), np.uint8)))
    assert placed.src.startswith("data:image/")
    assert placed[1:] == (60, 10, True)
    with pytest.raises(ValueError, match="neither PNG"):
        PicturesInside().place("overview", "s", b"<svg>")
