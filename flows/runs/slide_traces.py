"""Which files of a run, of predictions or of a store's reports name a slide, or are made of it."""

import re
from collections.abc import Collection
from typing import NamedTuple

from mhim_core.printable import one_line
from mhim_core.storage import Storage
from mhim_core.store.parallel import read_all
from mhim_core.tables import read_parquet
from mhim_core.types import SlideId

_TEXTS = (".csv", ".json", ".html", ".md", ".yaml")
_ID_COLUMNS = ("slide_id", "bag_id")


class Trace(NamedTuple):
    """A file that holds something of a slide."""

    key: str
    what: str


def find_traces(storage: Storage, slide_ids: Collection[SlideId], prefix: str = "") -> list[Trace]:
    """Every file at and below the folder that is named like one of the slides, or names one. Reads all but models."""
    ids = sorted(re.escape(slide_id) for slide_id in slide_ids)
    named = re.compile(rf"(?<![A-Za-z0-9._-])({'|'.join(ids)})(?![A-Za-z0-9_-])".encode())
    traces, to_read = [], []
    for entry in storage.list(prefix):
        if entry.key.rpartition("/")[2].rpartition(".")[0] in slide_ids:
            traces.append(Trace(entry.key, "made of it"))
        elif entry.key.endswith((*_TEXTS, ".parquet")):
            to_read.append(entry.key)
    for key, data in read_all(storage, to_read).items():
        if key.endswith(".parquet"):
            maybe_trace = _parquet_trace(key, data, slide_ids)
            traces += [maybe_trace] if maybe_trace else []
        elif named.search(data):
            shown = key.endswith(".html")
            traces.append(
                Trace(key, "a page that names it, with its pictures if it shows any" if shown else "names it")
            )
    return sorted(traces)


def _parquet_trace(key: str, data: bytes, slide_ids: Collection[SlideId]) -> Trace | None:
    try:
        table = read_parquet(data)
    except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        return Trace(key, f"cannot be read ({one_line(str(error))}), and may name it")
    columns = [name for name in _ID_COLUMNS if name in table.column_names]
    if any(value in slide_ids for name in columns for value in table[name].to_pylist()):
        return Trace(key, "has its row")
    return None
