"""Predefined folds, one file each, in the two layouts of the field; ids are compared whole."""

import pytest

from mhim_core.cohort.ids import IdKind
from mhim_core.cohort.split_files import SplitFile, read_split_file, splits_from_files
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.errors import CohortError, SplitError
from mhim_core.task import Task, TaskKind

CLASSES = Task(kind=TaskKind.classification, classes=("n", "p"))
PARTS = {"n0": "train", "p0": "train", "n1": "val", "p1": "val", "n2": "test", "p2": "test"}


def rows_of(*patients: str, slides: int = 2) -> list[CohortRow]:
    """The label is the patient's first letter; slides are named `<patient>-<index>`."""
    return [
        CohortRow(f"{patient}-{index}", "/x", patient, patient[0]) for patient in patients for index in range(slides)
    ]


ROWS = rows_of("n0", "p0", "n1", "p1", "n2", "p2")


def read(text: str) -> SplitFile:
    return read_split_file(text.encode(), "splits_0.csv")


def splits_of(rows, *files: SplitFile, cohort_rows=None, seed=0, partial=False, **options):
    known = cohort_rows or rows
    return splits_from_files(rows, files, CLASSES, SplitOptions(**options), seed, known, partial=partial)


LONG = "\n".join(["patient_id,split,note", *(f"{patient},{part},x" for patient, part in PARTS.items())])
WIDE = ",train,val,test\n0,n0,n1,n2\n1,p0,p1,p2\n"
WIDE_LABELLED = ",train,train_label,val,val_label,test,test_label\n0.0,n0,0.0,n1,0.0,n2,0.0\n1.0,p0,1.0,p1,1.0,p2,1.0\n"


@pytest.mark.parametrize("text", [LONG, WIDE, WIDE_LABELLED, WIDE.replace(",train", "Unnamed: 0,train", 1)])
def test_both_layouts_say_the_same(text):
    file = read(text)
    assert file.parts == PARTS
    (split,) = splits_of(ROWS, file).splits
    assert split == (
        0,
        ("n0-0", "n0-1", "p0-0", "p0-1"),
        ("n1-0", "n1-1", "p1-0", "p1-1"),
        ("n2-0", "n2-1", "p2-0", "p2-1"),
    )


def test_columns_may_be_ragged_and_named_by_their_aliases():
    file = read(",Training,Validation,Testing\n0,a,d,e\n1,b,,f\n2,c\n")
    assert file.parts == {"a": "train", "b": "train", "c": "train", "d": "val", "e": "test", "f": "test"}


@pytest.mark.parametrize("column", ["slide_id", "case_id", "ID", "wsi"])
def test_the_id_of_a_long_file_has_the_names_of_the_field(column):
    assert read(f"{column},split\na,train\nb,\n").parts == {"a": "train"}


def test_slide_ids_and_patient_ids_both_match_whole_and_without_their_file_extension_where_no_column_says_which():
    file = read("id,split\nn0,train\np0-0.svs,train\np0-1,train\nn1,val\np1,val\nn2,test\np2,test\n")
    made = splits_of(ROWS, file)
    assert made.splits == splits_of(ROWS, read(WIDE)).splits
    assert made.notes == ()


NUMBERED = [CohortRow(str(slide), "/x", str((slide + 1) // 2), "np"[slide % 4 > 1]) for slide in range(1, 13)]
"""Slides 1 to 12 of patients 1 to 6."""


def test_a_file_of_patients_is_taken_where_slides_have_the_same_ids_and_one_of_slides_too():
    patients = read("patient_id,split\n1,train\n2,train\n3,val\n4,val\n5,test\n6,test\n")
    (split,) = splits_of(NUMBERED, patients).splits
    assert split == (0, ("1", "2", "3", "4"), ("5", "6", "7", "8"), ("10", "11", "12", "9"))
    parts = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    slides = read("slide_id,split\n" + "".join(f"{index + 1},{part}\n" for index, part in enumerate(parts)))
    assert splits_of(NUMBERED, slides).splits == (split,)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("case_id,split\na,train\n", IdKind.patient),
        ("case_id,slide_id,split\na,b,train\n", IdKind.slide),
        ("wsi,split\na,train\n", IdKind.slide),
        ("ID,split\na,train\n", IdKind.either),
        (WIDE, IdKind.either),
    ],
)
def test_the_kind_of_the_ids_follows_from_their_columns_name(text, kind):
    assert read(text).kind is kind


def test_ids_of_the_other_kind_than_the_column_says_are_pointed_out():
    text = "".join(f"{patient},{part}\n" for patient, part in PARTS.items())
    with pytest.raises(SplitError, match=r"lists no slide .* \(6 are ids of patients, but .* says slide\)"):
        splits_of(ROWS, read("slide_id,split\n" + text))
    made = splits_of(ROWS, read("patient_id,split\nn2-1,test\n" + text), partial=True)
    assert made.notes == (
        "splits_0.csv: 1 of its patient ids are not in the cohort (1 are ids of slides, but their column's name says "
        "patient): 'n2-1'",
    )


def test_a_test_part_that_lacks_a_class_is_taken_and_a_note_says_what_that_costs():
    rows = [row for row in ROWS if row.patient_id != "p2"]
    made = splits_of(rows, read(WIDE.replace("p2", "")))
    assert made.splits[0].test == ("n2-0", "n2-1")
    assert made.notes == ("splits_0.csv tests no slide of class 'p': metrics that need one are null there",)


def test_a_file_without_test_is_taken_and_a_note_says_what_that_costs():
    rows = [row for row in ROWS if row.patient_id not in ("n2", "p2")]
    made = splits_of(rows, read(",train,val\n0,n0,n1\n1,p0,p1\n"))
    assert made.splits[0].test == ()
    assert made.notes == ("splits_0.csv has no test: nothing is held out to evaluate the models on",)


def test_an_id_is_never_matched_by_a_part_of_it():
    rows = [*ROWS, *rows_of("n", "n00")]
    made = splits_of(rows, read(WIDE))
    assert made.splits == splits_of(ROWS, read(WIDE)).splits
    (note,) = made.notes
    assert note.startswith("splits_0.csv does not list 4 slides")
    assert note.endswith("'n00-0', 'n00-1', 'n-0', 'n-1'")


def test_folds_are_numbered_in_the_order_of_their_files():
    first, second = read(WIDE), read(",train,val,test\n0,n2,n1,n0\n1,p2,p1,p0\n")
    made = splits_of(ROWS, second, first)
    assert [split.fold for split in made.splits] == [0, 1]
    assert made.splits[0].test == ("n0-0", "n0-1", "p0-0", "p0-1")
    assert made.notes == ()


def test_files_that_test_the_same_slides_again_are_said_to():
    assert "test 4 slides again" in splits_of(ROWS, read(WIDE), read(WIDE)).notes[0]


def test_validation_is_taken_from_train_where_the_file_has_none_and_a_note_says_so():
    rows = rows_of(*(f"{kind}{index}" for kind in "np" for index in range(6)))
    file = read(
        "patient_id,split\n" + "".join(f"{k}{i},{'test' if i == 5 else 'train'}\n" for k in "np" for i in range(6))
    )
    made = splits_of(rows, file)
    assert made.notes == ("splits_0.csv has no val: validation is taken from its train, 0.2 of it",)
    (split,) = made.splits
    assert {slide[0] for slide in split.validation} == {"n", "p"}
    assert len(split.validation) == 4
    assert not set(split.validation) & set(split.train)
    assert len(splits_of(rows, file, val_fraction=0.4).splits[0].validation) == 8
    assert splits_of(rows, file) == made


def test_unknown_ids_and_slides_without_tiles_are_told_apart():
    file = read(WIDE + "2,gone,,\n")
    made = splits_of([row for row in ROWS if row.slide_id != "n0-1"], file, cohort_rows=ROWS, partial=True)
    assert made.notes == (
        "splits_0.csv: 1 of its ids are not in the cohort: 'gone'",
        "splits_0.csv: 1 of its slides have no target or no tiles: 'n0-1'",
    )
    assert made.splits[0].train == ("n0-0", "p0-0", "p0-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,fold\na,1\n", "found columns 'slide_id', 'fold'; expected an id column and `split`"),
        ("slide_id,split\na,train\na,test\n", "'a' is in train and in test"),
        (",train,test\n0,a,b\n1,b,\n", "'b' is in train and in test"),
        ("slide_id,split\na,holdout\n", "row 2: 'holdout' .*train, val, test"),
        ("slide_id,split\n,train\n", "row 2 has a split but no id"),
        ("slide_id,split\na\n", "row 2 has 1 cells where the header has 2"),
        ("name,split\na,train\n", "0 id and 1 split columns"),
        ("slide_id,wsi,train,training\na,b,c,d\n", "two are the same part"),
        (",train,val,test\na,True,False,False\nb,False,True,False\n", "hold true and false, not ids"),
    ],
)
def test_a_file_that_gives_no_split_is_refused_with_what_was_found(text, message):
    with pytest.raises(SplitError, match=f"^splits_0.csv: .*{message}"):
        read(text)


def test_what_is_no_table_is_a_cohort_error():
    with pytest.raises(CohortError, match="the table has no rows"):
        read(",train,val,test\n")


@pytest.mark.parametrize(
    ("rows", "text", "message"),
    [
        (ROWS, "patient_id,split\nx,train\n", "lists no slide or patient of the cohort"),
        (ROWS, WIDE.replace("n2", "n0-1"), "slide 'n0-1' is in train and, by 'n0-1', in test"),
        (
            [*ROWS, *rows_of("p9")],
            "id,split\nn0-0,train\np0,train\nn1,val\np1,val\nn0-1,test\nn2,test\np2,test\n",
            "patient 'n0' is in train and test",
        ),
        (ROWS, WIDE.replace("p1", ""), "class 'p' has no patient in the validation part of fold 0; change the file"),
        (
            [*ROWS, CohortRow("n0", "/x", "other", "n")],
            WIDE,
            "'n0': a slide .* a patient of other slides",
        ),
    ],
)
def test_a_file_that_leaks_or_lacks_is_refused_with_its_name(rows, text, message):
    with pytest.raises(SplitError, match=f"^splits_0.csv.*{message}"):
        splits_of(rows, read(text))


BY_NUMBER = [CohortRow(f"s{number}", "/x", str(number), "np"[number % 2]) for number in range(1, 13)]
"""Slides s1 to s12 of patients 1 to 12."""
OF_PANDAS = ",train,val,test\n0,1,9.0,11.0\n1,2,10.0,12.0\n" + "".join(f"{i},{i + 1},,\n" for i in range(2, 8))


def test_whole_numbers_that_a_data_frame_with_gaps_wrote_as_floats_are_the_ids_they_were():
    made = splits_of(BY_NUMBER, read(OF_PANDAS))
    assert made.splits == splits_of(BY_NUMBER, read(OF_PANDAS.replace(".0", ""))).splits
    assert [len(part) for part in made.splits[0][1:]] == [8, 2, 2]
    assert len(made.notes) == 1
    assert "4 ids are read as whole numbers, '9.0' as '9'" in made.notes[0]
    long = "patient_id,split\n" + "".join(f"{i}.0,{'val' if i > 8 else 'train'}\n" for i in range(1, 11))
    assert len(splits_of(BY_NUMBER[:10], read(long)).splits[0].validation) == 2


def test_floats_that_are_ids_stay_what_they_are():
    rows = [row._replace(patient_id=f"{row.patient_id}.0") for row in BY_NUMBER]
    assert splits_of(rows, read(OF_PANDAS)).splits == splits_of(BY_NUMBER, read(OF_PANDAS)).splits
    both = [*BY_NUMBER, CohortRow("x", "/x", "9.0", "p")]
    assert "x" in splits_of(both, read(OF_PANDAS)).splits[0].validation


@pytest.mark.parametrize(("mangled", "twin"), [("n2 ", None), ("N2", "'n2'"), ("2", None)])
def test_an_id_that_nobody_knows_ends_the_command_unless_it_may_be_left_out(mangled, twin):
    rows = [*ROWS, CohortRow("s", "/x", "002", "n")]
    if mangled == "n2 ":
        assert splits_of(rows, read(WIDE.replace("n2", mangled))).splits[0].test == ("n2-0", "n2-1", "p2-0", "p2-1")
        return
    with pytest.raises(
        SplitError, match=rf"1 of its 6 ids are not in the cohort: '{mangled}'.*partial_splits=true"
    ) as no:
        splits_of(rows, read(WIDE.replace("n2", mangled)))
    assert (twin or "'002'") in str(no.value)
    assert splits_of(rows, read(WIDE.replace("n2", mangled)), partial=True).splits[0].test == ("p2-0", "p2-1")


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_that_is_filled_and_matches_nothing_is_not_as_if_it_were_absent(part, partial):
    first, second = {"val": ("n1", "p1"), "test": ("n2", "p2")}[part]
    rows = rows_of(*(f"{kind}{index}" for kind in "np" for index in range(6)))
    unknown = read(WIDE.replace(first, "x").replace(second, "y"))
    with pytest.raises(SplitError, match=rf"{part} lists 2 ids, and none is of .*'x', 'y'" if partial else "'x', 'y'"):
        splits_of(rows, unknown, partial=partial)
    without_tiles = [row for row in rows if row.patient_id not in (first, second)]
    with pytest.raises(SplitError, match=rf"{part} lists 2 ids, and none is of a slide with a target and tiles"):
        splits_of(without_tiles, read(WIDE), cohort_rows=rows, partial=partial)


@pytest.mark.parametrize("column", ["val_ids", "Validation set", "test slides", "dev.1"])
def test_a_column_that_seems_to_be_a_part_and_is_not_read_is_refused(column):
    with pytest.raises(SplitError, match=f"column '{column}' seems to list a part and is not read"):
        read(f",train,{column}\n0,a,b\n")


def test_no_file_is_no_split():
    with pytest.raises(SplitError, match="no split file"):
        splits_of(ROWS)


def test_a_slide_that_is_its_own_patient_is_not_ambiguous():
    rows = [CohortRow(patient, "/x", patient, patient[0]) for patient in PARTS]
    assert splits_of(rows, read(WIDE)).splits[0].test == ("n2", "p2")


def test_survival_folds_are_checked_as_all_are():
    rows = [CohortRow(patient, "/x", patient, time=1.0, event=False) for patient in PARTS]
    with pytest.raises(SplitError, match=r"splits_0.csv: no patient of the train part of fold 0 has an event"):
        splits_from_files(rows, [read(WIDE)], Task(kind=TaskKind.survival), SplitOptions(), 0, rows)
