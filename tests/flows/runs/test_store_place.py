"""A project that is moved: its run leads to its store, and nothing is written where it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flows.prediction.predictor import Predictor
from flows.runs.folder import Run, read_run
from flows.runs.store_place import find_store
from mhim_core.errors import InputError, IntegrityError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.storage import LocalStorage
from mhim_core.store.layout import manifest_key

FEATURES = "f" * 64


class Project(NamedTuple):
    folder: Path

    @property
    def run(self) -> LocalStorage:
        return LocalStorage(self.folder / "runs/first")

    @property
    def store(self) -> LocalStorage:
        return LocalStorage(self.folder / "features")

    def moved(self, folder: Path) -> "Project":
        shutil.move(self.folder, folder)
        return Project(folder)


MANIFEST = b"a manifest"


def record_of(**more: str) -> dict[str, Any]:
    return {
        "identity": {"feature_set": FEATURES},
        "manifest": {"version": 1, "sha256": sha256(MANIFEST)},
        "config": {"out": "runs/first"},
    } | more


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "A")
    made.store.put(manifest_key(FEATURES, 1), MANIFEST)
    made.run.put("run.json", b"")
    return made


def new_record(project: Project) -> dict[str, Any]:
    from flows.runs.store_place import recorded_places

    return record_of(**recorded_places(project.run, project.store))


def old_record(project: Project) -> dict[str, Any]:
    """As version 0.1 wrote it: one absolute place."""
    return record_of(store=project.store.uri)


def test_the_store_is_recorded_relative_to_the_run(project: Project) -> None:
    assert new_record(project)["store"] == "../../features"


@pytest.mark.parametrize("record_at", [new_record, old_record])
def test_a_project_that_stays_has_its_store(
    project: Project, record_at: Callable[[Project], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    place = find_store(project.run, record_at(project))
    assert (place.uri, place.is_own) == (project.store.uri, True)
    assert capsys.readouterr().out == ""


def test_a_moved_project_has_its_store_beside_it(project: Project, tmp_path: Path) -> None:
    record, moved = new_record(project), project.moved(tmp_path / "B")
    place = find_store(moved.run, record)
    assert (place.uri, place.is_own) == (moved.store.uri, True)
    assert not project.folder.exists()


def test_a_copied_project_reads_its_own_store_and_not_the_original_s(project: Project, tmp_path: Path) -> None:
    record = new_record(project)
    shutil.copytree(project.folder, tmp_path / "B")
    copy = Project(tmp_path / "B")
    assert find_store(copy.run, record).uri == copy.store.uri


def test_an_old_run_that_was_moved_finds_its_store_nearby_and_says_so(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, moved = old_record(project), project.moved(tmp_path / "B")
    place = find_store(moved.run, record)
    assert (place.uri, place.is_own) == (moved.store.uri, False)
    assert moved.store.uri in capsys.readouterr().out


def test_a_run_that_left_its_store_reads_it_but_does_not_own_it(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = new_record(project)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(project.run.root, tmp_path / "elsewhere/first")
    place = find_store(LocalStorage(tmp_path / "elsewhere/first"), record)
    assert (place.uri, place.is_own) == (project.store.uri, False)
    assert project.store.uri in capsys.readouterr().out


@pytest.mark.parametrize("record_at", [new_record, old_record])
def test_a_store_that_is_gone_is_asked_for(project: Project, record_at: Callable[[Project], dict[str, Any]]) -> None:
    record = record_at(project)
    shutil.move(project.store.root, project.folder / "renamed")
    with pytest.raises(InputError, match="store="):
        find_store(project.run, record)
    assert find_store(project.run, record, named=f"{project.folder}/renamed").is_own
    assert find_store(project.run, record, spare=f"{project.folder}/renamed").uri == f"{project.folder}/renamed"


def test_a_store_of_other_features_is_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold the features"):
        find_store(project.run, new_record(project), named=str(tmp_path / "other"))


def test_a_folder_of_the_right_name_with_another_manifest_is_not_taken(project: Project, tmp_path: Path) -> None:
    record, moved = old_record(project), project.moved(tmp_path / "B")
    LocalStorage(tmp_path / "B/runs/features").put(manifest_key(FEATURES, 1), b"another")
    assert find_store(moved.run, record).uri == moved.store.uri


# through the commands

Mhim = Callable[..., Any]


@pytest.fixture
def trained(
    mhim: Mhim, train_here: None, write_table: Callable[..., Path], cohort_rows: Any, made_store: Any, tmp_path: Path
) -> Path:
    """A project A: my.csv, store, run."""
    rows = cohort_rows(neg=6, pos=6)
    store = made_store([row["slide_id"] for row in rows])
    (tmp_path / "A").mkdir()
    table = write_table(rows, "A/my.csv")
    shutil.move(store.removeprefix("store="), tmp_path / "A/store")
    words = (f"cohort={table}", f"store={tmp_path}/A/store", f"out={tmp_path}/A/run")
    ended = mhim("train", *words, "method=plain", "epochs=2", "folds=2")
    assert ended.code == 0, ended
    return tmp_path / "A"


def move(trained: Path, *, old: bool) -> Path:
    """The project at B; `old`: with the record that version 0.1 would have written."""
    if old:
        record = json.loads((trained / "run/run.json").read_text())
        record["store"] = str(trained / "store")
        del record["place"]
        (trained / "run/run.json").write_bytes(canonical_json(record))
    moved = trained.parent / "B"
    trained.rename(moved)
    return moved


@pytest.mark.parametrize("old", [False, True])
def test_commands_go_on_in_a_moved_project_and_leave_the_old_place_alone(
    mhim: Mhim, no_ray: None, trained: Path, old: bool
) -> None:
    before = read_run(f"{trained}/run")
    moved = move(trained, old=old)
    run: Run = read_run(f"{moved}/run")
    assert run.record["fingerprint"] == before.record["fingerprint"]
    assert mhim("evaluate", f"run={moved}/run").code == 0
    assert mhim("report", f"run={moved}/run", "max_heatmaps=0").code == 0
    assert mhim("model", "register", "x", f"run={moved}/run", f"registry={moved}/registry").code == 0
    words = (f"cohort={moved}/my.csv", f"store={moved}/store", f"out={moved}/run")
    again = mhim("train", *words, "method=plain", "epochs=2", "folds=2")
    assert again.code == 0, again
    assert "nothing to do" in again.out
    assert not trained.exists()


def test_a_store_that_was_renamed_is_named(mhim: Mhim, trained: Path) -> None:
    (trained / "store").rename(trained / "other")
    asked = mhim("evaluate", f"run={trained}/run")
    assert asked.code == 2
    assert "store=" in asked.err
    assert mhim("evaluate", f"run={trained}/run", f"store={trained}/other").code == 0
    assert mhim("report", f"run={trained}/run", f"store={trained}/other", "max_heatmaps=0").code == 0


def test_a_damaged_manifest_in_the_run_s_own_store_stays_a_damage(trained: Path) -> None:
    (manifest,) = (trained / "store/manifests").rglob("*.parquet")
    manifest.write_bytes(manifest.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        read_run(f"{trained}/run").manifest()


def test_predictions_of_a_run_that_left_its_store_add_nothing_to_that_store(trained: Path) -> None:
    from flows.prediction.predictor import predictor_of_run

    own: Predictor = predictor_of_run(read_run(f"{trained}/run"))
    assert own.store is not None
    assert own.store.uri == f"{trained}/store"
    (trained.parent / "elsewhere").mkdir()
    shutil.move(trained / "run", trained.parent / "elsewhere/run")
    assert predictor_of_run(read_run(f"{trained.parent}/elsewhere/run")).store is None


def test_slides_that_moved_along_are_found(trained: Path) -> None:
    moved = move(trained, old=False)
    run = read_run(f"{moved}/run")
    slide = run.slides[0]
    assert slide.uri.startswith(f"{trained}/")
    assert run.slide_uri(slide) == slide.uri, "it is nowhere"
    (moved / Path(slide.uri).name).touch()
    assert run.slide_uri(slide) == f"{moved}/{Path(slide.uri).name}"
