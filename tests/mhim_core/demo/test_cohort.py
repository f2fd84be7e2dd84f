import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from mhim_core.demo.cohort import DemoCohort, write_demo_cohort
from mhim_core.errors import ConfigError
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> DemoCohort:
    return write_demo_cohort(tmp_path_factory.mktemp("demo"), num_slides=6, num_new=2, seed=1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_hold_what_was_asked_for(cohort: DemoCohort) -> None:
    rows, new = rows_of(cohort.cohort_csv), rows_of(cohort.new_csv)
    assert (len(rows), len(new)) == (6, 2)
    assert list(rows[0]) == ["slide_id", "path", "patient_id", "label"]
    assert {row["label"] for row in rows} == {"tumour", "normal"}
    assert not {row["patient_id"] for row in rows} & {row["patient_id"] for row in new}
    assert len({row["slide_id"] for row in rows + new}) == 8
    assert all((cohort.cohort_csv.parent / row["path"]).is_file() for row in rows + new)
    assert not any(Path(row["path"]).is_absolute() for row in rows + new)


def test_a_full_cohort_is_balanced_and_has_patients_of_two_slides_with_one_label() -> None:
    from mhim_core.demo.cohort import _rows

    rows = _rows(24, first_patient=1, first_slide=1)
    assert sum(row.label == "tumour" for row in rows) == 12
    labels: dict[str, list[str]] = {}
    for row in rows:
        labels.setdefault(row.patient_id, []).append(row.label)
    assert sorted(len(found) for found in labels.values()) == [1] * 12 + [2] * 6
    assert all(len(set(found)) == 1 for found in labels.values())


def test_every_slide_has_about_55_tiles_and_few_of_them_are_tumour(cohort: DemoCohort) -> None:
    truth = json.loads(cohort.truth_json.read_text())
    for row in rows_of(cohort.cohort_csv):
        path = cohort.cohort_csv.parent / row["path"]
        with prepare_slide(path, spec=TileSpec(), policy=SlidePolicy()) as slide:
            assert slide.mpp == (pytest.approx(0.5), pytest.approx(0.5), "slide")
            assert 40 <= len(slide.plan) <= 75
            centres = slide.plan.coords_l0_px + 128
        foci = truth[row["slide_id"]]["foci"]
        inside = np.zeros(len(centres), bool)
        for focus in foci:
            inside |= Outline(focus["polygon_l0_px"]).contains_points(centres)
        assert (0.02 < inside.mean() < 0.25) if row["label"] == "tumour" else not foci


def test_a_complete_folder_is_left_alone_and_a_broken_one_is_mended(cohort: DemoCohort) -> None:
    folder = cohort.cohort_csv.parent
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert write_demo_cohort(folder, num_slides=6, num_new=2, seed=1) == cohort
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before
    (folder / "slides/demo-0003.tiff").unlink()
    write_demo_cohort(folder, num_slides=6, num_new=2, seed=1, num_threads=1)
    assert {path: path.read_bytes() for path in files} == {path: data for path, (_, data) in before.items()}


def test_another_seed_gives_other_slides(cohort: DemoCohort, tmp_path: Path) -> None:
    other = write_demo_cohort(tmp_path, num_slides=2, num_new=0, seed=2)
    one, two = (made.cohort_csv.parent / "slides/demo-0001.tiff" for made in (cohort, other))
    assert one.read_bytes() != two.read_bytes()
    assert rows_of(other.new_csv) == []


@pytest.mark.parametrize("wrong", [{"num_slides": 1}, {"num_new": -1}, {"num_slides": 10_000}])
def test_a_cohort_that_cannot_be_is_a_config_error(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="num_slides"):
        write_demo_cohort(tmp_path, **wrong)
