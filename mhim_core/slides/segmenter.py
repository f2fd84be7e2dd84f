"""A user's own tissue finder, from a file that can be named on the command line only: the way in for learned ones.

The file defines `find_tissue(pixels)`: of a slide's thumbnail at 8 µm/px, uint8 (rows, columns, 3), RGB on white, it
returns where tissue is, bool (rows, columns). It is executed, so it needs the trust of a command: no cohort, model card
or stored configuration can name one; they only state the sha256 that the user's file must have.
"""

import functools
import sys
import types
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mhim_core.errors import InputError
from mhim_core.fingerprint import sha256
from mhim_core.slides.annotations import bad_annotation
from mhim_core.storage import read_file
from mhim_core.user_code import MAX_BYTES, failing_line, failing_words

FUNCTION = "find_tissue"


class SegmenterFile(NamedTuple):
    """A file that was read; picklable."""

    source: bytes
    file_name: str
    """For messages alone."""

    @property
    def sha256(self) -> str:
        """Its identity: `TileSpec.tissue_sha256`."""
        return sha256(self.source)


def read_segmenter(path: str) -> SegmenterFile:
    """Read and run the file at a local path. Raises InputError if it cannot be read or defines no such function."""
    try:
        file = SegmenterFile(read_file(path, MAX_BYTES), path)
    except OSError as error:
        raise InputError(f"tissue_file={path} cannot be read: {error.strerror}") from error
    _load(*file)
    return file


def segment(file: SegmenterFile | None, expected_sha256: str, pixels: np.ndarray) -> np.ndarray:
    """The file's tissue in a thumbnail at 8 µm/px, bool (rows, columns).

    Raises SlideError(bad_annotation) where the function fails or returns something else, InputError where the file is
    not the one that the tiling names.
    """
    if file is None or file.sha256 != expected_sha256:
        raise InputError(f"the tissue is found by the file with sha256 {expected_sha256}; give it with tissue_file=")
    find = _load(*file)
    shown = pixels.copy()
    try:
        found = np.asarray(find(shown))
    except (Exception, SystemExit) as error:
        place = f"{file.file_name}{failing_line(error, file.file_name)}"
        raise bad_annotation(f"tissue_file={place}: {failing_words(error)}") from error
    if found.dtype != bool or found.shape != pixels.shape[:2]:
        raise bad_annotation(
            f"tissue_file={file.file_name}: {FUNCTION} returned {found.dtype} {found.shape}, not bool "
            f"{pixels.shape[:2]}"
        )
    return found


@functools.lru_cache(maxsize=4)
def _load(source: bytes, file_name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Run the file as a module of its own, once a process. Raises InputError with the file's line where it fails."""
    module = types.ModuleType(f"mhim_segmenter_{sha256(source)[:16]}")
    module.__file__ = file_name
    sys.modules[module.__name__] = module  # dataclasses, pickle and annotations look their module up
    try:
        exec(compile(source, file_name, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        line = failing_line(error, file_name)
        raise InputError(f"tissue_file={file_name}{line}: {failing_words(error)}") from error
    find = getattr(module, FUNCTION, None)
    if not callable(find):
        raise InputError(f"tissue_file={file_name}: it defines no function {FUNCTION}(pixels)")
    made: Callable[[np.ndarray], np.ndarray] = find
    return made
