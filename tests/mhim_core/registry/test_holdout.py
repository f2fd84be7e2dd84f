"""The holdout is frozen once, apart in patients, watched for changes, and every reading of it is counted."""

import random
import re
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from mhim_core.cohort.rows import CohortRow
from mhim_core.errors import ConflictError, IntegrityError, SplitError
from mhim_core.features import SourceIdentity
from mhim_core.registry.gate_options import HoldoutOptions
from mhim_core.registry.holdout import (
    Holdout,
    check_unchanged,
    count_readings,
    freeze,
    read_holdout,
    record_reading,
    split_off,
)
from mhim_core.storage import LocalStorage, Storage
from mhim_core.task import Task, TaskKind
from mhim_core.types import PatientId, SlideId

CLASSES = Task(kind=TaskKind.classification, classes=("normal", "tumour"))
SURVIVAL = Task(kind=TaskKind.survival)
VALUES = Task(kind=TaskKind.regression)


def slide(number: int, patient: int | None = None, **columns: Any) -> CohortRow:
    """Two slides a patient; every third patient has a tumour."""
    own = number // 2 if patient is None else patient
    columns = {"label": "tumour" if own % 3 == 0 else "normal"} | columns
    return CohortRow(SlideId(f"s{number:03}"), f"/slides/{number}.svs", PatientId(f"p{own:03}"), **columns)


ROWS = [slide(number) for number in range(60)]


def sources(rows: Sequence[CohortRow]) -> dict[SlideId, SourceIdentity]:
    return {row.slide_id: SourceIdentity(10, row.slide_id) for row in rows}


@pytest.fixture
def frozen(storage: Storage) -> Holdout:
    return freeze(storage, "lung", ROWS, CLASSES, sources(ROWS))


def test_a_share_of_the_patients_of_every_class_is_set_aside(frozen: Holdout) -> None:
    label_of = {row.patient_id: row.label for row in ROWS}
    assert Counter(label_of[patient] for patient in frozen.patients) == {"tumour": 2, "normal": 4}
    assert len(frozen.slides) == 12, "all slides of a patient"


def test_it_is_frozen_once_whatever_is_asked_later(storage: Storage, frozen: Holdout) -> None:
    more = [*ROWS, *(slide(number) for number in range(60, 120))]
    options = HoldoutOptions(holdout_fraction=0.5, holdout_seed=7)
    assert freeze(storage, "lung", more, CLASSES, sources(more), options) == frozen == read_holdout(storage, "lung")
    assert read_holdout(storage, "liver") is None


def test_it_is_a_function_of_the_patients_and_the_seed_not_of_the_rows_order(tmp_path: Any, frozen: Holdout) -> None:
    shuffled = random.Random(3).sample(ROWS, len(ROWS))
    again = freeze(LocalStorage(tmp_path / "a"), "lung", shuffled, CLASSES, sources(ROWS))
    assert again == frozen
    other = freeze(LocalStorage(tmp_path / "b"), "lung", ROWS, CLASSES, sources(ROWS), HoldoutOptions(holdout_seed=7))
    assert other.patients != frozen.patients


def test_freezing_at_once_gives_all_the_same(storage: Storage) -> None:
    holdouts: list[Holdout] = []

    def run(seed: int) -> None:
        options = HoldoutOptions(holdout_seed=seed)
        holdouts.append(freeze(LocalStorage(storage.uri), "lung", ROWS, CLASSES, sources(ROWS), options))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(holdouts) == 5
    assert {holdout.fingerprint for holdout in holdouts} == {holdouts[0].fingerprint}


def test_another_task_under_the_same_name_is_refused(storage: Storage, frozen: Holdout) -> None:
    other = Task(kind=TaskKind.classification, classes=("normal", "tumour", "unsure"))
    with pytest.raises(ConflictError, match="frozen for classification of normal, tumour"):
        freeze(storage, "lung", ROWS, other, sources(ROWS))


def test_a_class_that_no_holdout_patient_could_show_is_refused_before_anything_is_written(storage: Storage) -> None:
    few = [row for row in ROWS if row.label == "normal" or row.patient_id in ("p000", "p003", "p006")]
    with pytest.raises(SplitError, match="no patient of class tumour could be set aside"):
        freeze(storage, "lung", few, CLASSES, sources(few))
    assert list(storage.list("")) == []


def test_survival_and_regression_have_holdouts_too(storage: Storage) -> None:
    rows = [slide(n, label=None, time=float(n // 2), event=n // 2 % 4 > 0) for n in range(80)]
    holdout = freeze(storage, "survival", rows, SURVIVAL, sources(rows))
    assert holdout.slides[0].time is not None
    assert holdout.slides[0].label is None
    numbers = [slide(n, label=f"{n // 2}.5") for n in range(80)]
    assert len(freeze(storage, "numbers", numbers, VALUES, sources(numbers)).patients) == 8
    assert read_holdout(storage, "survival") == holdout
    same = [slide(n, label="1.5") for n in range(80)]
    with pytest.raises(SplitError, match="two different values"):
        freeze(storage, "same", same, VALUES, sources(same))
    with pytest.raises(SplitError, match="no two that can be compared"):
        freeze(storage, "few", rows[:6], SURVIVAL, sources(rows))


def test_slides_without_a_target_are_not_set_aside(storage: Storage) -> None:
    rows = [*ROWS, *(slide(number, label=None) for number in range(60, 90))]
    holdout = freeze(storage, "lung", rows, CLASSES, sources(rows))
    assert all(slide.label for slide in holdout.slides)


def test_a_cohort_is_divided_into_disjoint_patients(frozen: Holdout) -> None:
    division = split_off(frozen, ROWS, sources(ROWS))
    assert {row.patient_id for row in division.holdout} == frozen.patients
    assert frozen.patients.isdisjoint(row.patient_id for row in division.trainable)
    assert len(division.trainable) + len(division.holdout) + len(division.ignored) == len(ROWS)
    assert not division.ignored


def test_a_new_slide_of_a_holdout_patient_enters_neither_part(frozen: Holdout) -> None:
    patient = int(min(frozen.patients)[1:])
    new = [slide(100, patient=patient), slide(101, patient=99)]
    division = split_off(frozen, [*ROWS, *new])
    assert division.ignored == (new[0],)
    assert new[1] in division.trainable


def test_a_copy_of_a_holdout_slide_under_another_id_is_not_trained_on(frozen: Holdout) -> None:
    copy = slide(100, patient=99)
    contents = sources(ROWS) | {copy.slide_id: frozen.slides[0].source}
    assert split_off(frozen, [*ROWS, copy], contents).ignored == (copy,)


def test_a_renamed_holdout_patient_takes_the_new_names_slides_out_of_training(frozen: Holdout) -> None:
    first = frozen.slides[0].slide_id
    renamed = [row._replace(patient_id=PatientId("new-name")) if row.slide_id == first else row for row in ROWS]
    other = slide(100)._replace(patient_id=PatientId("new-name"))
    division = split_off(frozen, [*renamed, other])
    assert other in division.ignored
    assert first in {row.slide_id for row in division.holdout}


def test_an_unchanged_cohort_is_unchanged_also_where_it_grew_or_moved(frozen: Holdout) -> None:
    moved = [row._replace(uri=f"/elsewhere/{row.slide_id}", site="new", time=3.0) for row in ROWS] + [slide(100)]
    assert check_unchanged(frozen, moved, sources(moved)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "other"}, "its label has changed"),
        ({"label": None}, "its label has changed"),
        ({"patient_id": PatientId("Mustermann")}, "its patient has changed"),
    ],
)
def test_what_changed_since_freezing_is_named_by_slide(frozen: Holdout, change: dict[str, Any], words: str) -> None:
    first = frozen.slides[0].slide_id
    rows = [row._replace(**change) if row.slide_id == first else row for row in ROWS]
    (message,) = check_unchanged(frozen, rows, sources(rows))
    assert first in message
    assert re.search(words, message)
    assert "Mustermann" not in message


def test_another_file_a_missing_slide_and_missing_features_are_named(frozen: Holdout) -> None:
    first, second, third = (slide.slide_id for slide in frozen.slides[:3])
    rows = [row for row in ROWS if row.slide_id != second]
    contents = sources(ROWS) | {first: SourceIdentity(10, "scanned again")}
    del contents[third]
    assert check_unchanged(frozen, rows, contents) == (
        f"{first}: its file has changed",
        f"{second} is no longer in the table",
        f"{third} has no features",
    )


def test_a_time_that_changed_is_named_in_survival(storage: Storage) -> None:
    rows = [slide(n, label=None, time=float(n // 2), event=n // 2 % 4 > 0) for n in range(80)]
    holdout = freeze(storage, "lung", rows, SURVIVAL, sources(rows))
    first = holdout.slides[0]
    later = [row._replace(time=99.0) if row.slide_id == first.slide_id else row for row in rows]
    assert check_unchanged(holdout, later, sources(rows)) == (f"{first.slide_id}: its time has changed",)


def test_every_reading_is_a_record_and_the_same_one_is_counted_once(storage: Storage) -> None:
    readings = [{"champion": None, "challenger": "a"}, {"champion": "a", "challenger": "b"}]
    assert [record_reading(storage, "lung", reading) for reading in readings] == [1, 2]
    assert record_reading(storage, "lung", readings[0]) == 1
    assert count_readings(storage, "lung") == 2
    assert count_readings(storage, "liver") == 0


def test_readings_at_once_are_all_kept(storage: Storage) -> None:
    numbers: list[int] = []

    def read(index: int) -> None:
        numbers.append(record_reading(LocalStorage(storage.uri), "lung", {"challenger": str(index % 4)}))

    threads = [threading.Thread(target=read, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(numbers) == {1: 2, 2: 2, 3: 2, 4: 2}


def test_a_damaged_holdout_is_noticed(storage: Storage, frozen: Holdout) -> None:
    for data in (b"{", b"[]", frozen.to_bytes().replace(b'"schema":1', b'"schema":9')):
        storage.put("holdouts/lung/holdout.json", data)
        with pytest.raises(IntegrityError, match=r"holdout\.json"):
            read_holdout(storage, "lung")
