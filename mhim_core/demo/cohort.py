"""The demo cohort on disk: slides, the two tables a user would bring, and the truth to compare with.

Nearly all tumour slides to train on hold loud foci, which settle the label, and quiet ones beside them; a few hold loud
ones alone. The test patients are others: with quiet foci alone, with loud ones alone, with none. The table's split
column keeps them apart.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.demo.slide import MPP, Focus, paint_slide
from mhim_core.demo.texture import fibres, glands
from mhim_core.errors import ConfigError, StorageError
from mhim_core.fingerprint import canonical_json

GENERATOR_VERSION = 2
"""Raised whenever the same parameters would give other pixels or tables."""
LABELS = ("normal", "tumour")
MIN_SLIDES = 28
"""With fewer, a part of the split would lack one kind of slide."""
_MARKER = "demo.json"
_NUM_THREADS = 2
_MAX_SLIDES = 9999


class DemoCohort(NamedTuple):
    """Where everything lies."""

    cohort_csv: Path
    """slide_id, path (relative to the table), patient_id, label, split: the slides to train, choose and test on."""
    new_csv: Path
    """The same columns, split empty: other patients, to predict."""
    truth_json: Path
    """Per slide: label, what it shows, the kinds and outlines of its tumour foci in level-0 pixels (`demo.truth`)."""


class FociKind(StrEnum):
    """Which tumour foci a slide shows."""

    none = "none"
    both = "both"
    quiet = "quiet"
    loud = "loud"


class _Row(NamedTuple):
    """One slide of the cohort, as the table has it."""

    slide_id: str
    path: str
    patient_id: str
    label: str
    split: str


class _Slide(NamedTuple):
    row: _Row
    shows: FociKind


class _Turn(NamedTuple):
    """One slide of the pattern that a cohort repeats."""

    split: str
    shows: FociKind
    same_patient: bool = False
    """As the slide before it."""


_HALF = (
    _Turn("train", FociKind.none),
    _Turn("train", FociKind.both),
    _Turn("val", FociKind.none),
    _Turn("val", FociKind.both),
    _Turn("test", FociKind.none),
    _Turn("test", FociKind.quiet),
    _Turn("train", FociKind.none),
    _Turn("train", FociKind.none, same_patient=True),
    _Turn("train", FociKind.both),
    _Turn("train", FociKind.both, same_patient=True),
    _Turn("test", FociKind.none),
    _Turn("test", FociKind.loud),
    _Turn("test", FociKind.none),
    _Turn("test", FociKind.quiet),
)
_PATTERN = (
    *_HALF,
    _Turn("train", FociKind.none),
    _Turn("train", FociKind.loud),
    _Turn("val", FociKind.none),
    _Turn("val", FociKind.loud),
    *_HALF[4:],
)
"""Loud foci alone in validation as well, or the epoch would be chosen without asking whether they are still known."""
_NEW = (_Turn("", FociKind.none), _Turn("", FociKind.quiet), _Turn("", FociKind.none), _Turn("", FociKind.both))


def write_demo_cohort(
    folder: str | Path, *, num_slides: int = 84, num_new: int = 6, seed: int = 0, num_threads: int = _NUM_THREADS
) -> DemoCohort:
    """Write `num_slides` slides to train, choose and test on (3 : 1 : 3) and `num_new` of other patients.

    Half of each have tumour. Deterministic in `seed`, whatever the number of threads. A folder that already holds
    exactly this cohort is left alone: its marker, written last, names the generator's version and parameters. About 50
    tiles of 128 px a slide at 0.5 µm/px, 0.3 MB and a fifth of a second each. Raises ConfigError for fewer than
    MIN_SLIDES slides or a negative number, StorageError where a file is in the way of the folder.
    """
    if not MIN_SLIDES <= num_slides <= _MAX_SLIDES or not 0 <= num_new <= _MAX_SLIDES - num_slides:
        raise ConfigError(
            f"num_slides is {num_slides} and num_new {num_new}; set at least {MIN_SLIDES} and 0, {_MAX_SLIDES} in all"
        )
    folder = Path(folder)
    cohort = DemoCohort(folder / "cohort.csv", folder / "new.csv", folder / "truth.json")
    parameters = {"generator": GENERATOR_VERSION, "num_slides": num_slides, "num_new": num_new, "seed": seed}
    slides = list(_slides(islice(cycle(_PATTERN), num_slides), islice(cycle(_NEW), num_new)))
    marker = folder / _MARKER
    if _is_complete(marker, parameters, [*cohort, *(folder / slide.row.path for slide in slides)]):
        return cohort
    try:
        (folder / "slides").mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StorageError(f"cannot write below {folder}: a file is in the way") from None
    marker.unlink(missing_ok=True)
    fibres(), glands()  # drawn once, before threads would each draw them
    with ThreadPoolExecutor(num_threads) as pool:
        generators = [np.random.default_rng([seed, index]) for index in range(len(slides))]
        foci = list(pool.map(partial(_write_slide, folder), slides, generators))
    _write_table(cohort.cohort_csv, slides[:num_slides])
    _write_table(cohort.new_csv, slides[num_slides:])
    truth = {slide.row.slide_id: _truth(slide, shown) for slide, shown in zip(slides, foci, strict=True)}
    cohort.truth_json.write_text(json.dumps(truth, indent=1, sort_keys=True) + "\n")
    marker.write_bytes(canonical_json(parameters))
    return cohort


def _slides(*patterns: Iterable[_Turn]) -> Iterator[_Slide]:
    """Slides and patients numbered on through the patterns."""
    patient = 0
    for index, turn in enumerate((turn for pattern in patterns for turn in pattern), start=1):
        patient += not turn.same_patient
        slide_id = f"demo-{index:04d}"
        label = LABELS[turn.shows is not FociKind.none]
        yield _Slide(_Row(slide_id, f"slides/{slide_id}.tiff", f"P{patient:04d}", label, turn.split), turn.shows)


def _is_complete(marker: Path, parameters: dict[str, int], files: list[Path]) -> bool:
    return marker.is_file() and marker.read_bytes() == canonical_json(parameters) and all(f.is_file() for f in files)


def _write_slide(folder: Path, slide: _Slide, rng: np.random.Generator) -> tuple[Focus, ...]:
    shows = slide.shows
    painted = paint_slide(
        rng, loud=shows in (FociKind.loud, FociKind.both), quiet=shows in (FociKind.quiet, FociKind.both)
    )
    write_pyramid(folder / slide.row.path, painted.pixels, mpp=(MPP, MPP))
    return painted.foci


def _write_table(path: Path, slides: list[_Slide]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_Row._fields)
    writer.writerows(slide.row for slide in slides)
    path.write_text(text.getvalue())


def _truth(slide: _Slide, foci: tuple[Focus, ...]) -> dict[str, object]:
    return {
        "label": slide.row.label,
        "shows": slide.shows,
        "mpp": MPP,
        "foci": [{"kind": focus.kind, "polygon_l0_px": focus.outline} for focus in foci],
    }
