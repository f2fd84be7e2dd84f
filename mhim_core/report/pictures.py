"""Where a page's pictures lie: in files beside it, or inside; and how many bytes each may take."""

import base64
import hashlib
import re
from typing import NamedTuple, Protocol

from mhim_core.report.images import is_long, media_type, picture_size

_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
EXTENSIONS = tuple(_EXTENSIONS.values())
"""Of the files that a page's pictures are in."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PAGE_ITSELF_BYTES, _MARKUP_BYTES = 700_000, 2_500
"""Text, tables and figures of a page, and the text of one slide."""
_INSIDE = 3 / 4
"""Base64 writes three bytes as four."""


class PlacedPicture(NamedTuple):
    """A picture as an `img` element has it."""

    src: str
    width: int
    height: int
    long: bool
    """Whether it has a scroll bar of its own."""


class Pictures(Protocol):
    """Takes the pictures of one page."""

    folder: str
    """Of the files beside the page; empty: they are inside."""

    def place(self, kind: str, name: str, data: bytes) -> PlacedPicture:
        """`kind` and `name` say what it shows, such as attention and a slide's id; together they are unique on a page.

        Raises ValueError for what is no PNG, JPEG or WebP.
        """
        ...


class PicturesInside:
    """One file: every picture is part of the page's text."""

    folder = ""

    def place(self, kind: str, name: str, data: bytes) -> PlacedPicture:
        """A data URI."""
        return _placed(f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}", data)


class PicturesBeside:
    """Files below `folder`, which lies beside the page: `folder/kind/name.webp`, so that a slide's have its name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}
        """By their key, relative to the page's own folder."""

    def place(self, kind: str, name: str, data: bytes) -> PlacedPicture:
        """A relative address. A name that is no plain file name is replaced by a digest of it."""
        stem = name if _PLAIN_NAME.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:32]
        key = f"{self.folder}/{kind}/{stem}.{_EXTENSIONS[media_type(data)]}"
        if self.files.get(key, data) != data:
            raise ValueError(f"two pictures of a page would be written to {key}")
        self.files[key] = data
        return _placed(key, data)


def bytes_per_slide(page_mb: float, num_slides: int, *, inside: bool) -> int:
    """What the pictures of one slide may take, so that a page of `num_slides` stays below `page_mb` (10⁶ bytes each)
    with its pictures. At least 1: however many there are, each is drawn, if need be too small to be of use."""
    share = (page_mb * 1e6 - _PAGE_ITSELF_BYTES) / max(1, num_slides) - _MARKUP_BYTES
    return max(1, int(share * (_INSIDE if inside else 1)))


def _placed(src: str, data: bytes) -> PlacedPicture:
    size = picture_size(data)
    return PlacedPicture(src, size.width, size.height, is_long(size))
