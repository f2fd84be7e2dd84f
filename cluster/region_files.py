"""A slide's annotation and mask, read from a disk or an object store where its slide is decoded."""

from cluster.storage import read_bytes
from mhim_core.errors import NotFoundError, SlideError, StorageError
from mhim_core.slides.regions import RegionFiles
from mhim_core.slides.segmenter import SegmenterFile
from mhim_core.types import FailureReason, SlideTask


def region_files(task: SlideTask, segmenter: SegmenterFile | None = None) -> RegionFiles:
    """The contents of the files that the task names. Raises SlideError: NO_ANNOTATION where one is gone, STORAGE."""
    try:
        annotation, mask = (read_bytes(uri) if uri else None for uri in (task.annotation, task.mask))
    except NotFoundError as error:
        raise SlideError(FailureReason.NO_ANNOTATION, f"there is no such file: {error}") from error
    except StorageError as error:
        raise SlideError(FailureReason.STORAGE, str(error)) from error
    return RegionFiles(annotation, mask, segmenter)
