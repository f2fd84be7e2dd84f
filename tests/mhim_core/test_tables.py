"""Exported tables: what a spreadsheet must not execute, and exact values."""

import csv
import io
import math
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mhim_core.tables import escape_formula, read_parquet, write_csv, write_parquet
from mhim_core.types import Status


class Row(NamedTuple):
    slide_id: str
    status: Status
    score: float | None
    shape: tuple[int, ...] = ()


ROWS = [Row("=cmd()", Status.OK, 0.1 + 0.2, (1, 2)), Row('a,"b"\nc', Status.FAILED, None), Row("-x", Status.OK, -1.5)]


def read(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_csv_escapes_formulas_and_keeps_everything_else():
    rows = read(write_csv(ROWS))
    assert [row["slide_id"] for row in rows] == ["'=cmd()", 'a,"b"\nc', "'-x"]
    assert [row["score"] for row in rows] == ["0.30000000000000004", "", "-1.5"]
    assert rows[0]["status"] == "ok"
    assert rows[0]["shape"] == "[1, 2]"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\tx", "\rx", "＝1"])
@pytest.mark.fault(27, 49)
def test_every_formula_start_is_escaped(text):
    assert escape_formula(text) == "'" + text


@pytest.mark.parametrize("text", ["-0.5", "+1e-3", "slide-1", "a=b", "", "007", "a;b=c", "a;-0.5;x", "x\n+1", "a; b"])
def test_numbers_and_plain_text_stay(text):
    assert escape_formula(text) == text


@pytest.mark.parametrize("opening", ["", "x", "x;y", "x\n", "x\t", "x\r", '"', "x, y"])
@pytest.mark.parametrize("separator", [";", "; ", "\t", "\n", "\r\n", ';"', "\n;"])
@pytest.mark.parametrize("formula", ["=cmd()", "+cmd", "-cmd", "@SUM(A1)", "＝1"])
@pytest.mark.fault(49)
def test_a_spreadsheet_that_splits_at_semicolons_or_tabs_finds_no_formula_either(opening, separator, formula):
    data = write_csv([{"a": "first", "b": f"{opening}{separator}{formula}", "c": [f"x;{formula}"]}]).decode()
    for delimiter in ",;\t":
        # with and without heed of quotes and of line ends within them
        heeding = [cell for row in csv.reader(io.StringIO(data, newline=""), delimiter=delimiter) for cell in row]
        naive = [cell for line in data.splitlines() for cell in line.split(delimiter)]
        for cell in (*heeding, *naive):
            assert not cell.strip(' "').startswith(tuple("=+-@＝＋－＠")), (delimiter, cell)


def test_what_steers_a_terminal_or_turns_the_direction_is_escaped_in_cells_and_headers() -> None:
    data = write_csv([{"a\x9b": "x\x1b[2Jy", "b": "\u202e=cmd()", "c": ["\u2066"], "d": "two\nlines, ü\t"}])
    assert data.decode() == "a\\x9b,b,c,d\n" + r"""x\x1b[2Jy,\u202e=cmd(),"[""\u2066""]",""" + '"two\nlines, ü\t"\n'
    (row,) = read_parquet(write_parquet([{"b": "\u202e"}])).to_pylist()
    assert row == {"b": "\u202e"}


def test_columns_choose_and_order_and_headers_are_escaped_too():
    data = write_csv([{"b": 1, "=a": True, "c": math.nan}], columns=["c", "=a", "b", "d"])
    assert data == b"c,'=a,b,d\n,true,1,\n"
    assert write_csv([], columns=["a"]) == b"a\n"


def test_the_parquet_twin_has_exact_values_and_the_same_bytes_each_time():
    data = write_parquet(ROWS)
    assert data == write_parquet(ROWS)
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    assert rows[0] == {"slide_id": "=cmd()", "status": "ok", "score": 0.1 + 0.2, "shape": [1, 2]}
    assert rows[1]["score"] is None


def test_a_column_of_none_is_text_and_a_schema_is_obeyed():
    table = pq.read_table(pa.BufferReader(write_parquet([{"a": None, "b": 1}])))
    assert table.schema.field("a").type == pa.string()
    schema = pa.schema([("b", pa.int32()), ("a", pa.float64())])
    assert pq.read_table(pa.BufferReader(write_parquet([{"a": None, "b": 1}], schema=schema))).schema == schema


def test_a_parquet_table_reads_back_and_a_flipped_bit_is_noticed() -> None:
    rows = [{"name": f"slide {index}", "value": index * 0.1} for index in range(3000)]
    data = write_parquet(rows)
    assert read_parquet(data).to_pylist() == rows
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    with pytest.raises((OSError, pa.ArrowException)):
        read_parquet(bytes(damaged))
