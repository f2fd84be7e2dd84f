"""Which column of the table means what: the names the field's tools use, matched whole.

Case, blanks, underscores and other punctuation do not count: `Patient ID` is `patient_id`. A column that an option
names has that meaning and no other. Times and events are found by name and by what they hold: `cohort.survival`.
"""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from mhim_core.cohort.findings import quote
from mhim_core.cohort.task_options import AS_FOUND, PatientUnit, TableOptions
from mhim_core.errors import CohortError

ID_NAMES = ("slide_id", "sample_id", "slide")
FILE_NAMES = ("wsi", "filename", "image_path")
"""Some tools put ids there, others file names or paths: the other columns of the table decide."""
PATH_NAMES = ("path", "uri", "file", "file_path", "filepath", "slide_path")
PATIENT_NAMES = ("patient_id", "patient", "case_id", "pat_id")
LABEL_NAMES = ("label", "target", "class")
MPP_NAMES = ("mpp", "spacing_at_level_0")
SPLIT_NAMES = ("split",)
FOLD_NAMES = ("fold",)
SITE_NAMES = ("site", "center", "centre")
SHA256_NAMES = ("sha256",)
ANNOTATION_NAMES = ("annotation",)
MASK_NAMES = ("mask",)
KNOWN_NAMES = (
    *(*ID_NAMES, *FILE_NAMES, *PATH_NAMES, *PATIENT_NAMES, *LABEL_NAMES, *MPP_NAMES, *SPLIT_NAMES, *FOLD_NAMES),
    *(*SITE_NAMES, *SHA256_NAMES, "id", "train", "val", "test", "time", "event"),
)
"""What identifies a header line."""

SLIDE_EXTENSIONS = (
    ".ome.tiff",  # before .tiff: the longest match is the extension
    ".ome.tif",
    ".ome.zarr",
    ".svslide",
    ".zarr",
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
    annotation: int | None = None
    mask: int | None = None


_PATIENT_WORDS = ("patient", "subject", "participant", "donor", "proband")
"""Parts of names that indicate patients, also inside a word: `PatientNr`."""
_PATIENT_TOKENS = frozenset({"case", "mrn", "pid", "submitter", "person", "individual"})
"""Whole words that indicate patients."""
_ATTRIBUTES = frozenset(
    {
        *(
            "age",
            "sex",
            "gender",
            "race",
            "ethnicity",
            "status",
            "stage",
            "grade",
            "survival",
            "weight",
            "height",
            "bmi",
        ),
        *("smoking", "diagnosis", "description", "comment", "comments", "note", "notes", "history", "date", "year"),
        *("type", "count", "num", "label", "class", "target", "consent", "country"),
    }
)
"""Attributes of a patient, such as `patient_age`: columns with these words name no patients."""


def column_key(name: str) -> str:
    """Equal for all spellings of one name: `Patient ID`, `patientID`, `PATIENT_ID` → `patientid`."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum())


def is_named(cell: str, names: Sequence[str]) -> bool:
    """True for a header cell that is one of the names, however it is spelt."""
    return column_key(cell) in {column_key(name) for name in names}


def named_column(header: Sequence[str], name: str, key: str, table_name: str) -> int:
    """The index of the column that the option `key` names: as it is written, else by its letters and digits.

    Raises CohortError where there is none, with the nearest name, or where several fit.
    """
    wanted = name.strip()
    matches = [index for index, cell in enumerate(header) if cell.strip() == wanted]
    matches = matches or [index for index, cell in enumerate(header) if column_key(cell) == column_key(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        columns = ", ".join(quote(header[index]) for index in matches)
        raise CohortError(f"{table_name}: {key}={name} could be each of the columns {columns}: rename all but one")
    close = difflib.get_close_matches(wanted.casefold(), [cell.casefold() for cell in header], n=1)
    nearest = next((f"; the nearest is {quote(cell)}" for cell in header if cell.casefold() in close), "")
    columns = ", ".join(quote(cell, 40) for cell in header[:12])
    raise CohortError(f"{table_name}: {key}={name}: there is no such column{nearest}. It has {columns}")


def find_columns(header: Sequence[str], table_name: str, options: TableOptions = AS_FOUND) -> Columns:
    """Recognise the columns.

    `wsi`, `FILENAME` and `image_path` are the path if another column gives the id, and the id if another gives the
    path; alone they are the slide column, whose values then decide. Raises CohortError for two columns of one meaning,
    for a column that an option names and that is not there, and for one that seems to name the patients and is not
    read.
    """
    search = _Search(header, table_name, options)
    slide_id, path = search.slide_columns()
    patient_id = search.column(PATIENT_NAMES, "patient", "patient_column")
    if options.patients is PatientUnit.slides:
        patient_id = None
    elif patient_id is None and (likely := likely_patient_columns(header)):
        columns = ", ".join(quote(name) for name in likely)
        raise CohortError(
            f"{table_name}: {columns} seems to name the patients, and is none of the names that are read "
            f"({', '.join(PATIENT_NAMES)}): set patient_column={likely[0]}, or patients=slides if every slide is a "
            "patient of its own"
        )
    target = options.label_column or not (options.time_column or options.event_column)
    return Columns(
        slide_id=slide_id,
        path=path,
        patient_id=patient_id,
        label=search.column(LABEL_NAMES, "label", "label_column") if target else None,
        mpp=search.column(MPP_NAMES, "resolution"),
        split=search.column(SPLIT_NAMES, "split"),
        fold=search.column(FOLD_NAMES, "fold"),
        site=search.column(SITE_NAMES, "site"),
        sha256=search.column(SHA256_NAMES, "sha256"),
        annotation=search.column(ANNOTATION_NAMES, "annotation"),
        mask=search.column(MASK_NAMES, "mask"),
    )


def likely_patient_columns(header: Sequence[str]) -> list[str]:
    """The columns whose names indicate patients (`patient_number`, `bcr_patient_barcode`, `MRN`), not their age."""
    likely = []
    for cell in header:
        words = [word.casefold() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])", cell)]
        tells = any(word in column_key(cell) for word in _PATIENT_WORDS) or not _PATIENT_TOKENS.isdisjoint(words)
        if tells and _ATTRIBUTES.isdisjoint(words):
            likely.append(cell)
    return likely


class _Search:
    """Looks for one meaning after another in a header."""

    def __init__(self, header: Sequence[str], table_name: str, options: TableOptions) -> None:
        self.header = header
        self.table_name = table_name
        self.options = options
        self.keys = [column_key(cell) for cell in header]
        self.named = {key: named_column(header, name, key, table_name) for key, name in options.named_columns().items()}

    def column(self, names: Sequence[str], meaning: str, option: str = "") -> int | None:
        """The column that the option names, else the one of these names that no option names for something else."""
        if option in self.named:
            return self.named[option]
        wanted, taken = {column_key(name) for name in names}, set(self.named.values())
        matches = [index for index, key in enumerate(self.keys) if key in wanted and index not in taken]
        if len(matches) > 1:
            columns = ", ".join(quote(self.header[index]) for index in matches)
            advice = f"; {option}= names the one that counts" if option else ""
            raise CohortError(
                f"{self.table_name}: columns {columns} all mean the {meaning}: keep one and rename the others{advice}"
            )
        return matches[0] if matches else None

    def slide_columns(self) -> tuple[int | None, int | None]:
        """The columns of the id and of the path."""
        if "id_column" in self.named:
            own = self.named["id_column"]
            path = self.column((*PATH_NAMES, *FILE_NAMES), "path")
            is_path = path is None and is_named(self.header[own], PATH_NAMES)
            return own, own if is_path else path
        slide_id = self.column(ID_NAMES, "slide id", "id_column")
        file, path = self.column(FILE_NAMES, "slide's file"), self.column(PATH_NAMES, "path")
        if file is not None:
            if slide_id is not None and path is not None:
                columns = ", ".join(quote(self.header[index]) for index in (slide_id, file))
                columns += f" and {quote(self.header[path])}"
                raise CohortError(f"{self.table_name}: of columns {columns} two mean the same: keep an id and a path")
            if slide_id is None:
                slide_id = file
            else:
                path = file
        if slide_id is None and path is None:
            columns = ", ".join(quote(cell, 40) for cell in self.header[:12])
            raise CohortError(
                f"{self.table_name}: no column names the slides. Found {columns}; expected `path` (and `slide_id`). "
                "If the table has no header line, add one; id_column= names a column of ids"
            )
        return slide_id, path


def strip_extension(name: str) -> str:
    """The name without its slide extension, in any case; other dots stay: `TCGA-05.36ff.svs` → `TCGA-05.36ff`."""
    lower = name.lower()
    for extension in SLIDE_EXTENSIONS:
        if lower.endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)]
    return name


def strip_feature_extension(name: str) -> str:
    """The name without the extension of a file of features: tables of other tools list these for slides."""
    stem, dot, extension = name.rpartition(".")
    return stem if stem and dot and extension.lower() in ("h5", "hdf5", "pt") else name


def has_slide_extension(name: str) -> bool:
    """True for a name that ends like a slide file."""
    return strip_extension(name) != name
