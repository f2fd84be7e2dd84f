import csv
from pathlib import Path

import pytest

from mhim_core.demo.cohort import MIN_SLIDES, DemoCohort, FociKind, write_demo_cohort
from mhim_core.demo.slide import FocusKind
from mhim_core.demo.truth import focus_shares, read_truth
from mhim_core.errors import ConfigError, StorageError
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> DemoCohort:
    return write_demo_cohort(tmp_path_factory.mktemp("demo"), num_slides=MIN_SLIDES, num_new=2, seed=1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_hold_what_was_asked_for(cohort: DemoCohort) -> None:
    rows, new = rows_of(cohort.cohort_csv), rows_of(cohort.new_csv)
    assert (len(rows), len(new)) == (MIN_SLIDES, 2)
    assert list(rows[0]) == ["slide_id", "path", "patient_id", "label", "split"]
    assert {row["label"] for row in new} == {"tumour", "normal"}
    assert not {row["patient_id"] for row in rows} & {row["patient_id"] for row in new}
    assert len({row["slide_id"] for row in rows + new}) == MIN_SLIDES + 2
    assert all((cohort.cohort_csv.parent / row["path"]).is_file() for row in rows + new)
    assert not any(Path(row["path"]).is_absolute() for row in rows + new)


@pytest.mark.parametrize("num_slides", [MIN_SLIDES, 84, 112])
def test_quiet_foci_are_alone_in_the_test_and_never_where_models_learn(num_slides: int) -> None:
    from itertools import cycle, islice

    from mhim_core.demo.cohort import _PATTERN, _slides

    slides = list(_slides(islice(cycle(_PATTERN), num_slides)))
    shown = {split: {slide.shows for slide in slides if slide.row.split == split} for split in ("train", "val", "test")}
    assert shown == {
        "train": {FociKind.none, FociKind.both, FociKind.loud},
        "val": {FociKind.none, FociKind.both, FociKind.loud},
        "test": {FociKind.none, FociKind.quiet, FociKind.loud},
    }
    assert all((slide.row.label == "normal") == (slide.shows is FociKind.none) for slide in slides)
    assert abs(sum(slide.row.label == "tumour" for slide in slides) - num_slides / 2) <= 1
    patients: dict[str, set[tuple[str, str]]] = {}
    for slide in slides:
        patients.setdefault(slide.row.patient_id, set()).add((slide.row.split, slide.row.label))
    assert len(patients) < num_slides  # some have two slides
    assert all(len(slides_shown) == 1 for slides_shown in patients.values())


def test_every_slide_has_about_50_tiles_and_few_of_them_are_tumour(cohort: DemoCohort) -> None:
    truth = read_truth(cohort.truth_json.read_bytes())
    for row in rows_of(cohort.cohort_csv) + rows_of(cohort.new_csv):
        path = cohort.cohort_csv.parent / row["path"]
        with prepare_slide(path, spec=TileSpec(tile_px=128), policy=SlidePolicy()) as slide:
            assert slide.mpp == (pytest.approx(0.5), pytest.approx(0.5), "slide")
            assert 34 <= len(slide.plan) <= 66  # of these 3 % are 2: as many as there are loud foci
            coords = slide.plan.coords_l0_px
        known = truth[row["slide_id"]]
        assert (known.foci == ()) == (row["label"] == "normal") == (known.shows is FociKind.none)
        for kind, most in ((FocusKind.loud, 0.06), (FocusKind.quiet, 0.3)):
            foci = tuple(focus for focus in known.foci if focus.kind is kind)
            assert bool(foci) == (known.shows in (kind, FociKind.both))
            assert not foci or 0.005 < focus_shares(foci, coords, (128, 128)).mean() < most


def test_a_complete_folder_is_left_alone_and_a_broken_one_is_mended(cohort: DemoCohort) -> None:
    folder = cohort.cohort_csv.parent
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert write_demo_cohort(folder, num_slides=MIN_SLIDES, num_new=2, seed=1) == cohort
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before
    (folder / "slides/demo-0003.tiff").unlink()
    write_demo_cohort(folder, num_slides=MIN_SLIDES, num_new=2, seed=1, num_threads=1)
    assert {path: path.read_bytes() for path in files} == {path: data for path, (_, data) in before.items()}


@pytest.mark.thorough
def test_another_seed_gives_other_slides(cohort: DemoCohort, tmp_path: Path) -> None:
    other = write_demo_cohort(tmp_path, num_slides=MIN_SLIDES, num_new=0, seed=2)
    first, second = (made.cohort_csv.parent / "slides/demo-0001.tiff" for made in (cohort, other))
    assert first.read_bytes() != second.read_bytes()
    assert rows_of(other.new_csv) == []


@pytest.mark.parametrize("wrong", [{"num_slides": MIN_SLIDES - 1}, {"num_new": -1}, {"num_slides": 10_000}])
def test_a_cohort_that_cannot_be_is_a_config_error(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="num_slides"):
        write_demo_cohort(tmp_path, **wrong)


@pytest.mark.parametrize("place", ["file", "file/demo"])
def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("here before")
    with pytest.raises(StorageError, match=str(tmp_path / place)):
        write_demo_cohort(tmp_path / place)
    assert (tmp_path / "file").read_text() == "here before"
