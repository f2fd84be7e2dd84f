"""Reading the user's table: columns under any of their names, values exactly as written."""

import io
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mhim_core.cohort.check import find_problems
from mhim_core.cohort.columns import strip_extension
from mhim_core.cohort.table import CohortRow, read_cohort, sort_labels
from mhim_core.cohort.task_options import AS_FOUND, TableOptions
from mhim_core.errors import CohortError


def read(text: str, base_uri: str = "/data", name: str = "cohort.csv", options: TableOptions = AS_FOUND):
    return read_cohort(text.encode(), name=name, base_uri=base_uri, options=options)


def test_a_plain_table_is_read_as_written():
    cohort = read(
        "slide_id,path,patient_id,label,mpp,split,site,note\n007,a/x.svs,0042,1,0.50,validation,hôpital,whatever\n"
    )
    (row,) = cohort.rows
    assert row == CohortRow("007", "/data/a/x.svs", "0042", "1", 0.5, "val", "hôpital", row=2)
    assert cohort.findings == ()
    assert cohort.notes == ()
    assert len(cohort.sha256) == 64


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_byte_order_mark_line_ends_and_delimiters_do_not_matter(end, mark, delimiter):
    text = end.join(["slide_id,path,label", "a,a.svs,x", "", "b,b.svs,y", ""]).replace(",", delimiter)
    cohort = read_cohort(mark + text.encode(), name="c.csv", base_uri="/data")
    assert [(row.slide_id, row.label) for row in cohort.rows] == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize("slide", ["slide_id", "wsi", "FILENAME", "image_path", "sample_id", "slide"])
@pytest.mark.parametrize("patient", ["case_id", "PATIENT", "patient", "patient_id", "pat_id"])
def test_every_alias_of_the_field_is_known(slide, patient):
    cohort = read(f"{slide},path,{patient},target,spacing_at_level_0\ns1.svs,d/s1.svs,p,yes,0.25\n")
    row = cohort.rows[0]
    assert (row.slide_id, row.uri, row.patient_id, row.label, row.mpp) == ("s1", "/data/d/s1.svs", "p", "yes", 0.25)
    assert not cohort.derives_ids


@pytest.mark.parametrize("column", ["slide_id", "wsi", "FILENAME", "image_path", "path", "uri", "file"])
def test_a_single_column_of_file_names_gives_path_and_id(column):
    cohort = read(f"{column},label\nsub/TCGA-05.36ff.SVS,a\nx.ome.tiff,b\n")
    assert [row.slide_id for row in cohort.rows] == ["TCGA-05.36ff", "x"]
    assert cohort.rows[0].uri == "/data/sub/TCGA-05.36ff.SVS"
    assert cohort.derives_ids


def test_an_id_beside_a_file_column_leaves_the_file_column_as_path():
    cohort = read("slide_id,image_path\ns1,deep/a.tiff\n")
    assert (cohort.rows[0].slide_id, cohort.rows[0].uri) == ("s1", "/data/deep/a.tiff")


@pytest.mark.parametrize(
    ("base_uri", "path", "uri"),
    [
        ("/data/", "a.svs", "/data/a.svs"),
        ("/data/tables", "../slides/a.svs", "/data/slides/a.svs"),
        ("/data", "/abs/a.svs", "/abs/a.svs"),
        ("/data", "s3://bucket/k/a.svs", "s3://bucket/k/a.svs"),
        ("/data", "file:///abs/a.svs", "/abs/a.svs"),
        ("s3://bucket/tables", "a.svs", "s3://bucket/tables/a.svs"),
        ("s3://bucket/tables/", "../slides/a.svs", "s3://bucket/slides/a.svs"),
        ("s3://bucket", "a (1).svs", "s3://bucket/a (1).svs"),
        ("s3://bucket/tables", "/abs/a.svs", "/abs/a.svs"),
    ],
)
def test_relative_paths_start_at_the_table_folder(base_uri, path, uri):
    assert read(f'slide_id,path\na,"{path}"\n', base_uri).rows[0].uri == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("slide_id,path\n", "no rows"),
        ("tumor_020,1\nnormal_052,0\n", "add one"),
        ("slide_id,label\ns1,a\n", "add a column `path`"),
        ("slide_id,path,label,target\na,a.svs,1,1\n", "'label', 'target' all mean the label"),
        ("slide_id,path,patient_id,PATIENT\na,a.svs,1,1\n", "all mean the patient"),
        ("slide_id,path,Path\na,a.svs,b.svs\n", "all mean the path"),
        ("slide_id,wsi,path\na,a.svs,a.svs\n", "two mean the same"),
        ('slide_id,path\n"a,a.svs\n', "check the quotes"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused_with_a_sentence(text, message):
    with pytest.raises(CohortError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"slide_id,path\nh\xf4pital,a.svs\n", "c.csv", "line 2 is not UTF-8"),
        (b"PK\x03\x04xxxx", "c.csv", "spreadsheet"),
        (b"slide_id,path\na,a.svs\n", "c.parquet", "does not start like a Parquet file"),
        (b"PAR1 and then rubbish", "c.parquet", "not a readable Parquet file"),
    ],
)
def test_other_formats_are_named(data, name, message):
    with pytest.raises(CohortError, match=message):
        read_cohort(data, name=name, base_uri="/data")


def test_parquet_gives_the_same_rows_as_csv():
    columns = {
        "slide_id": ["007", "b"],
        "path": ["x.svs", "y.svs"],
        "case_id": pa.array([1, None], pa.float64()),
        "label": pa.array([1, 0], pa.int64()),
        "mpp": [0.25, None],
        "embedding": [[1.0], [2.0]],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    cohort = read_cohort(buffer.getvalue(), name="cohort", base_uri="/data")
    assert cohort.rows[0] == CohortRow("007", "/data/x.svs", "1", "1", 0.25, row=1)
    assert [finding.message for finding in cohort.findings] == ["the patient is empty: a labelled slide needs one"]


def test_without_patients_each_slide_is_its_own_and_a_note_says_so():
    cohort = read("slide_id,path\na,a.svs\nb,b.svs\n")
    assert [row.patient_id for row in cohort.rows] == ["a", "b"]
    assert "no patient column" in cohort.notes[0]
    assert "no label column" in cohort.notes[1]


@pytest.mark.parametrize(
    ("mpp", "value", "severity", "message"),
    [
        ("", None, None, ""),
        ("0.5", 0.5, None, ""),
        ("5e-1", 0.5, None, ""),
        ("0", None, "warning", "not a resolution"),
        ("NaN", None, "warning", "not a resolution"),
        ("-0.5", None, "warning", "not a resolution"),
        ("20x", None, "error", "not a number"),
        ("1_0", None, "error", "not a number"),
        ("inf", None, "error", "not a number"),
        ("1e999", None, "error", "not a number"),
        ('"0,5"', None, "error", "write 0.5"),
    ],
)
def test_resolutions_are_numbers_or_findings(mpp, value, severity, message):
    cohort = read(f"slide_id,path,mpp\na,a.svs,{mpp}\n")
    assert cohort.rows[0].mpp == value
    assert [finding.severity for finding in cohort.findings] == ([severity] if severity else [])
    assert all(
        message in str(finding) and "row 2, slide 'a', column 'mpp'" in str(finding) for finding in cohort.findings
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,,train,", "the path is empty"),
        ("a,http://host/a.svs,train,", "neither a path nor an s3:// URI"),
        ("a,a\0.svs,train,", "control character"),
        ("a,a.svs,holdout,", "train, val, test"),
        ("a,a.svs,train,abc", "not a sha256"),
        ("a,a.svs,train", "3 cells where the header has 4"),
        ("a,a.svs,train,,extra", "5 cells where the header has 4"),
    ],
)
def test_cells_that_cannot_be_read_are_findings(row, message):
    cohort = read(f"slide_id,path,split,sha256\n{row}\n")
    assert [message in finding.message for finding in cohort.findings] == [True]


@pytest.mark.parametrize(
    ("fold", "value"),
    [("0", 0), ("10", 10), ("3.0", 3), (" 2 ", 2), ("", None), ("-1", None), ("1.5", None), ("a", None)],
)
def test_folds_are_whole_numbers_or_findings(fold, value):
    cohort = read(f"slide_id,path,fold\na,a.svs,{fold}\n")
    assert cohort.rows[0].fold == value
    assert cohort.header["fold"] == "fold"
    assert [finding.column for finding in cohort.findings] == (["fold"] if value is None and fold else [])


def test_times_and_events_are_read_as_numbers_and_truth_and_anything_else_is_a_finding():
    cohort = read(
        "slide_id,path,OS_Months,vital_status\n"
        "a,a.svs,0,Dead\nb,b.svs,12.5,alive\nc,c.svs,-1,1\nd,d.svs,inf,0\ne,e.svs,3,2\nf,f.svs,,NA\n"
    )
    assert [(row.time, row.event) for row in cohort.rows] == [
        (0.0, True),
        (12.5, False),
        (None, True),
        (None, False),
        (3.0, None),
        (None, None),
    ]
    assert [(finding.row, finding.column) for finding in cohort.findings] == [
        (4, "OS_Months"),
        (5, "OS_Months"),
        (6, "vital_status"),
    ]
    assert cohort.header | {"time": "OS_Months", "event": "vital_status"} == cohort.header
    assert [note for note in cohort.notes if "label" in note] == []


def test_a_slide_with_an_event_needs_a_patient_as_one_with_a_label_does():
    cohort = read("slide_id,path,patient,time,event\na,a.svs,,1,1\nb,b.svs,,,\nc,c.svs,p,2,0\n")
    assert [(finding.row, finding.severity) for finding in cohort.findings] == [(2, "error"), (3, "warning")]


def test_a_path_out_of_the_bucket_is_a_finding():
    assert "leads out of the bucket" in read("slide_id,path\na,../../a.svs\n", "s3://b/t").findings[0].message


def test_rows_are_named_by_their_first_line_also_after_cells_with_line_breaks():
    cohort = read('slide_id,path,note\na,a.svs,"two\nlines"\nb,b.svs,x\n')
    assert [row.row for row in cohort.rows] == [2, 4]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({"10", "9", "-1"}, ("-1", "9", "10")),
        ({"tumour", "normal"}, ("normal", "tumour")),
        ({"grade 10", "grade 2"}, ("grade 2", "grade 10")),
        ({"1", "1.0"}, ("1", "1.0")),
    ],
)
def test_classes_are_sorted_with_numbers_as_numbers(labels, classes):
    assert sort_labels(labels) == classes


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.SVS", "a"), ("a.b.tiff", "a.b"), ("a.ome.tif", "a"), ("a.36ff", "a.36ff"), (".svs", ".svs"), ("a", "a")],
)
def test_only_a_slide_extension_is_stripped(name, stem):
    assert strip_extension(name) == stem


@pytest.mark.thorough
def test_a_hundred_thousand_rows_take_seconds():
    lines = [f"s{index},d/s{index}.svs,p{index // 2},{index % 2},0.5,extra,extra" for index in range(100_000)]
    start = time.process_time()
    cohort = read("\r\n".join(["slide_id,path,patient,label,mpp,x,y", *lines]))
    assert len(cohort.rows) == 100_000
    assert time.process_time() - start < 5


def test_the_shared_cohort_is_read(shared_data):
    path = shared_data / "slides/atlas10x_mpp.csv"
    cohort = read_cohort(path.read_bytes(), name=path.name, base_uri=str(path.parent))
    assert len(cohort.rows) == 21
    assert len({row.patient_id for row in cohort.rows}) == 13
    assert cohort.classes() == ("0", "1")
    assert cohort.findings == ()


@pytest.mark.parametrize("name", ["label_c16.csv", "label_tcga_nsclc.csv"])
def test_shared_label_files_without_header_are_refused_with_advice(shared_data, name):
    with pytest.raises(CohortError, match="If the table has no header line, add one"):
        read_cohort((shared_data / "labels" / name).read_bytes(), name=name, base_uri="/")


@pytest.mark.parametrize(
    "word",
    ["NA", "n/a", "Unknown", "'--", "-", ".", "not evaluated", "[Not Available]", "Not_Reported", "<NA>", "NULL", " "],
)
def test_words_for_no_label_are_no_classes_and_are_counted(word):
    cohort = read(f"path,patient,label\na.svs,p,x\nb.svs,q,{word}\nc.svs,r,y\nd.svs,s,{word}\n")
    assert cohort.classes() == ("x", "y")
    assert [row.label for row in cohort.rows] == ["x", None, "y", None]
    counted = [note for note in cohort.notes if "na_values=" in note]
    assert all(f"{word.strip()!r} 2" in note for note in counted)
    assert len(counted) == bool(word.strip())


def test_a_class_that_is_called_like_no_label_can_be_forced():
    table = "path,patient,label\na.svs,p,NA\nb.svs,q,none\nc.svs,r,\n"
    assert read(table, options=TableOptions(na_values=("none",))).classes() == ("NA",)
    assert read(table, options=TableOptions(na_values=())).classes() == ("NA", "none")
    assert read(table.replace(",NA", ",missed"), options=TableOptions(na_values=("missed",))).classes() == ("none",)


def test_words_for_nothing_say_nothing_of_resolution_time_and_site():
    (row,) = read("path,mpp,os_time,os,site\na.svs,[Unknown],not available,'--,-\n").rows
    assert (row.mpp, row.time, row.event, row.site) == (None, None, None, None)


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (["0,31", "1,4"], ["0.31", "1.4"]),
        (["1", "2,5"], ["2.5"]),
        (["-0,5", "x"], []),
        (["a, b", "c"], []),
        (["1,2,3", "4"], []),
    ],
)
def test_a_decimal_comma_among_numbers_is_no_class(labels, advice):
    rows = "".join(f"{index}.svs;p{index};{label}\n" for index, label in enumerate(labels))
    problems = find_problems(read("path;patient;label\n" + rows))
    assert [finding.message.rpartition("write ")[2] for finding in problems] == advice
    assert all(finding.severity == "error" for finding in problems)


def test_labels_of_any_number_of_digits_are_in_natural_order() -> None:
    huge = "9" * 5000
    assert sort_labels({huge, "1" + huge, "s10", "s9", "007", "7", "70", "0", "00"}) == (
        "0", "00", "007", "7", "70", huge, "1" + huge, "s9", "s10",
    )  # fmt: skip
