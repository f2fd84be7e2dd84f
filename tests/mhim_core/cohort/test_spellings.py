"""One label in two spellings is one label: refused with the pair, or merged where that was asked for."""

import pytest

from mhim_core.cohort.check import find_problems
from mhim_core.cohort.spellings import merge_spellings, spell_as, spelling_groups
from mhim_core.cohort.table import Cohort, read_cohort
from mhim_core.cohort.task_options import LabelSpellings, TaskName, TaskOptions
from mhim_core.cohort.tasks import infer_task
from mhim_core.errors import CohortError
from mhim_core.task import TaskKind


def cohort_of(*labels: str) -> Cohort:
    rows = "".join(f'{index}.svs,p{index},"{label}"\n' for index, label in enumerate(labels))
    return read_cohort(f"path,patient,label\n{rows}".encode(), name="c.csv", base_uri="/data")


def errors(cohort: Cohort) -> list[str]:
    return [str(finding) for finding in find_problems(cohort) if finding.severity == "error"]


@pytest.mark.parametrize(
    "group",
    [
        ["Tumour", "tumour"],
        ["non-MSIH", "nonMSIH", "Non MSIH"],
        ["high_grade", "high grade"],
        ["1", "1.0", "01"],
        ["Straße", "STRASSE"],
        ["caf\u00e9", "cafe\u0301"],
    ],
)
def test_spellings_of_one_label(group: list[str]) -> None:
    assert [sorted(spellings) for spellings in spelling_groups([*group, "other"])] == [sorted(group)]


@pytest.mark.parametrize(
    "labels",
    [["HER2+", "HER2-", "HER2"], ["T-1", "T1"], ["-1", "1"], ["a/b", "ab"], ["grade 1", "grade 2"], ["1", "10"]],
)
def test_labels_that_differ_in_more(labels: list[str]) -> None:
    assert spelling_groups(labels) == []


def test_each_spelling_is_an_error_once_with_its_twin() -> None:
    lines = errors(cohort_of("Tumour", "normal", "Tumour", "tumour", "tumour", "TUMOUR"))
    assert len(lines) == 3 - 1
    assert all("row 2" in line or "row 5" in line for line in lines)
    assert "'TUMOUR'" in lines[1]
    assert all("label_spellings=merge" in line for line in lines)


def test_the_most_frequent_spelling_is_kept_where_they_are_merged() -> None:
    merged = merge_spellings(cohort_of("Tumour", "normal", "tumour", "tumour", ""))
    assert [row.label for row in merged.rows] == ["tumour", "normal", "tumour", "tumour", None]
    assert "'Tumour' as 'tumour'" in merged.notes[-1]
    assert errors(merged) == []


def test_numbers_in_two_spellings_are_two_classes_but_one_value() -> None:
    rows = cohort_of("1", "1.0", "0").rows
    with pytest.raises(CohortError, match=r"'1' and '1.0'.*label_spellings=merge"):
        infer_task(rows, TaskOptions())
    assert infer_task(rows, TaskOptions(task=TaskName.regression)).task.kind is TaskKind.regression
    assert infer_task(merge_spellings(cohort_of("1", "1.0", "1.0", "0")).rows, TaskOptions()).task.classes == (
        "0",
        "1.0",
    )


def test_a_models_class_in_another_spelling_is_not_counted_as_none_of_its_classes() -> None:
    cohort, classes = cohort_of("Tumour", "1.0", "else"), ("tumour", "1")
    with pytest.raises(CohortError, match=r"'1.0' \(class '1'\), 'Tumour' \(class 'tumour'\)"):
        spell_as(cohort, classes, LabelSpellings.refuse)
    assert [row.label for row in spell_as(cohort, classes, LabelSpellings.merge).rows] == ["tumour", "1", "else"]
    assert spell_as(cohort, ("Tumour", "1.0"), LabelSpellings.refuse) is cohort


@pytest.mark.parametrize(("first", "second"), [("p1", "P1"), ("17", "17.0"), ("007", "7"), ("A B", "AB")])
def test_one_patient_in_two_spellings_would_be_trained_and_tested_on_and_is_an_error(first: str, second: str) -> None:
    table = f"path,patient_id,label\na.svs,{first},x\nb.svs,{second},y\nc.svs,{second},y\n"
    (line,) = errors(read_cohort(table.encode(), name="c.csv", base_uri="/data"))
    assert repr(first) in line
    assert repr(second) in line
    distinct = "path,patient_id,label\na.svs,p1,x\nb.svs,p10,y\nc.svs,p-1,y\nd.svs,p01,y\n"
    assert errors(read_cohort(distinct.encode(), name="c.csv", base_uri="/data")) == []
