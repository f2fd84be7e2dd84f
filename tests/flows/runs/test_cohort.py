"""The cohort table of a command: where it is looked for, what its paths are relative to, what is known of its files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.runs.cohort import load_cohort, load_split_files
from mhim_core.errors import CohortError
from mhim_core.types import SlideTask

WriteTable = Callable[..., Path]


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """Some bytes in a subfolder; nothing here opens them."""
    path = tmp_path / "slides/a (1).svs"
    path.parent.mkdir()
    path.write_bytes(b"not a slide")
    return path


def test_paths_in_the_table_are_relative_to_the_table_wherever_the_command_is_run(
    write_table: WriteTable, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table([{"slide_id": "a", "path": "slides/a (1).svs", "mpp": "0.25"}])
    expected = [SlideTask("a", str(slide), 0.25, None)]
    assert load_cohort(str(table)).tasks() == expected
    monkeypatch.chdir(slide.parent)
    assert load_cohort("../my.csv").tasks() == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_cohort("~/my.csv").tasks() == expected


def test_a_file_that_is_there_has_a_hint_and_one_that_is_not_is_a_warning(write_table: WriteTable, slide: Path) -> None:
    table = write_table([{"slide_id": "a", "path": slide}, {"slide_id": "b", "path": "slides/b.svs"}])
    cohort_input = load_cohort(str(table))
    assert cohort_input.hints["a"][:2] == (str(slide), slide.stat().st_size)
    assert set(cohort_input.hints) == {"a"}
    (warning,) = cohort_input.warnings
    assert (warning.slide_id, warning.row) == ("b", 3)
    assert "not_found" in warning.message
    assert [task.slide_id for task in cohort_input.tasks()] == ["a", "b"]


@pytest.mark.fault(26)
def test_a_missing_file_ends_a_strict_command_before_any_work(write_table: WriteTable, slide: Path) -> None:
    table = write_table([{"slide_id": "a", "path": slide}, {"slide_id": "b", "path": "slides/b.svs"}])
    with pytest.raises(CohortError, match=r"row 3, slide 'b'.*not_found"):
        load_cohort(str(table), strict=True)


def test_a_touched_file_has_another_hint_and_the_same_content(write_table: WriteTable, slide: Path) -> None:
    table = write_table([{"slide_id": "a", "path": slide}])
    before = load_cohort(str(table)).hints["a"]
    os.utime(slide, (1, 1))
    after = load_cohort(str(table)).hints["a"]
    assert before.version != after.version
    assert before.num_bytes == after.num_bytes


def test_a_copy_under_another_name_is_found_by_its_content(write_table: WriteTable, slide: Path) -> None:
    copy = slide.with_name("b.svs")
    copy.write_bytes(slide.read_bytes())
    table = write_table([{"slide_id": "a", "path": slide}, {"slide_id": "b", "path": copy}])
    with pytest.raises(CohortError, match="holds the same bytes as that of 'a'"):
        load_cohort(str(table))
    copy.write_bytes(b"not b slide")  # as long, but another one
    assert load_cohort(str(table)).warnings == ()


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.fault(26)
def test_a_table_with_bom_other_line_ends_and_columns_of_its_own_is_read(
    tmp_path: Path, slide: Path, line_end: str
) -> None:
    lines = ["slide;FILENAME;PATIENT;remarks;label", 'a;slides/a (1).svs;p 1;"fine; really";007', ""]
    (tmp_path / "my.csv").write_bytes(("\ufeff" + line_end.join(lines)).encode())
    (row,) = load_cohort(str(tmp_path / "my.csv")).cohort.rows
    assert (row.slide_id, row.uri, row.patient_id, row.label) == ("a", str(slide), "p 1", "007")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("nowhere.csv", "there is no such file"),
        ("", "is a folder; the cohort is one table"),
        ("http://host/my.csv", "neither a path nor an s3:// URI"),
        ("s3://bucket", "names no object"),
        ("s3://bucket/", "names no object"),
        ("~nobody-of-this-name/my.csv", "there is no such file"),
    ],
)
def test_what_is_no_table_is_refused_with_what_it_is(address: str, complaint: str) -> None:
    with pytest.raises(CohortError, match=complaint) as caught:
        load_cohort(address)
    assert str(caught.value).startswith("cohort=")


def test_a_table_of_labels_takes_the_place_of_the_cohorts_own(write_table: WriteTable, tmp_path: Path) -> None:
    table = write_table([{"slide_id": name, "path": f"{name}.svs", "label": "old"} for name in ("a", "b")])
    (tmp_path / "labels.csv").write_text("a,0\nb,1\n")
    cohort_input = load_cohort(str(table), with_files=False, labels_uri=str(tmp_path / "labels.csv"))
    assert [row.label for row in cohort_input.cohort.rows] == ["0", "1"]
    assert any("labels.csv has no header" in note for note in cohort_input.cohort.notes)
    assert cohort_input.warnings == ()


def test_labels_are_checked_with_the_table_they_are_joined_to(write_table: WriteTable, tmp_path: Path) -> None:
    table = write_table([{"slide_id": name, "path": f"{name}.svs", "patient_id": ""} for name in ("a", "b")])
    (tmp_path / "labels.csv").write_text("id,label\na,0\nb, 1\n")
    with pytest.raises(CohortError, match="a labelled slide needs one") as caught:
        load_cohort(str(table), with_files=False, labels_uri=str(tmp_path / "labels.csv"))
    assert "' 1' has spaces around it" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("nowhere.csv", "there is no such file"),
        (".", "is a folder; the labels are one table"),
        ("http://host/my.csv", "neither a path nor an s3:// URI"),
    ],
)
def test_labels_that_are_no_table_are_refused_by_their_key(
    write_table: WriteTable, slide: Path, address: str, complaint: str
) -> None:
    table = write_table([{"slide_id": "a", "path": slide}])
    with pytest.raises(CohortError, match=rf"^labels=.*{complaint}"):
        load_cohort(str(table), labels_uri=address)


def test_split_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    for fold in range(2):
        (tmp_path / f"splits_{fold}.csv").write_text(f",train,val,test\n0,a{fold},b{fold},c{fold}\n")
    files = load_split_files([str(tmp_path / f"splits_{fold}.csv") for fold in (1, 0)])
    assert [file.name for file in files] == ["splits_1.csv", "splits_0.csv"]
    assert files[0].parts == {"a1": "train", "b1": "val", "c1": "test"}
    with pytest.raises(CohortError, match=r"^split_files=.*there is no such file"):
        load_split_files([str(tmp_path / "splits_9.csv")])
