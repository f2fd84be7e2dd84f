"""Label tables as found in the field, with and without header, joined by whole ids."""

import pytest

from mhim_core.cohort.check import find_problems, validate
from mhim_core.cohort.ids import IdKind
from mhim_core.cohort.labels import LabelCells, join_labels, read_labels
from mhim_core.cohort.table import read_cohort
from mhim_core.cohort.task_options import TableOptions
from mhim_core.errors import CohortError


def read(text: str, **options: str):
    return read_labels(text.encode(), "labels.csv", TableOptions(**options))


def cohort_of(*lines: str, header: str = "slide_id,path,patient_id"):
    return read_cohort("\n".join([header, *lines]).encode(), name="c.csv", base_uri="/data")


COHORT = cohort_of("a1,a1.svs,a", "a2,a2.svs,a", "b1,b1.svs,b")


@pytest.mark.parametrize(
    ("name", "count", "first", "classes"),
    [
        ("label_c16.csv", 398, ("tumor_020", "1"), {"0": 239, "1": 159}),
        ("label_tcga_nsclc.csv", 956, ("TCGA-62-A46R", "LUAD"), {"LUAD": 478, "LUSC": 478}),
    ],
)
def test_the_shared_files_without_header_keep_their_first_row(shared_data, name, count, first, classes):
    table = read_labels((shared_data / "labels" / name).read_bytes(), name)
    labels = {key: cells.label for key, cells in table.cells.items()}
    assert len(labels) == count
    assert next(iter(labels.items())) == first
    assert {label: list(labels.values()).count(label) for label in classes} == classes
    assert table.notes == (f"{name} has no header: its first row is read as an id and a label, like the others",)
    cohort = cohort_of(*(f"{key}_x,{key}.svs,{key}" for key in labels))
    assert [row.label for row in join_labels(cohort, table).rows] == list(labels.values())


def test_the_shared_table_of_months_is_not_misread(shared_data):
    path = shared_data / "labels/label_luad_surv.csv"
    table = read_labels(path.read_bytes(), path.name)
    assert len(table.cells) == 455
    assert table.cells["TCGA-05-4245"] == LabelCells(time=24.33333333, event=False)
    assert sum(bool(cells.event) for cells in table.cells.values()) == 159
    assert table.header == {"time": "Event", "event": "Status"}
    assert "taken as the time" in table.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "slide_id,label\na1,x\nb1,y\n",
        "case_id,slide_id,label\nA,a1,x\nB,b1,y\n",
        "WSI,ID,Label\n/far/a1.pt,a1,x\n/far/b1.pt,b1,y\n",
        "name,class\na1,x\nb1,y\n",
        "a1,x\nb1,y\n",
        "a1;x\r\nb1;y\r\n",
        "a1.svs,x\nb1.tiff,y\n",
    ],
)
def test_a_header_is_told_from_a_row(text):
    assert {key: cells.label for key, cells in read(text).cells.items()} == {"a1": "x", "b1": "y"}


def test_a_single_row_without_header_is_a_row():
    assert read("a1,x\n").cells == {"a1": LabelCells("x")}


def test_labels_that_are_words_of_survival_make_no_header():
    assert list(read("a1,dead\nb1,alive\n").cells) == ["a1", "b1"]


def test_patients_and_slides_match_whole_and_the_slide_counts_where_both_do():
    joined = join_labels(COHORT, read("a,x\na2,y\nb,z\na1x,no\n"))
    assert [row.label for row in joined.rows] == ["x", "y", "z"]
    assert any("labels.csv: 1 of 4 ids have no slide in c.csv: 'a1x'" in note for note in joined.notes)
    assert not any("no label column" in note for note in joined.notes)
    assert joined.header["label"] == "label"
    assert validate(joined) == ()
    assert joined.classes() == ("x", "y", "z")


NUMBERED = cohort_of(*(f"{slide},{slide}.svs,{(slide + 1) // 2}" for slide in range(1, 9)))
"""Slides 1 to 8 of patients 1 to 4."""


@pytest.mark.parametrize("column", ["patient_id", "case_id", "PATIENT"])
def test_ids_of_patients_are_not_taken_for_those_of_slides(column):
    joined = join_labels(NUMBERED, read(f"{column},label\n1,neg\n2,pos\n3,neg\n4,pos\n"))
    assert [row.label for row in joined.rows] == ["neg", "neg", "pos", "pos", "neg", "neg", "pos", "pos"]
    assert not any("have no slide" in note for note in joined.notes)


@pytest.mark.parametrize("text", ["slide_id,label\n", "wsi,label\n", "id,patient_id,label\n"])
def test_ids_of_slides_are_not_taken_for_those_of_patients(text):
    between = "," if "patient_id" in text else ""
    joined = join_labels(NUMBERED, read(text + f"1,{between}neg\n3,{between}pos\n"))
    assert [row.label for row in joined.rows] == ["neg", None, "pos", *[None] * 5]


@pytest.mark.parametrize("text", ["1,neg\n2,pos\n9,pos\n", "id,label\n1,neg\n2,pos\n9,pos\n"])
def test_an_id_of_two_meanings_is_refused_where_nothing_says_which(text):
    message = r"^labels.csv: '1', '2': a slide .* a patient .* slide_id or patient_id"
    with pytest.raises(CohortError, match=message):
        join_labels(NUMBERED, read(text))


def test_the_kind_of_the_ids_follows_from_their_columns_name():
    assert read("a1,x\nb1,y\n").kind is IdKind.either
    assert read("name,class\na1,x\n").kind is IdKind.either
    assert read("ID,label\na1,x\n").kind is IdKind.either
    assert read("case_id,slide_id,label\nA,a1,x\n").kind is IdKind.slide
    assert read("pat_id,label\na,x\n").kind is IdKind.patient


def test_a_patients_id_is_compared_as_it_stands_and_a_slides_without_its_extension():
    cohort = cohort_of("a.svs,a.svs,p.svs", "b,b.svs,p")
    assert [row.label for row in join_labels(cohort, read("patient_id,label\np.svs,x\np,y\n")).rows] == ["x", "y"]
    assert [row.label for row in join_labels(cohort, read("slide_id,label\na,x\nb.svs,y\n")).rows] == ["x", "y"]


def test_ids_of_the_other_kind_than_the_column_says_are_pointed_out():
    with pytest.raises(CohortError, match=r"none of its 2 slide ids .* \(2 are ids of patients, but .* says slide\)"):
        join_labels(COHORT, read("slide_id,label\na,x\nb,y\n"))
    joined = join_labels(COHORT, read("patient_id,label\na,x\nb1,y\n"))
    assert any("1 of 2 patient ids have no slide in c.csv (1 are ids of slides, " in note for note in joined.notes)


def test_a_slide_without_a_label_is_named_by_the_check():
    joined = join_labels(COHORT, read("b1,z\n"))
    assert [row.label for row in joined.rows] == [None, None, "z"]
    assert [finding.row for finding in find_problems(joined)] == [2, 3]


def test_the_table_takes_the_place_of_the_cohorts_own_labels_times_and_events():
    own = cohort_of("a1,a1.svs,a,old,1,1", "b1,b1.svs,b,old,2,0", header="slide_id,path,patient_id,label,time,event")
    joined = join_labels(own, read("a1,new\n"))
    assert [(row.label, row.time, row.event) for row in joined.rows] == [("new", None, None), (None, None, None)]
    assert "time" not in joined.header
    assert any("its own 'label', 'time', 'event' are not used" in note for note in joined.notes)
    survival = join_labels(own, read("patient,OS_time,censorship\na,5,1\nb,6,0\n"))
    assert [(row.label, row.time, row.event) for row in survival.rows] == [(None, 5.0, False), (None, 6.0, True)]
    assert "label" not in survival.header


def test_a_labelled_slide_needs_a_patient_and_an_unlabelled_one_does_not():
    cohort = cohort_of("a1,a1.svs,", "b1,b1.svs,b")
    assert [finding.severity for finding in cohort.findings] == ["warning"]
    with pytest.raises(CohortError, match="the patient is empty: a labelled slide needs one"):
        validate(join_labels(cohort, read("a1,x\nb1,y\n")))
    own = cohort_of("a1,a1.svs,,x", "b1,b1.svs,b,y", header="slide_id,path,patient_id,label")
    assert [finding.severity for finding in own.findings] == ["error"]
    assert [finding.severity for finding in join_labels(own, read("b1,y\n")).findings] == ["warning"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a1,x,y\nb1,y,z\n", "each row is an id and a label; row 1 has 3 cells"),
        ("a1\nb1\n", "row 1 has 1 cells. Add a header line"),
        ("slide_id,label\n", "no rows"),
        ("slide_id,note\na1,x\n", "no column gives a label, or a time and an event"),
        ("slide_id,time\na1,5\n", "no column gives a label, .* no column gives the event"),
        ("slide_id,label,target\na1,x,y\n", "all mean the label"),
        ("slide_id,slide,label\na1,a1,y\n", "could all be the id"),
        ("slide_id,label\n,x\n", "row 2: the id is empty"),
        ("a1,x\nb1,y\na1,z\n", "row 3: 'a1' has another label than in row 1"),
        ("slide_id,time,event\na1,-1,1\nb1,2,1\n", "row 2: -1 is before the start"),
        ("slide_id,time,event\na1,1,1\nb1,2,7\n", "row 3: '7' does not say"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused_with_what_was_found(text, message):
    with pytest.raises(CohortError, match=rf"^labels.csv: (.*\n)*.*{message}"):
        read(text)


def test_the_same_label_twice_is_one_label():
    assert read("a1,x\na1,x\n").cells == {"a1": LabelCells("x")}


def test_ids_that_match_nothing_at_all_are_refused_with_both_sides():
    with pytest.raises(CohortError, match=r"none of its 2 ids gives a slide of c.csv a label; .* 'A1', .* 'a1' of"):
        join_labels(COHORT, read("A1,x\na,\n"))


CLINICAL = "#Patient\tSample\tMonths\tStatus\n#1\t1\t1\t1\nPATIENT_ID\tSAMPLE_ID\tOS_MONTHS\tOS_STATUS\n"


def test_of_several_columns_of_ids_the_one_that_the_cohort_knows_is_taken_and_a_note_says_so():
    joined = join_labels(COHORT, read(CLINICAL + "a\ta-01\t21.6\t1:DECEASED\nb\tb-01\t11.5\t0:LIVING\n"))
    assert [(row.time, row.event) for row in joined.rows] == [(21.6, True), (21.6, True), (11.5, False)]
    assert any("'PATIENT_ID'" in note and "0 of the 2 of 'SAMPLE_ID'" in note for note in joined.notes)
    assert any("2 comment lines" in note for note in joined.notes)


def test_the_more_telling_column_is_taken_where_the_cohort_knows_it_too():
    joined = join_labels(COHORT, read("patient,slide,label\na,a1,x\na,a2,y\nb,b1,z\n"))
    assert [row.label for row in joined.rows] == ["x", "y", "z"]
    assert not any("the ids are taken" in note for note in joined.notes)


def test_rows_that_the_other_ids_contradict_refuse_the_table_where_these_are_taken():
    text = "patient,slide,label\na,one,x\na,two,y\nb,three,z\n"
    with pytest.raises(CohortError, match="'a' has another label than in row 2"):
        join_labels(COHORT, read(text))


def test_options_name_the_columns_of_the_table():
    text = "nr,who,isMSIH,BRAF\n1,a,MSIH,mut\n2,b,nonMSIH,WT\n"
    joined = join_labels(COHORT, read(text, label_column="BRAF", patient_column="who"))
    assert [row.label for row in joined.rows] == ["mut", "mut", "WT"]
    slides = join_labels(COHORT, read(text.replace(",a,", ",a1,"), label_column="isMSIH", id_column="Who"))
    assert [row.label for row in slides.rows] == ["MSIH", None, "nonMSIH"]
    with pytest.raises(CohortError, match="label_column=KRAS: there is no such column"):
        read(text, label_column="KRAS")


def test_options_of_the_cohorts_table_make_no_header_of_a_first_row():
    assert list(read("a1,x\nb1,y\n", id_column="scan").cells) == ["a1", "b1"]


def test_whole_numbers_that_a_data_frame_wrote_as_floats_are_the_ids_they_were():
    cohort = cohort_of("x,x.svs,1", "y,y.svs,2", "z,z.svs,02")
    joined = join_labels(cohort, read("patient_id,label\n1.0,u\n2.0,v\n"))
    assert [row.label for row in joined.rows] == ["u", "v", None]
    with pytest.raises(CohortError, match=r"'1' and '1\.0' both name"):
        join_labels(cohort, read("patient_id,label\n1.0,u\n1,v\n"))


def test_an_id_that_nearly_names_a_slide_without_label_is_an_error_and_one_that_names_none_is_not():
    cohort = cohort_of("x,x.svs,1", "y,y.svs,007", "z,z.svs,P7")
    for nearly, twin in (("7", "007"), ("7.0", "007"), ("p7", "P7"), ("P 7", "P7")):
        with pytest.raises(CohortError, match=rf"1 ids differ .*'{nearly}' \('{twin}' there\)"):
            join_labels(cohort, read(f"patient_id,label\n1,u\n{nearly},v\n"))
    joined = join_labels(cohort, read("patient_id,label\n1,u\n007,v\n7,w\nP8,x\n"))
    assert [row.label for row in joined.rows] == ["u", "v", None]


def test_words_for_no_label_are_none_here_as_in_the_cohort():
    joined = join_labels(COHORT, read("slide,label\na1,[Not Available]\na2,x\nb1,'--\n"))
    assert [row.label for row in joined.rows] == [None, "x", None]
    assert any("2 label cells" in note for note in joined.notes)
