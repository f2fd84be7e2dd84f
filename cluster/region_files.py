"""What a slide needs beside itself, read from a disk or an object store where it is decoded.

Annotation, mask, the places of its tiles, the features by which some of them are chosen.
"""

import posixpath
from collections.abc import Callable

from cluster.storage import read_bytes
from cluster.tile_selection import TileSelection, chosen_digest, chosen_tiles
from mhim_core.errors import ConfigError, NotFoundError, SlideError, StorageError
from mhim_core.fingerprint import fingerprint, sha256
from mhim_core.slides.places import TilePlaces
from mhim_core.slides.regions import RegionFiles
from mhim_core.slides.segmenter import SegmenterFile
from mhim_core.types import FailureReason, SlideTask


def region_files(
    task: SlideTask,
    segmenter: SegmenterFile | None = None,
    tile_size_l0_px: int | None = None,
    selection: TileSelection | None = None,
    read: Callable[[str, bytes, int | None], TilePlaces] | None = None,
) -> RegionFiles:
    """The contents of the files that the task names.

    `tile_size_l0_px`: of files of places that do not state it; `selection`: how tiles are chosen, None where that need
    not be known yet; `read`: reads a file of places instead of `read_places`. Raises SlideError: NO_ANNOTATION where a
    file is gone, BAD_ANNOTATION, STORAGE.
    """
    try:
        annotation, mask, places = (
            read_bytes(uri) if uri else None for uri in (task.annotation, task.mask, task.places)
        )
        chosen = None if selection is None or not task.chosen_by else chosen_tiles(task, selection)
    except NotFoundError as error:
        raise SlideError(FailureReason.NO_ANNOTATION, f"there is no such file: {error}") from error
    except StorageError as error:
        raise SlideError(FailureReason.STORAGE, str(error)) from error
    tile_places = None if places is None else (read or read_places)(task.places, places, tile_size_l0_px)
    return RegionFiles(annotation, mask, segmenter, tile_places, chosen, chosen_digest(task))


def read_places(uri: str, data: bytes, tile_size_l0_px: int | None) -> TilePlaces:
    """A file's places. Raises SlideError(bad_annotation), also where neither it nor the key states the tile's size."""
    from mhim_core.store.foreign.coordinates import read_coordinates

    try:
        stated = read_coordinates(posixpath.basename(uri), data)
    except ConfigError as error:  # h5py is missing on this node
        raise SlideError(FailureReason.BAD_ANNOTATION, str(error)) from error
    size = stated.tile_size_l0_px
    if size is not None and tile_size_l0_px not in (None, size):
        raise SlideError(
            FailureReason.BAD_ANNOTATION,
            f"its tiles have {size} level-0 pixels, and tile_size_l0_px= says {tile_size_l0_px}",
        )
    size = size or tile_size_l0_px
    if not size:
        raise SlideError(
            FailureReason.BAD_ANNOTATION,
            "it does not state the size of a tile; tile_size_l0_px= says it, in level-0 pixels",
        )
    digest = fingerprint({"file": sha256(data), "tile_size_l0_px": size})
    return TilePlaces(stated.coords_l0_px, size, stated.slide_size_l0_px, digest)
