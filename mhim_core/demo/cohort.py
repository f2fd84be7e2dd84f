"""The demo cohort on disk: slides, the two tables a user would bring, and the truth to compare with."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.demo.slide import MPP, Polygon, paint_slide
from mhim_core.demo.texture import fibres, glands
from mhim_core.errors import ConfigError
from mhim_core.fingerprint import canonical_json

GENERATOR_VERSION = 1
"""Raised whenever the same parameters would give other pixels or tables."""
LABELS = ("normal", "tumour")
_MARKER = "demo.json"
_NUM_THREADS = 2
_MAX_SLIDES = 9999


class DemoCohort(NamedTuple):
    """Where everything lies."""

    cohort_csv: Path
    """slide_id, path (relative to the table), patient_id, label: the slides to train on."""
    new_csv: Path
    """The same columns; other patients, held out."""
    truth_json: Path
    """Per slide: label and the outlines of its tumour foci in level-0 pixels."""


class _Row(NamedTuple):
    """One slide of the cohort."""

    slide_id: str
    path: str
    patient_id: str
    label: str


def write_demo_cohort(
    folder: str | Path, *, num_slides: int = 24, num_new: int = 8, seed: int = 0, num_threads: int = _NUM_THREADS
) -> DemoCohort:
    """Write `num_slides` slides to train on and `num_new` of other patients, half of each with tumour.

    Deterministic in `seed`, whatever the number of threads. A folder that already holds exactly this cohort is left
    alone: its marker, written last, names the generator's version and parameters. About 55 tiles of 256 px a slide at
    0.5 µm/px, 1 MB and half a second each. Raises ConfigError for fewer than 2 slides or a negative number.
    """
    if not 2 <= num_slides <= _MAX_SLIDES or not 0 <= num_new <= _MAX_SLIDES - num_slides:
        raise ConfigError(
            f"num_slides is {num_slides} and num_new {num_new}; set at least 2 and 0, {_MAX_SLIDES} in all"
        )
    folder = Path(folder)
    cohort = DemoCohort(folder / "cohort.csv", folder / "new.csv", folder / "truth.json")
    parameters = {"generator": GENERATOR_VERSION, "num_slides": num_slides, "num_new": num_new, "seed": seed}
    rows = _rows(num_slides, first_patient=1, first_slide=1)
    num_patients = len({row.patient_id for row in rows})
    new_rows = _rows(num_new, first_patient=num_patients + 1, first_slide=num_slides + 1)
    marker = folder / _MARKER
    if _is_complete(marker, parameters, [*cohort, *(folder / row.path for row in rows + new_rows)]):
        return cohort
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    fibres(), glands()  # drawn once, before threads would each draw them
    with ThreadPoolExecutor(num_threads) as pool:
        generators = [np.random.default_rng([seed, index]) for index in range(num_slides + num_new)]
        foci = list(pool.map(partial(_write_slide, folder), rows + new_rows, generators))
    _write_table(cohort.cohort_csv, rows)
    _write_table(cohort.new_csv, new_rows)
    truth = {row.slide_id: _truth(row, outlines) for row, outlines in zip(rows + new_rows, foci, strict=True)}
    cohort.truth_json.write_text(json.dumps(truth, indent=1, sort_keys=True) + "\n")
    marker.write_bytes(canonical_json(parameters))
    return cohort


def _rows(num_slides: int, first_patient: int, first_slide: int) -> list[_Row]:
    """Labels alternate by patient; of every six patients two, one of each label, have two slides."""
    rows: list[_Row] = []
    patient = 0
    while len(rows) < num_slides:
        for _ in range(2 if (patient // 2) % 3 == 2 else 1):
            slide_id = f"demo-{first_slide + len(rows):04d}"
            rows.append(
                _Row(slide_id, f"slides/{slide_id}.tiff", f"P{first_patient + patient:04d}", LABELS[patient % 2])
            )
        patient += 1
    return rows[:num_slides]


def _is_complete(marker: Path, parameters: dict[str, int], files: list[Path]) -> bool:
    return marker.is_file() and marker.read_bytes() == canonical_json(parameters) and all(f.is_file() for f in files)


def _write_slide(folder: Path, row: _Row, rng: np.random.Generator) -> tuple[Polygon, ...]:
    slide = paint_slide(rng, has_tumour=row.label == "tumour")
    write_pyramid(folder / row.path, slide.pixels, mpp=(MPP, MPP))
    return slide.foci


def _write_table(path: Path, rows: list[_Row]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_Row._fields)
    writer.writerows(rows)
    path.write_text(text.getvalue())


def _truth(row: _Row, foci: tuple[Polygon, ...]) -> dict[str, object]:
    return {"label": row.label, "mpp": MPP, "foci": [{"polygon_l0_px": focus.points} for focus in foci]}
