"""Columns by any spelling of their name, or by the option that names them; what is not read is never passed over."""

import pytest

from mhim_core.cohort.columns import find_columns, likely_patient_columns
from mhim_core.cohort.table import Cohort, read_cohort, require_patients
from mhim_core.cohort.task_options import AS_FOUND, PatientUnit, TableOptions
from mhim_core.errors import CohortError, ConfigError

OWN = TableOptions(patients=PatientUnit.slides)


def read(text: str, options: TableOptions = AS_FOUND) -> Cohort:
    return read_cohort(text.encode(), name="c.csv", base_uri="/data", options=options)


@pytest.mark.parametrize("patient", ["Patient ID", "patientID", "PATIENT_ID", "Patient-Id", "patient id ", "CaseID"])
@pytest.mark.parametrize(("slide", "label"), [("Slide ID", "Label"), ("slideId", " CLASS "), ("SAMPLE ID", "target")])
def test_case_blanks_and_underscores_of_a_name_do_not_count(slide: str, patient: str, label: str) -> None:
    cohort = read(f"{slide},File Path,{patient},{label}\ns1,a.svs,p7,x\n")
    (row,) = cohort.rows
    assert (row.slide_id, row.uri, row.patient_id, row.label) == ("s1", "/data/a.svs", "p7", "x")
    assert cohort.header["patient_id"] == patient


@pytest.mark.parametrize(
    "patient",
    ["Patient Number", "PatientNr", "patients", "bcr_patient_barcode", "subject_id", "Donor", "MRN", "case", "CaseNo"],
)
def test_a_column_that_seems_to_name_the_patients_and_is_not_read_is_an_error_that_names_it(patient: str) -> None:
    table = f"path,{patient},label\na.svs,p7,x\nb.svs,p7,y\n"
    with pytest.raises(CohortError, match=rf"'{patient}' .*patient_column={patient}.*patients=slides"):
        read(table)
    assert {row.patient_id for row in read(table, TableOptions(patient_column=patient)).rows} == {"p7"}
    assert [row.patient_id for row in read(table, OWN).rows] == ["a", "b"]


@pytest.mark.parametrize("column", ["patient_age", "Patient Sex", "caseStatus", "staircase", "notes", "submitted"])
def test_what_is_said_of_patients_names_none(column: str) -> None:
    assert likely_patient_columns([column]) == []
    assert likely_patient_columns([column, "Pat. No", "patient no"]) == ["patient no"]


def test_beside_a_column_of_patients_no_other_is_suspected() -> None:
    assert read("path,patient_id,Patient Number\na.svs,p,1\n").rows[0].patient_id == "p"


def test_no_column_of_patients_at_all_must_be_said_on_purpose() -> None:
    table = "path,label,Fallnummer\na.svs,x,1\n"
    with pytest.raises(CohortError, match=r"patient_column=.*patients=slides") as refusal:
        require_patients(read(table))
    assert "'Fallnummer'" in str(refusal.value)
    require_patients(read(table, OWN))
    require_patients(read(table, TableOptions(patient_column="Fallnummer")))


def test_slides_as_patients_read_no_column_of_patients_and_a_note_says_so() -> None:
    cohort = read("path,patient_id\na.svs,p\nb.svs,p\n", OWN)
    assert [row.patient_id for row in cohort.rows] == ["a", "b"]
    assert any("patients=slides" in note for note in cohort.notes)
    with pytest.raises(ConfigError, match="patient_column=x"):
        TableOptions(patients=PatientUnit.slides, patient_column="x")


def test_many_slides_of_a_patient_called_unknown_are_not_of_one_patient() -> None:
    cohort = read("path,patient_id,label\na.svs,NA,x\nb.svs,NA,y\nc.svs,unknown,\n")
    assert [row.patient_id for row in cohort.rows] == ["a", "b", "c"]
    assert [(finding.row, finding.severity) for finding in cohort.findings] == [
        (2, "error"),
        (3, "error"),
        (4, "warning"),
    ]


TARGETS = "slide,path,Nr,BRAF,KRAS,label,os_time,dfs,os,relapse\ns1,a.svs,p7,mut,WT,old,5,3,0,yes\n"


def test_options_name_the_target_among_several() -> None:
    cohort = read(TARGETS, TableOptions(label_column="KRAS", patient_column="Nr"))
    (row,) = cohort.rows
    assert (row.label, row.patient_id, row.time, row.event) == ("WT", "p7", None, None)
    assert cohort.header["label"] == "KRAS"


def test_times_and_events_that_are_named_are_the_target() -> None:
    (row,) = read(TARGETS, TableOptions(time_column="dfs", event_column="relapse", patient_column="Nr")).rows
    assert (row.label, row.time, row.event) == (None, 3.0, True)
    both = TableOptions(time_column="dfs", event_column="relapse", label_column="BRAF", patient_column="Nr")
    assert read(TARGETS, both).rows[0].label == "mut"


def test_an_option_settles_what_names_leave_open() -> None:
    table = "slide_id,sample_id,path,os_months,os_days,status\ns1,x1,a.svs,1,30,1\n"
    with pytest.raises(CohortError, match="id_column="):
        read(table)
    with pytest.raises(CohortError, match="time_column="):
        read(table, TableOptions(id_column="sample_id"))
    (row,) = read(table, TableOptions(id_column="sample_id", time_column="os_days")).rows
    assert (row.slide_id, row.time, row.event) == ("x1", 30.0, True)


@pytest.mark.parametrize("option", ["id_column", "patient_column", "label_column", "time_column", "event_column"])
def test_a_column_that_an_option_names_and_that_is_not_there_is_refused_with_the_nearest(option: str) -> None:
    with pytest.raises(CohortError, match=rf"{option}=isMSI: there is no such column; the nearest is 'isMSIH'"):
        read("path,isMSIH,os_time,os\na.svs,1,1,1\n", TableOptions(**{option: "isMSI"}))


def test_a_column_of_times_that_is_named_and_holds_none_is_refused() -> None:
    with pytest.raises(CohortError, match="no cell is a readable time"):
        read("path,when,os\na.svs,later,1\n", TableOptions(time_column="when"))
    with pytest.raises(CohortError, match="no column gives the event"):
        read("path,when\na.svs,3\n", TableOptions(time_column="when"))


def test_a_column_has_the_one_meaning_that_an_option_gives_it() -> None:
    columns = find_columns(["slide", "path", "class", "label"], "c.csv", TableOptions(patient_column="class"))
    assert (columns.patient_id, columns.label) == (2, 3)


def test_columns_that_hold_parts_or_folds_under_another_name_are_found() -> None:
    cohort = read("path,Set,cv_fold,kind\na.svs,train,0,x\nb.svs,test,1,y\nc.svs,,2,x\n")
    assert cohort.likely_splits == ("Set", "cv_fold")
    assert read("path,Set,split\na.svs,train,train\nb.svs,test,test\n").likely_splits == ()
    assert read("path,note,fold_change\na.svs,train,1.5\nb.svs,bus,2\n").likely_splits == ()
