"""A table that is sent elsewhere means the same slides there, and is otherwise as it was."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.submission.tables import with_absolute_paths
from mhim_core.cohort.table import Cohort, read_cohort
from mhim_core.errors import CohortError

FOLDER = "/data/cohorts"


def read(data: bytes, base_uri: str, name: str = "my.csv") -> Cohort:
    return read_cohort(data, name=name, base_uri=base_uri)


@pytest.mark.parametrize(
    "text",
    [
        "slide_id,path,patient_id,label\na,slides/a.svs,p,1\nb,../b.svs,q,0\n",
        "\ufeffslide_id;path;patient_id;label;note\r\na;slides/a.svs;p;007;x\r\nb;/abs/b.svs;q;0;\r\n",
        'path\tnote\n"a, 1.svs"\t"two\nlines"\ns3://bucket/b.svs\t\n',
        "wsi,label\na.svs,1\nsub/b.svs,0\n",
        "slide,FILENAME\nx,a.svs\ny,file:///abs/b.svs\n",
        "slide_id,path,label\n\na,a.svs,1\n\n\nb,b.svs,0\n",
        "slide_id,path,annotation,mask\n\na,a.svs,x/a.xml,\n\nb,b.svs,s3://b/c.xml,m/b.png\nc,c.svs,NA,/abs/c.png\n",
    ],
    ids=["relative", "excel", "tabs", "ids-from-files", "aliases", "blank-lines", "regions"],
)
def test_read_anywhere_the_table_says_what_it_said_in_its_folder(text: str) -> None:
    data = text.encode()
    before, after = read(data, FOLDER), read(with_absolute_paths(data, "my.csv", FOLDER), "/elsewhere")
    assert [row._replace(row=0) for row in after.rows] == [row._replace(row=0) for row in before.rows]
    assert after.header == before.header
    assert [finding.message for finding in after.findings] == [finding.message for finding in before.findings]


def test_other_cells_are_kept_to_the_letter() -> None:
    data = b'slide_id,path,label,note\na,a.svs,007,"say ""hi"", twice"\nb,b.svs,1.50,\xc3\xa9\n'
    rows = list(csv.reader(io.StringIO(with_absolute_paths(data, "my.csv", FOLDER).decode())))
    assert rows[1:] == [["a", f"{FOLDER}/a.svs", "007", 'say "hi", twice'], ["b", f"{FOLDER}/b.svs", "1.50", "é"]]


@pytest.mark.parametrize("data", [b"slide_id;path\r\na;/abs/a.svs\r\nb;s3://bucket/b.svs\r\n", b"path\n/abs/a.svs\n"])
def test_a_table_of_full_places_is_sent_as_it_is(data: bytes) -> None:
    assert with_absolute_paths(data, "my.csv", FOLDER) is data


def test_a_parquet_table_stays_one_with_its_types(tmp_path: Path) -> None:
    table = pa.table(
        {"path": ["a.svs", "/abs/b.svs", None], "mpp": [0.5, None, 0.25], "fold": pa.array([0, 1, 2], pa.int8())}
    )
    pq.write_table(table, tmp_path / "my.parquet")
    data = (tmp_path / "my.parquet").read_bytes()
    sent = pq.read_table(pa.BufferReader(with_absolute_paths(data, "my.parquet", FOLDER)))
    assert sent.column("path").to_pylist() == [f"{FOLDER}/a.svs", "/abs/b.svs", None]
    assert sent.schema.field("fold").type == pa.int8()
    assert sent.drop(["path"]).equals(table.drop(["path"]))
    assert with_absolute_paths(data, "my.parquet", FOLDER) == with_absolute_paths(data, "my.parquet", FOLDER)


def test_a_table_that_cannot_be_read_is_refused_as_everywhere() -> None:
    with pytest.raises(CohortError, match=r"my\.csv"):
        with_absolute_paths(b"PK\x03\x04", "my.csv", FOLDER)
