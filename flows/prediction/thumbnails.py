"""Small pictures of slides, where their files can be read."""

from collections.abc import Iterable, Iterator

from cluster.storage import download
from mhim_core.errors import NotFoundError, SlideError
from mhim_core.features import MppUsed
from mhim_core.printable import one_line
from mhim_core.report.images import encode_jpeg
from mhim_core.slides.reader import open_slide
from mhim_core.slides.staging import staged

SIDE_PX = 320


def thumbnails(slides: Iterable[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """(name, JPEG) of each (name, path or `s3://` URI) that can be read; the others are told."""
    for name, uri in slides:
        try:
            with staged(uri, download) as path, open_slide(path) as reader:
                info = reader.info()
                scan = MppUsed(1.0, 1.0, "pixels")  # the scan's own proportions will do
                longest = max(info.width_l0_px, info.height_l0_px)
                pixels = reader.thumbnail(scan, max(1.0, longest / SIDE_PX)).pixels
        except (SlideError, NotFoundError) as error:
            print(f"{name}: no thumbnail, {one_line(error)}")
            continue
        yield name, encode_jpeg(pixels)
