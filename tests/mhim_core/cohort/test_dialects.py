"""Tables as people's programs write them are read, or refused with what they are."""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core.cohort import limits
from mhim_core.cohort.cells import read_cells
from mhim_core.errors import CohortError

HEADER, ROWS = ["path", "label"], [["a.svs", "x"], ["b.svs", "y"]]
PLAIN = b"path,label\na.svs,x\nb.svs,y\n"


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def rows_of(data: bytes) -> list[list[str]]:
    table = read_cells(data, "c.csv")
    return [table.header, *(row.cells for row in table.rows)]


@pytest.mark.parametrize(
    "data",
    [
        b"sep=;\r\npath;label\r\na.svs;x\r\nb.svs;y\r\n",
        b'"sep=,"\npath,label\na.svs,x\nb.svs,y\n',
        b"SEP=\t\npath\tlabel\na.svs\tx\nb.svs\ty\n",
        PLAIN.replace(b",", b"\t").decode().encode("utf-16"),
        b"\xfe\xff" + PLAIN.decode().encode("utf-16-be"),
        gzip.compress(PLAIN, mtime=0),
        zipped(**{"x/c.csv": PLAIN, "__MACOSX/._c.csv": b"\0"}),
        b"#one\n# two, three\n\npath,label\na.svs,x\nb.svs,y\n",
    ],
)
def test_dialects_give_the_same_table(data: bytes) -> None:
    assert rows_of(data) == [HEADER, *ROWS]


def test_a_delimiter_inside_cells_of_the_header_is_none() -> None:
    quoted = b'path;label;"Diagnosis (main, second, other)"\na.svs;x;1\n'
    bare = b"path;label;Diagnosis (main, second, other, last)\na.svs;x;1\n"
    commas = b"path;label;a,b,c,d\na.svs;x;1,2,3,4\n"
    assert [len(row) for data in (quoted, bare, commas) for row in rows_of(data)] == [3] * 6


def test_comments_above_the_table_are_counted_and_its_rows_keep_their_line() -> None:
    table = read_cells(b"#Patient ID\tSample ID\n#x\ty\nPATIENT_ID\tSAMPLE_ID\nP\tS\n", "c.txt")
    assert (table.header, table.rows[0].row) == (["PATIENT_ID", "SAMPLE_ID"], 4)
    assert "2 comment lines" in table.notes[0]
    assert read_cells(b"#slide_id,label\na,x\n", "c.csv").header == ["#slide_id", "label"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"II*\0\x10\0\0\0", "a picture, no table"),
        (b"path;label\na.svs;M\xfcller\n", r"line 2 is not UTF-8 text \(near '.*M\u00fcller'\)"),
        (b"\xff\xfea", "UTF-16 text"),
        (zipped(a=b"1", b=b"2"), r"zip file of 2 files \('a', 'b'\)"),
        (gzip.compress(PLAIN, mtime=0)[:-9], "cannot be unpacked"),
        (zipped(mimetype=b"application/vnd.oasis"), r"spreadsheet \(ods, xls\); save it as CSV"),
        (b"PK\x03\x04rest", "spreadsheet"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        read_cells(data, "c.csv")


def test_a_damaged_zip_file_is_named_whatever_is_wrong_with_it(
    damaged_zips: Callable[[bytes], dict[str, bytes]],
) -> None:
    text = "path,label\n" + "".join(f"{number}.svs,{number * 7919 % 97}\n" for number in range(500))
    for what, data in damaged_zips(zipped(**{"c.csv": text.encode()})).items():
        with pytest.raises(CohortError, match=r"cannot be unpacked|spreadsheet"):
            pytest.fail(f"{what}: {read_cells(data, 'c.zip')}")


@settings(derandomize=True, deadline=None)
@given(
    st.sampled_from(",;\t"),
    st.lists(st.text(st.sampled_from('ab ,;"\n\t0.5é')), min_size=1, max_size=4),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_whatever_a_cell_holds_it_is_read_as_written(delimiter: str, notes: list[str], encoding: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    rows = [["path", "label", "note"], *([f"{index}.svs", "x", note] for index, note in enumerate(notes))]
    writer.writerows(rows)
    assert rows_of(text.getvalue().encode(encoding)) == rows


def written_parquet(**columns: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("table", "figure"),
    [
        (lambda: gzip.compress(b"path\n" + bytes(limits.MAX_BYTES), 1), "67,108,865 bytes"),
        (lambda: zipped(**{"c.csv": b"path\n" + bytes(limits.MAX_BYTES)}), "67,108,865 bytes"),
        (lambda: b"a\n" * 2_000_001, "2,000,001 rows"),
        (lambda: b"path" + b"," * 1000 + b"\n", "1,001 columns"),
        (lambda: (b"," * 999 + b"\n") * 20_001, "20,001,000 cells"),
        (lambda: written_parquet(path=pa.repeat(1, 2_000_001)), "2,000,001 rows"),
        (lambda: written_parquet(**{f"c{index}": [1] for index in range(1001)}), "1,001 columns"),
        (lambda: written_parquet(**{f"c{index}": pa.repeat(1, 2_000_000) for index in range(11)}), "22,000,000 cells"),
        (
            lambda: written_parquet(a=pa.ListArray.from_arrays([0, 20_000_001], pa.repeat(1, 20_000_001))),
            "20,000,001 cells",
        ),
        (lambda: written_parquet(path=pa.array(["x" * 2**16] * 1025).dictionary_encode()), "67,174,400 bytes"),
        (lambda: written_parquet(path=pa.array([bytes(2**16)] * 1025, pa.binary(2**16))), "67,174,400 bytes"),
    ],
)
def test_a_table_too_large_for_memory_is_refused_with_its_figure(table: Callable[[], bytes], figure: str) -> None:
    with pytest.raises(CohortError, match=figure):
        read_cells(table(), "c")


def test_a_parquet_text_has_its_own_cells_in_every_row_and_chunk() -> None:
    cells = ["a", None, "", "a", "b", "ü"]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": cells, "n": [1] * 6}), sink, row_group_size=2)
    table = read_cells(bytes(sink.getvalue()), "c.parquet")
    assert [row.cells for row in table.rows] == [[cell or "", "1"] for cell in cells]
