"""Which column of the table means what: the names the field's tools use, matched whole and regardless of case.

Times and events are found by name and by what they hold: `cohort.survival`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mhim_core.cohort.findings import quote
from mhim_core.errors import CohortError

ID_NAMES = ("slide_id", "sample_id", "slide")
FILE_NAMES = ("wsi", "filename", "image_path")
"""Some tools put ids there, others file names or paths: what else the table has decides."""
PATH_NAMES = ("path", "uri", "file", "file_path", "filepath", "slide_path")
PATIENT_NAMES = ("patient_id", "patient", "case_id", "pat_id")
LABEL_NAMES = ("label", "target", "class")
MPP_NAMES = ("mpp", "spacing_at_level_0")
SPLIT_NAMES = ("split",)
FOLD_NAMES = ("fold",)
SITE_NAMES = ("site", "center", "centre")
SHA256_NAMES = ("sha256",)

SLIDE_EXTENSIONS = (
    ".ome.tiff",  # before .tiff: the longest match is the extension
    ".ome.tif",
    ".svslide",
    ".isyntax",
    ".qptiff",
    ".tiff",
    ".mrxs",
    ".ndpi",
    ".svs",
    ".tif",
    ".scn",
    ".vms",
    ".vmu",
    ".bif",
    ".dcm",
    ".czi",
    ".vsi",
)


class Columns(NamedTuple):
    """The index of each known column in the header; None: the table has none. Other columns are not read."""

    slide_id: int | None
    path: int | None
    patient_id: int | None
    label: int | None
    mpp: int | None
    split: int | None
    fold: int | None
    site: int | None
    sha256: int | None


def find_columns(header: Sequence[str], table_name: str) -> Columns:
    """Recognise the columns.

    `wsi`, `FILENAME` and `image_path` are the path if another column gives the id, and the id if another gives the
    path; alone they are the slide column, whose values then decide. Raises CohortError for two columns of one meaning.
    """
    named = [cell.strip().casefold() for cell in header]

    def one(names: Sequence[str], meaning: str) -> int | None:
        found = [index for index, name in enumerate(named) if name in names]
        if len(found) > 1:
            columns = ", ".join(quote(header[index]) for index in found)
            raise CohortError(f"{table_name}: columns {columns} all mean the {meaning}: keep one and rename the others")
        return found[0] if found else None

    slide_id, file, path = one(ID_NAMES, "slide id"), one(FILE_NAMES, "slide's file"), one(PATH_NAMES, "path")
    if file is not None:
        if slide_id is not None and path is not None:
            columns = f"{quote(header[slide_id])}, {quote(header[file])} and {quote(header[path])}"
            raise CohortError(f"{table_name}: of columns {columns} two mean the same: keep an id and a path")
        if slide_id is None:
            slide_id = file
        else:
            path = file
    if slide_id is None and path is None:
        columns = ", ".join(quote(cell, 40) for cell in header[:12])
        raise CohortError(
            f"{table_name}: no column names the slides. Found {columns}; expected `path` (and `slide_id`). "
            "If the table has no header line, add one"
        )
    return Columns(
        slide_id=slide_id,
        path=path,
        patient_id=one(PATIENT_NAMES, "patient"),
        label=one(LABEL_NAMES, "label"),
        mpp=one(MPP_NAMES, "resolution"),
        split=one(SPLIT_NAMES, "split"),
        fold=one(FOLD_NAMES, "fold"),
        site=one(SITE_NAMES, "site"),
        sha256=one(SHA256_NAMES, "sha256"),
    )


def strip_extension(name: str) -> str:
    """The name without its slide extension, in any case; other dots stay: `TCGA-05.36ff.svs` → `TCGA-05.36ff`."""
    lower = name.lower()
    for extension in SLIDE_EXTENSIONS:
        if lower.endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)]
    return name


def has_slide_extension(name: str) -> bool:
    """True for a name that ends like a slide file."""
    return strip_extension(name) != name
