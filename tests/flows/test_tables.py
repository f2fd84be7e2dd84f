"""Tables as people have them, through the commands: what is not read is refused, or named by a key and read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.runs.cohort import load_cohort
from flows.submission.tables import with_absolute_paths
from mhim_core.cohort.task_options import TableOptions
from mhim_core.errors import CohortError
from mhim_core.types import ExitCode

Rows = list[dict[str, str]]
WriteTable = Callable[..., Path]


@pytest.fixture
def train(mhim: Any, made_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """train(table, ids, "key=value", …) → how `mhim train` ends, with no fit made."""
    monkeypatch.setattr("flows.train.fit_all", lambda *_: [])

    def run(table: Path, slide_ids: list[str], *words: str) -> Any:
        return mhim(
            "train", f"cohort={table}", made_store(slide_ids), f"out={tmp_path / 'run'}", "method=plain", *words
        )

    return run


def by(rows: Rows, **names: str) -> Rows:
    """The rows with columns renamed: by(rows, patient_id="Patient No")."""
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def ids_of(rows: Rows) -> list[str]:
    return [row["slide_id"] for row in rows]


def test_a_near_miss_of_a_patient_column_ends_the_training_and_a_key_names_it(
    train: Callable[..., Any], write_table: WriteTable, cohort_rows: Callable[..., Rows]
) -> None:
    rows = cohort_rows(neg=6, pos=6)
    table = write_table(by(rows, patient_id="Patient No"))
    refused = train(table, ids_of(rows))
    assert refused.code == ExitCode.BAD_INPUT
    assert "'Patient No'" in refused.err
    assert train(table, ids_of(rows), "patient_column=Patient No").code == ExitCode.OK


def test_a_table_without_patients_is_trained_on_only_where_slides_are_said_to_be_patients(
    train: Callable[..., Any], mhim: Any, write_table: WriteTable, cohort_rows: Callable[..., Rows]
) -> None:
    rows = [{key: value for key, value in row.items() if key != "patient_id"} for row in cohort_rows(neg=6, pos=6)]
    table = write_table(rows)
    refused = train(table, ids_of(rows))
    assert refused.code == ExitCode.BAD_INPUT
    assert "patients=slides" in refused.err
    assert train(table, ids_of(rows), "patients=slides").code == ExitCode.OK
    assert "patients=slides" in mhim("check", f"cohort={table}").out


def test_a_part_of_a_split_file_that_matches_nothing_ends_the_training(
    train: Callable[..., Any], write_table: WriteTable, cohort_rows: Callable[..., Rows], tmp_path: Path
) -> None:
    rows = cohort_rows(neg=6, pos=6)
    ids = ids_of(rows)
    splits = tmp_path / "splits.csv"
    splits.write_text(
        "slide_id,split\n" + "".join(f"{slide_id},train\n" for slide_id in ids[:8]) + "gone1,val\ngone2,val\n"
    )
    for words in ([], ["partial_splits=true"]):
        refused = train(write_table(rows), ids, f"split_files={splits}", *words)
        assert refused.code == ExitCode.BAD_INPUT
        assert "'gone1', 'gone2'" in refused.err


def test_a_column_of_parts_under_another_name_ends_the_training_unless_folds_are_asked_for(
    train: Callable[..., Any], write_table: WriteTable, cohort_rows: Callable[..., Rows]
) -> None:
    rows = [row | {"Set": "test" if index % 3 else "train"} for index, row in enumerate(cohort_rows(neg=6, pos=6))]
    refused = train(write_table(rows), ids_of(rows))
    assert refused.code == ExitCode.BAD_INPUT
    assert "'Set'" in refused.err
    assert train(write_table(rows), ids_of(rows), "scheme=folds").code == ExitCode.OK


def test_one_of_several_targets_is_named_and_its_spellings_are_merged_if_asked_for(
    train: Callable[..., Any], write_table: WriteTable, cohort_rows: Callable[..., Rows]
) -> None:
    rows = by(cohort_rows(neg=6, pos=6), label="BRAF")
    rows[0]["BRAF"], rows[1]["BRAF"] = "Neg", "not evaluated"
    table = write_table(rows)
    assert train(table, ids_of(rows)).code == ExitCode.BAD_INPUT
    refused = train(table, ids_of(rows), "label_column=BRAF")
    assert refused.code == ExitCode.BAD_INPUT
    assert "label_spellings=merge" in refused.err
    ended = train(table, ids_of(rows), "label_column=BRAF", "label_spellings=merge")
    assert ended.code == ExitCode.OK
    assert "2 classes" in ended.out
    assert "'not evaluated' 1" in ended.out


def test_a_folder_of_slides_is_a_cohort(mhim: Any, write_slide: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_slide("A 1.tiff").parent
    ended = mhim("check", f"cohort={folder}")
    assert ended.code == ExitCode.OK
    assert "A_x20_1: " in ended.out
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="no files"):
        load_cohort(str(tmp_path / "empty"))


def test_a_table_of_ids_is_read_by_a_folder_and_an_extension_and_travels_with_full_paths(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides/s1.svs").write_bytes(b"no slide")
    table = tmp_path / "clam.csv"
    table.write_text("case_id,slide_id,label\np,s1,x\n")
    options = TableOptions(slides_dir=str(tmp_path / "slides"), extension=".svs")
    cohort_input = load_cohort(str(table), options=options)
    assert cohort_input.warnings == ()
    assert [(row.slide_id, row.uri) for row in cohort_input.cohort.rows] == [("s1", str(tmp_path / "slides/s1.svs"))]
    table.write_bytes(with_absolute_paths(table.read_bytes(), table.name, str(tmp_path), options))
    assert load_cohort(str(table), options=TableOptions(extension="svs")).cohort.rows == cohort_input.cohort.rows
