"""What kind of picture a file holds, by its first bytes and, of a TIFF, its first directory. Pixels are not decoded."""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import tifffile

from mhim_core.errors import SlideError
from mhim_core.slides.file_tiles import FileTiles
from mhim_core.slides.spec import FASTSLIDE, MAX_PLAIN_PX, ZARR
from mhim_core.types import FailureReason

_UNITS_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}
_CZI, _ISYNTAX = b"ZISRAWFILE", b"<DataObject"
_COMMON = frozenset({1, 5, 7, 8, 32773, 32946, 50000})
"""TIFF's compressions that OpenSlide has always read: none, LZW, JPEG, deflate, PackBits, zstd."""
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds odd is judged here, or by OpenSlide


class FileLayout(NamedTuple):
    """What is known before a decoder is chosen."""

    kind: str
    """For people: `PNG`, `untiled TIFF`, `OME-TIFF of planes`; empty: left to OpenSlide."""
    is_plain: bool = False
    """A picture that is read whole, by `plain`."""
    is_planes: bool = False
    """Colour channels are stored one after the other."""
    is_jpeg_tiles: bool = False
    """A TIFF whose first picture is of JPEG tiles, which `direct` decodes where they lie."""
    reader: str = ""
    """The backend that alone reads this format; empty: one of those that read TIFFs and pictures."""
    is_rare_tiff: bool = False
    """A TIFF in a compression that OpenSlide may not know, which `tifffile` is asked for then."""
    is_large: bool = False
    """Too large a TIFF to be read whole."""
    mpp: tuple[float, float] | None = None
    """µm/px along x and y, as the OME-XML states it."""


def file_layout(path: Path) -> FileLayout:
    """Raises SlideError(OPEN) for a layout that holds no colour picture, naming it."""
    if path.is_dir():
        return FileLayout("OME-Zarr", reader=ZARR)
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(_CZI):
        return FileLayout("CZI", reader=FASTSLIDE)
    if head.lstrip(b"\xef\xbb\xbf \r\n").startswith(_ISYNTAX):
        return FileLayout("iSyntax", reader=FASTSLIDE)
    if suffix == ".vsi":  # a TIFF by its first bytes, of the overview
        return FileLayout("VSI", reader=FASTSLIDE)
    if suffix == ".mrxs":  # a JPEG by its first bytes, of the overview
        return FileLayout("")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileLayout("PNG", is_plain=True)
    if head[:3] == b"\xff\xd8\xff":
        return FileLayout("JPEG", is_plain=True)
    if head[:2] not in (b"II", b"MM"):
        return FileLayout("")
    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages.first
            if tiff.is_ome:
                return _ome_layout(tiff)
            is_scanners = tiff.is_ndpi or tiff.is_svs or tiff.is_scn or tiff.is_bif
            is_untiled = not page.is_tiled and not is_scanners
            if is_untiled and page.samplesperpixel >= 3 and page.dtype == "uint8":
                return FileLayout("untiled TIFF", is_plain=True, is_large=_is_large(page))
            if is_untiled:
                return FileLayout(f"untiled TIFF of {page.dtype} with {page.samplesperpixel} channels")
            is_rare = not is_scanners and page.compression not in _COMMON
            return FileLayout("", is_jpeg_tiles=FileTiles.is_direct(page), is_rare_tiff=is_rare)
    except SlideError:
        raise
    except Exception:  # whatever a broken header makes of it: the decoder's own message is the better one
        return FileLayout("")


def _ome_layout(tiff: tifffile.TiffFile) -> FileLayout:
    series: Any = tiff.series[0]
    mpp = _ome_mpp(tiff.ome_metadata or "")
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if series.dtype == "uint8" and sizes.get("S") in (3, 4) and set(series.axes) == set("YXS"):
        page: Any = tiff.pages.first
        is_planar = series.axes.index("S") == 0
        is_plain = is_planar or not page.is_tiled
        is_rare = not is_plain and page.compression not in _COMMON
        return FileLayout(
            "OME-TIFF", is_plain, is_planes=is_planar, is_rare_tiff=is_rare, is_large=_is_large(page), mpp=mpp
        )
    if series.dtype == "uint8" and sizes.get("C") == 3 and set(series.axes) == set("CYX"):
        page = tiff.pages.first
        return FileLayout("OME-TIFF of planes", is_plain=True, is_planes=True, is_large=_is_large(page), mpp=mpp)
    raise SlideError(
        FailureReason.OPEN,
        f"an OME-TIFF of {series.dtype} with axes {series.axes} {tuple(series.shape)} is no bright-field picture "
        "(one of three 8-bit channels)",
    )


def _is_large(page: Any) -> bool:
    return int(page.imagewidth) * int(page.imagelength) > MAX_PLAIN_PX


def _ome_mpp(text: str) -> tuple[float, float] | None:
    try:
        root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", text))
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    try:
        x, y = (
            float(pixels.attrib[f"PhysicalSize{axis}"]) * _UNITS_UM[pixels.attrib.get(f"PhysicalSize{axis}Unit", "µm")]
            for axis in "XY"
        )
    except (KeyError, ValueError):
        return None
    return x, y
