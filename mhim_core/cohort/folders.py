"""A folder of slides as a cohort: the table of its slide files."""

import csv
import io
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from mhim_core.cohort.columns import has_slide_extension
from mhim_core.cohort.order import natural_key
from mhim_core.errors import CohortError

_IN_ZARR = re.compile(r".*?\.zarr(?=/)", re.IGNORECASE)


class FolderTable(NamedTuple):
    """A table of the one column `path`, as CSV, and what was left out."""

    data: bytes
    notes: tuple[str, ...]


def slide_keys(keys: Iterable[str]) -> list[str]:
    """The keys, with those inside a folder that is a slide (OME-Zarr) replaced by that folder, once."""
    return list(dict.fromkeys(match[0] if (match := _IN_ZARR.match(key)) else key for key in keys))


def folder_table(keys: Iterable[str], name: str) -> FolderTable:
    """The slide files among the keys (paths below the folder) in natural order.

    Of a folder of DICOM files, which are parts of one slide, the first stands for all. Raises CohortError where there
    is no slide.
    """
    files = slide_keys(keys)
    slides = [key for key in files if has_slide_extension(posixpath.basename(key))]
    if not files:
        raise CohortError(f"cohort={name}: this folder holds no files")
    if not slides:
        raise CohortError(f"cohort={name}: none of the {len(files)} files of this folder is a slide by its extension")
    parts: dict[str, list[str]] = defaultdict(list)
    for key in sorted(slides, key=natural_key):
        if key.lower().endswith(".dcm"):
            parts[posixpath.dirname(key)].append(key)
    first = {keys[0] for keys in parts.values()}
    listed = [key for key in slides if not key.lower().endswith(".dcm") or key in first]
    notes = [f"{name}: {len(listed)} slides found in this folder"]
    if num_parts := len(slides) - len(listed):
        notes.append(f"{name}: {num_parts} further .dcm files beside the first of their folder are taken for its parts")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")  # it is read back as it stands, and given to nobody
    writer.writerow(["path"])
    writer.writerows(
        [key if not key.startswith(tuple("=+-@")) else f"./{key}"] for key in sorted(listed, key=natural_key)
    )
    return FolderTable(table.getvalue().encode(), tuple(notes))
