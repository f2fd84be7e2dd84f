"""A cohort table to be sent elsewhere: slides, annotations and masks get absolute paths, everything else stays."""

import csv
import io

from mhim_core.cohort.cells import TextRow, read_cells
from mhim_core.cohort.table import read_cohort
from mhim_core.cohort.task_options import AS_FOUND, TableOptions
from mhim_core.tables import read_parquet


def with_absolute_paths(data: bytes, name: str, folder: str, options: TableOptions = AS_FOUND) -> bytes:
    """The table with every file's path made absolute against `folder`, where the table lies; Parquet, or else CSV.

    Returns the same bytes if every path is absolute already. Raises CohortError for a table that cannot be read.
    """
    cohort = read_cohort(data, name=name, base_uri=folder, options=options)
    table = read_cells(data, name)
    places = {
        table.header.index(cohort.header[column]): {row.row: getattr(row, attribute) for row in cohort.rows}
        for column, attribute in _PLACES.items()
        if column in cohort.header
    }

    def placed(row: TextRow, index: int) -> str:
        own = places.get(index, {}).get(row.row)
        return own or row.cells[index]

    rows = {row.row: [placed(row, index) for index in range(len(row.cells))] for row in table.rows}
    if all(rows[row.row] == list(row.cells) for row in table.rows):
        return data
    if data.startswith(b"PAR1"):
        return _parquet(data, places)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(rows.values())
    return text.getvalue().encode()


_PLACES = {"path": "uri", "annotation": "annotation", "mask": "mask"}
"""By the column's meaning, the attribute of a row."""


def _parquet(data: bytes, places: dict[int, dict[int, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = read_parquet(data)
    for index, of_rows in places.items():
        values = enumerate(table.column(index).to_pylist(), start=1)
        column = [of_rows.get(number) or value for number, value in values]
        table = table.set_column(index, table.column_names[index], pa.array(column, pa.string()))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())
