"""Every mistake of a cohort is found before any work, row by row, with both sides of a pair."""

import pickle
import time
from pathlib import Path

import pytest

from mhim_core.cohort.check import find_problems, validate
from mhim_core.cohort.findings import Severity
from mhim_core.cohort.table import CohortRow, read_cohort
from mhim_core.errors import CohortError


def cohort_of(*lines: str, header: str = "slide_id,path,patient_id,label"):
    return read_cohort("\n".join([header, *lines]).encode(), name="cohort.csv", base_uri="/data")


def file_num_bytes(row: CohortRow) -> int | None:
    path = Path(row.uri)
    return path.stat().st_size if path.exists() else None


def messages(cohort, severity=Severity.ERROR, **arguments) -> list[str]:
    return [str(finding) for finding in find_problems(cohort, **arguments) if finding.severity is severity]


def test_a_clean_cohort_has_no_findings():
    assert validate(cohort_of("a,a.svs,p1,0", "b,b.svs,p1,1", "c,c.svs,p2,0")) == ()


@pytest.mark.parametrize(
    "slide_id", ["../x", "a/b", "=cmd()", "x" * 300, "a\0b", "\u202egpj", "a b", "-a", ".a", "é", "a\u200b"]
)
@pytest.mark.fault(27)
def test_dangerous_ids_are_refused_and_printed_escaped(slide_id):
    with pytest.raises(CohortError) as caught:
        validate(cohort_of(f'"{slide_id}",a.svs,p1,0'))
    text = str(caught.value)
    assert "not a valid slide id" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text) < 400


def test_an_empty_id_is_refused():
    assert "the slide id is empty" in messages(cohort_of(",a.svs,p1,0"))[0]


def test_duplicate_ids_name_all_pairs():
    errors = messages(cohort_of("a,x.svs,p1,0", "a,y.svs,p1,0", "b,z.svs,p1,0", "a,w.svs,p1,0"))
    assert len(errors) == 2
    assert "row 3, slide 'a'" in errors[0]
    assert "the same slide id as 'a' (row 2, '/data/x.svs')" in errors[0]
    assert "'a' (row 2, '/data/x.svs'), 'a' (row 3, '/data/y.svs')" in errors[1]


def test_ids_equal_but_for_case_are_refused():
    assert "differs only in case from 'Slide' (row 2)" in messages(cohort_of("Slide,a.svs,p,0", "sLIDE,b.svs,p,0"))[0]


def test_sites_that_differ_in_case_or_spaces_are_named_once_a_spelling_and_spaces_around_them_make_no_site():
    lines = ["a,a.svs,Site A", "b,b.svs, Site A ", "c,c.svs,SiteA", "d,d.svs,site  a", "e,e.svs,site  a", "f,f.svs,NA"]
    cohort = cohort_of(*lines, header="slide_id,path,site")
    assert [row.site for row in cohort.rows] == ["Site A", "Site A", "SiteA", "site  a", "site  a", None]
    problems = find_problems(cohort)
    assert [(finding.row, finding.column, finding.severity) for finding in problems] == [
        (4, "site", "warning"),
        (5, "site", "warning"),
    ]
    assert "'SiteA' and 'Site A' (row 2) differ only in case or spaces: taken as two sites" in problems[0].message


def test_one_stem_in_two_folders_is_refused_where_ids_come_from_file_names():
    (error,) = messages(cohort_of("x/a.svs,p1", "y/a.tiff,p2", header="path,patient_id"))
    assert "'/data/x/a.svs'" in error
    assert "add a slide_id column" in error


@pytest.mark.fault(25)
def test_one_path_under_two_ids_or_patients_is_refused():
    errors = messages(cohort_of("a,x.svs,p1,0", "b,./x.svs,p1,0", "c,d/../x.svs,p2,0"))
    assert len(errors) == 2
    assert "is the file of 'a' (row 2)" in errors[0]
    assert "different patients" not in errors[0]
    assert "is the file of 'a' (row 2), 'b' (row 3); they are of different patients" in errors[1]


def test_one_content_under_two_ids_is_refused_and_only_equal_sizes_are_read(tmp_path):
    contents = {"a": b"1234", "b": b"1234", "c": b"12345", "d": b"1235"}
    for name, data in contents.items():
        (tmp_path / f"{name}.svs").write_bytes(data)
    lines = [f"{name},{tmp_path}/{name}.svs,p{name},0" for name in contents]
    read = []

    def identity(row):
        read.append(row.slide_id)
        return (contents[row.slide_id],)

    errors = messages(cohort_of(*lines), num_bytes=file_num_bytes, identity=identity)
    assert len(errors) == 1
    assert "holds the same bytes as that of 'a' (row 2); they are of different patients" in errors[0]
    assert read == ["a", "b", "d"]


def test_a_patient_in_two_splits_is_refused():
    cohort = cohort_of("a,a.svs,p1,train", "b,b.svs,p1,test", "c,c.svs,p2,val", header="slide_id,path,patient_id,split")
    (error,) = messages(cohort)
    assert "patient 'p1' is in test here and in train in row 2 (slide 'a')" in error


def test_spaces_around_patients_and_labels_are_refused():
    errors = messages(cohort_of('a,a.svs,"p1 ",0', "b,b.svs,p1, 0"))
    assert ["has spaces around it" in message for message in errors] == [True, True]


def test_doubtful_rows_are_warnings():
    warnings = messages(cohort_of("a,a.svs,p1,", "b,b.svs,p1,NA"), Severity.WARNING)
    assert ["no label" in message for message in warnings] == [True, True]


def test_a_missing_file_is_a_warning_and_an_error_if_strict(tmp_path):
    cohort = cohort_of(f"a,{tmp_path}/none.svs,p1,0")
    assert "not_found" in validate(cohort, num_bytes=file_num_bytes)[0].message
    with pytest.raises(CohortError, match="not_found"):
        validate(cohort, num_bytes=file_num_bytes, strict=True)


def test_cells_that_could_not_be_read_stop_the_command():
    cohort = cohort_of("a,a.svs,20x", header="slide_id,path,mpp")
    with pytest.raises(CohortError, match="row 2, slide 'a', column 'mpp': '20x' is not a number"):
        validate(cohort)


def test_the_list_of_errors_is_sorted_and_capped_and_survives_pickling():
    cohort = cohort_of(*(f"a b{index},x{index}.svs,p,0" for index in range(70)))
    with pytest.raises(CohortError, match="70 errors in the table") as caught:
        validate(cohort)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  row 2, ")
    assert lines[-1] == "  … and 20 more"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.thorough
def test_a_hundred_thousand_rows_are_checked_in_seconds():
    cohort = cohort_of(*(f"s{index},d/s{index}.svs,p{index // 2},{index % 2}" for index in range(100_000)))
    start = time.process_time()
    assert validate(cohort, num_bytes=lambda row: row.row, identity=lambda row: (row.row,)) == ()
    assert time.process_time() - start < 5


def test_twenty_thousand_rows_of_one_file_do_not_explode():
    cohort = cohort_of(*(f"s{index},x.svs,p,0" for index in range(20_000)))
    start = time.process_time()
    assert len(messages(cohort)) == 19_999
    assert time.process_time() - start < 10


def test_a_patient_in_two_folds_is_refused_with_both_rows():
    with pytest.raises(CohortError, match=r"row 3.*patient 'p' is in fold 1 here and in fold 0 in row 2 \(slide 'a'\)"):
        validate(cohort_of("a,a.svs,p,0,0", "b,b.svs,p,0,1", header="slide_id,path,patient_id,label,fold"))
    assert validate(cohort_of("a,a.svs,p,0,0", "b,b.svs,p,0,", header="slide_id,path,patient_id,label,fold")) == ()


def test_half_of_a_time_and_event_and_two_times_of_a_patient_are_warnings():
    header = "slide_id,path,patient_id,time,event"
    cohort = cohort_of("a,a.svs,p,1,1", "b,b.svs,p,2,1", "c,c.svs,q,3,", "d,d.svs,r,,0", "e,e.svs,s,,", header=header)
    warnings = messages(cohort, Severity.WARNING)
    assert len(warnings) == 4
    assert "row 3, slide 'b', column 'time': patient 'p' has another time or event here than in row 2" in warnings[0]
    assert "row 4, slide 'c', column 'event': there is a value for time but none for event" in warnings[1]
    assert "row 5, slide 'd', column 'time': there is a value for event but none for time" in warnings[2]
    assert "row 6, slide 'e', column 'time': no time and no event: the slide takes no part in training" in warnings[3]
    assert messages(cohort) == []


def test_a_label_beside_an_empty_time_is_no_warning():
    header = "slide_id,path,patient_id,label,time,event"
    assert validate(cohort_of("a,a.svs,p,0,1,1", "b,b.svs,q,1,,", header=header)) == ()
