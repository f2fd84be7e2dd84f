"""Excel's tables read as their CSV twins; what a sheet cannot say is refused."""

import datetime
import io
import sys
from typing import Any

import pytest

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
