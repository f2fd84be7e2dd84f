"""Excel's tables read as their CSV twins; what a sheet cannot say is refused."""

import datetime
import io
import re
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from mhim_core.cohort import limits
from mhim_core.cohort.table import read_cohort
from mhim_core.errors import CohortError

openpyxl = pytest.importorskip("openpyxl")


def book(*sheets: list[list[Any]]) -> bytes:
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for number, rows in enumerate(sheets):
        sheet = workbook.create_sheet(f"S{number}")
        for row in rows:
            sheet.append(row)
    buffer = io.BytesIO()
    workbook.save(buffer)
    return buffer.getvalue()


def read(data: bytes):
    return read_cohort(data, name="c.xlsx", base_uri="/data")


def test_a_sheet_is_read_like_its_csv() -> None:
    rows = [
        ["slide_id", "path", "Patient ID", "label", "mpp", "taken", None],
        ["007", "a.svs", 17, 1, 0.25, datetime.datetime(2021, 11, 11)],
        [None] * 7,
        ["b", "b.svs", 18.0, "NA", None, None],
    ]
    cohort = read(book(rows, []))
    assert cohort.findings == ()
    assert [(row.slide_id, row.patient_id, row.label, row.mpp, row.row) for row in cohort.rows] == [
        ("007", "17", "1", 0.25, 2),
        ("b", "18", None, None, 4),
    ]


@pytest.mark.parametrize(
    ("sheets", "message"),
    [
        (([["path"], ["a.svs"]], [["path"], ["b.svs"]]), "the sheets 'S0', 'S1' all hold cells"),
        (([],), "is empty"),
        (([["path", "time"], ["a.svs", datetime.timedelta(days=2)]],), "row 2 holds a duration"),
    ],
)
def test_a_book_that_is_no_table_is_refused(sheets: tuple[list[list[Any]], ...], message: str) -> None:
    with pytest.raises(CohortError, match=message):
        read(book(*sheets))


def test_a_damaged_book_and_a_missing_library_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    data = book([["path"], ["a.svs"]])
    with pytest.raises(CohortError, match="spreadsheet"):
        read(data[: len(data) // 2])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(CohortError, match=r"pip install 'mhim\[xlsx\]'"):
        read(data)


def test_a_damaged_book_is_refused_whatever_is_wrong_with_it(
    damaged_zips: Callable[[bytes], dict[str, bytes]],
) -> None:
    rows = [["path", "label"], *([f"{number}.svs", number * 7919 % 97] for number in range(500))]
    for what, data in damaged_zips(book(rows)).items():
        with pytest.raises(CohortError, match=r"spreadsheet.*save it as CSV"):
            pytest.fail(f"{what}: {read(data)}")


def packed_book(rows: str) -> bytes:
    """A book whose one sheet has these rows of XML."""
    source, target = zipfile.ZipFile(io.BytesIO(book([["path"]]))), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for entry in source.namelist():
            data = source.read(entry).decode()
            if entry.startswith("xl/worksheets/"):
                data = re.sub(r"<sheetData>.*</sheetData>", lambda _: f"<sheetData>{rows}</sheetData>", data)
            archive.writestr(entry, data)
    return target.getvalue()


TEXT = '<row r="1"><c r="A1" t="inlineStr"><is><t>%s</t></is></c></row>'


@pytest.mark.parametrize(
    ("rows", "figure"),
    [
        ('<row r="1"><c r="XFD1"><v>1</v></c></row>', "16,384 columns"),
        ("".join(f'<row r="{row}"><c r="XFD{row}"/></row>' for row in range(1, 1300)), "20,004,864 cells"),
        (TEXT % ("x" * (limits.MAX_BYTES + 1)), "67,108,865 bytes of text"),
        (TEXT % ("x" * limits.MAX_SHEET_BYTES), "bytes unpacked"),
    ],
    ids=["columns", "cells", "text", "xml"],
)
def test_a_sheet_too_large_for_memory_is_refused_with_its_figure(rows: str, figure: str) -> None:
    with pytest.raises(CohortError, match=f"^c.xlsx: has .*{figure}"):
        read(packed_book(rows))


def test_a_row_of_a_high_number_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ROWS", 1000)
    with pytest.raises(CohortError, match="1,001 rows"):
        read(packed_book(f'<row r="{10**12}"><c r="A1"><v>1</v></c></row>'))


def test_cells_outside_what_a_sheet_says_of_its_size_are_read() -> None:
    rows = ('<row r="{0}"><c r="A{0}" t="inlineStr"><is><t>{1}</t></is></c></row>'.format(*row)
            for row in enumerate(["path", "a.svs", "b.svs"], start=1))  # fmt: skip
    assert len(read(packed_book("".join(rows))).rows) == 2, "although its size is A1"
