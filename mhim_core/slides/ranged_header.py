"""What of a remote TIFF has to be there before it is opened: its directories, with the values of all their tags.

They are found by the readers that will read them from the file (`check_tiff`, tifffile), through a file that fetches
what it is asked for. OpenSlide reads the same directories and values when it opens a file. It also hashes the tiles of
the smallest level, for its quickhash; nobody reads that here, and no property of ours depends on it.
"""

import contextlib
import io
import itertools
from typing import Any

import tifffile

from mhim_core.errors import MhimError, SlideError
from mhim_core.slides.file_layout import file_layout
from mhim_core.slides.file_tiles import FileTiles
from mhim_core.slides.ranged_file import RangedFile, Span
from mhim_core.slides.registry import backend_class
from mhim_core.slides.source_identity import identity_blocks
from mhim_core.slides.spec import DIRECT, GLASS_RULE
from mhim_core.slides.tiff import check_tiff_file

_BUFFER_BYTES = 16_384
_MAX_PAGES = 1024
_USUAL_MPP = 0.25
"""µm/px where the file states none: the table will, and a coarser level than needed is fetched then."""
_MAX_OVERVIEW_BYTES = 64 * 2**20
_OTHERS = ("is_ome", "is_ndpi", "is_scn", "is_bif", "is_philips", "is_qpi")
"""Formats of which OpenSlide reads more than directories, or that it does not read as tiles side by side."""


def fetch_header(ranged: RangedFile) -> bool:
    """Fetch what identifying and opening the slide reads; False: it is to be fetched whole.

    True for TIFFs of JPEG tiles (SVS, generic TIFF), which are opened once to be sure. Raises what `RangedFile.ensure`
    and `check_tiff` do.
    """
    if ranged.read(0, 4)[:2] not in (b"II", b"MM"):
        return False
    ranged.ensure(Span(offset, offset + num_bytes) for offset, num_bytes in identity_blocks(ranged.num_bytes))
    with io.BufferedReader(_Fetching(ranged), _BUFFER_BYTES) as file:
        check_tiff_file(file, ranged.num_bytes)
        try:
            if not _fetch_directories(ranged, file):
                return False
        except MhimError:
            raise
        except Exception:  # whatever a broken header makes of it: what opens the file has the better message
            return False
    with contextlib.suppress(SlideError):
        return _is_opened(ranged)
    return False


def _is_opened(ranged: RangedFile) -> bool:
    """Whether it can be read by ranges. The level of its picture is fetched, while the slide may take its time."""
    with contextlib.closing(backend_class(DIRECT)(ranged.path, file_layout(ranged.path))) as backend:
        if not backend.read_ranged(ranged):
            return False
        spans = backend.overview_spans(GLASS_RULE.mask_mpp / (backend.info().mpp_x or _USUAL_MPP))
        if sum(span.num_bytes for span in spans) > _MAX_OVERVIEW_BYTES:
            return False  # without a coarse level there is little to be spared
        ranged.ensure(spans)
        return True


def _fetch_directories(ranged: RangedFile, file: Any) -> bool:
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        if any(getattr(tiff, name) for name in _OTHERS) or not FileTiles.is_direct(tiff.pages.first):
            return False
        pages: list[Any] = list(itertools.islice(tiff.pages, _MAX_PAGES + 1))
        if len(pages) > _MAX_PAGES:
            return False
        tags = [tag for page in pages for tag in page.tags]
        ranged.ensure(Span(tag.valueoffset, tag.valueoffset + tag.valuebytecount) for tag in tags)
    return True


class _Fetching(io.RawIOBase):
    """The file, fetched as it is read."""

    def __init__(self, ranged: RangedFile) -> None:
        super().__init__()
        self._ranged = ranged
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ranged.num_bytes}[whence]
        if start + offset < 0:
            raise OSError("a place before the file's start")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._ranged.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
