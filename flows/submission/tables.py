"""A cohort table to be sent elsewhere: its slides get absolute paths, everything else is unchanged."""

import csv
import io

from mhim_core.cohort.cells import read_cells
from mhim_core.cohort.table import Cohort, read_cohort
from mhim_core.cohort.task_options import AS_FOUND, TableOptions
from mhim_core.tables import read_parquet


def with_absolute_paths(data: bytes, name: str, folder: str, options: TableOptions = AS_FOUND) -> bytes:
    """The table with every slide's path made absolute against `folder`, where the table lies; Parquet, or else CSV.

    Returns the same bytes if every path is absolute already. Raises CohortError for a table that cannot be read.
    """
    cohort = read_cohort(data, name=name, base_uri=folder, options=options)
    table = read_cells(data, name)
    index = table.header.index(cohort.header["path"])
    places = {row.row: row.uri for row in cohort.rows if row.uri}
    with_path = [row for row in table.rows if len(row.cells) > index]
    changed = {row.row for row in with_path if places.get(row.row, row.cells[index]) != row.cells[index]}
    if not changed:
        return data
    if data.startswith(b"PAR1"):
        return _parquet(data, cohort, places)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    for row in table.rows:
        cells = list(row.cells)
        if row.row in changed:
            cells[index] = places[row.row]
        writer.writerow(cells)
    return text.getvalue().encode()


def _parquet(data: bytes, cohort: Cohort, places: dict[int, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = read_parquet(data)
    index = table.column_names.index(cohort.header["path"])
    column = [places.get(number, value) for number, value in enumerate(table.column(index).to_pylist(), start=1)]
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(index, table.column_names[index], pa.array(column, pa.string())), sink)
    return bytes(sink.getvalue())
