"""Wrong input ends each command with exit code 2 and a sentence, before any work and with nothing written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.types import ExitCode

Rows = list[dict[str, str]]
Refused = Callable[..., str]
WriteTable = Callable[..., Path]

HOSTILE_IDS = [
    *("../x", "a/b", "a\\b", "..", ".hidden", "-rf", "=cmd()", "+1", "@SUM(A1)", "a b", " a", "a\0b", "a\tb", "a\nb"),
    *("a\u202eb", "\u200fa", "é", "a*", "a?", "%2e%2e", "x" * 129, "x" * 300, "CON:", "a:b", "~", "$HOME", ""),
    *("\u0430bc", "a\u0301", "\x1b[31m", "'", '"', "<b>"),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where nothing may appear."""
    return tmp_path / "store"


@pytest.fixture
def train_refused(refused: Refused, write_table: WriteTable, made_store: Any, tmp_path: Path) -> Callable[..., str]:
    """train_refused(rows, "folds=3", …, embedded=ids) → the sentence; no run is created."""

    def run(rows: Rows, *words: str, embedded: list[str] | None = None, empty: list[str] | None = None) -> str:
        slide_ids = [row["slide_id"] for row in rows] if embedded is None else embedded
        store = made_store(slide_ids, empty=empty or [])
        message = refused("train", f"cohort={write_table(rows)}", store, f"out={tmp_path / 'run'}", *words)
        assert not (tmp_path / "run").exists()
        return message

    return run


@pytest.mark.parametrize("name", ["check", "embed", "train"])
@pytest.mark.fault(26)
def test_a_cohort_table_that_is_not_there(refused: Refused, store: Path, tmp_path: Path, name: str) -> None:
    words = {"check": [], "embed": [f"store={store}"], "train": [f"store={store}", f"out={tmp_path / 'run'}"]}[name]
    message = refused(name, f"cohort={tmp_path / 'no.csv'}", *words)
    assert message == f"cohort={tmp_path / 'no.csv'}: there is no such file"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the table is empty"),
        (b"slide_id,path\n", "has no rows"),
        (b"PK\x03\x04rest", "save it as CSV"),
        (b"\xd0\xcf\x11\xe0rest", "save it as CSV"),
        ("slide_id,path\n1,hôpital.svs\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("slide_id,path\n1,a.svs\n".encode("utf-16")[:-1], "save the table as CSV"),
        (b'slide_id,path\n"a,b.svs\n', "check the quotes"),
        (b"foo,bar\n1,2\n", "no column names the slides. Found 'foo', 'bar'"),
        (b"a.svs,1\nb.svs,0\n", "If the table has no header line, add one"),
        (b"slide_id,path,uri\na,b,c\n", "'path', 'uri' all mean the path"),
        (b"slide_id,path\na,b.svs,c\n", "row 2, slide 'a': 3 cells where the header has 2"),
        (b'slide_id,path,mpp\na,b.svs,"0,5"\n', "not a number of \u00b5m per pixel; write 0.5"),
        (b"slide_id,path,split\na,b.svs,tset\n", "'tset' is not one of train, val, test"),
        (b"slide_id,path\na,ftp://host/b.svs\n", "neither a path nor an s3:// URI"),
        (b"slide_id,path\na,\n", "the path is empty"),
        (b"PAR1rest", "not a readable Parquet file"),
    ],
)
def test_a_malformed_table(refused: Refused, store: Path, tmp_path: Path, data: bytes, complaint: str) -> None:
    table = tmp_path / "my.csv"
    table.write_bytes(data)
    assert complaint in refused("embed", f"cohort={table}", f"store={store}", "encoder=hed-texture")
    assert refused("check", f"cohort={table}").startswith("my.csv: ")
    assert not store.exists()


@pytest.mark.fault(27, 49)
def test_ids_that_could_leave_their_folder_or_mislead_a_reader(
    refused: Refused, write_table: WriteTable, store: Path
) -> None:
    ids = ["good", *HOSTILE_IDS, "good.2"]
    table = write_table([{"path": f"{i}.svs", "slide_id": slide_id} for i, slide_id in enumerate(ids)])
    message = refused("embed", f"cohort={table}", f"store={store}", "encoder=hed-texture")
    first, *listed = message.split("\n")
    assert first == f"my.csv: {len(HOSTILE_IDS)} errors in the table"
    lines = [line for line in listed if not line.startswith("  warning: ")]
    assert len(listed) > len(lines), "that no slide is there is listed as well"
    assert all(line.isprintable() for line in listed)
    assert len(lines) == len(HOSTILE_IDS)
    assert all("slide id" in line for line in lines)
    assert not any("'good" in line for line in lines)
    assert all(line.isprintable() and len(line) < 250 for line in lines), "the terminal is not at the table's mercy"
    assert not store.exists()


@pytest.mark.fault(25)
def test_all_pairs_of_slides_that_collide_are_listed(
    refused: Refused, write_table: WriteTable, write_slide: Callable[..., Path], store: Path
) -> None:
    first = write_slide("a.tiff")
    shutil.copy(first, first.with_name("copy.tiff"))
    table = write_table(
        [
            {"slide_id": "s1", "path": "a.tiff", "patient_id": "p1", "split": "train"},
            {"slide_id": "s1", "path": "b.tiff", "patient_id": "p1", "split": "train"},
            {"slide_id": "S1", "path": "c.tiff", "patient_id": "p2", "split": "val"},
            {"slide_id": "s2", "path": "./a.tiff", "patient_id": "p3", "split": "val"},
            {"slide_id": "s3", "path": "copy.tiff", "patient_id": "p1", "split": "test"},
        ]
    )
    message = refused("embed", f"cohort={table}", f"store={store}", "encoder=hed-texture")
    expected = [
        r"row 3, slide 's1', .*the same slide id as 's1' (row 2",
        r"row 4, slide 'S1', .*differs only in case from 's1' (row 2), 's1' (row 3)",
        r"row 5, slide 's2', .*is the file of 's1' (row 2); they are of different patients",
        r"row 6, slide 's3', .*holds the same bytes as that of 's1' (row 2), 's2' (row 5); they are of different",
        r"row 6, slide 's3', .*patient 'p1' is in test here and in train in row 2",
    ]
    lines = [line for line in message.split("\n") if not line.startswith("  warning: ")]
    assert lines[0] == "my.csv: 5 errors in the table"
    for text in expected:
        start, _, end = text.partition(".*")
        assert any(start in line and end in line for line in lines), (text, lines)
    assert len(lines) == 1 + len(expected)
    assert not store.exists()


@pytest.mark.fault(25)
def test_files_of_one_stem_collide_where_ids_come_from_file_names(refused: Refused, write_table: WriteTable) -> None:
    table = write_table([{"path": "a/slide.svs"}, {"path": "b/slide.svs"}])
    message = refused("check", f"cohort={table}")
    assert "the same slide id as 'slide' (row 2" in message
    assert "add a slide_id column" in message


@pytest.mark.fault(29)
def test_a_patient_in_two_splits(train_refused: Callable[..., str], cohort_rows: Callable[..., Rows]) -> None:
    rows = [row | {"split": "train"} for row in cohort_rows(neg=4, pos=4)]
    rows[1] |= {"patient_id": rows[0]["patient_id"], "split": "test"}
    rows[3] |= {"patient_id": rows[2]["patient_id"], "split": "val"}
    message = train_refused(rows)
    assert "2 errors in the table" in message
    assert "patient 'p-neg0' is in test here and in train in row 2 (slide 'neg0')" in message
    assert "patient 'p-neg2' is in val here and in train in row 4 (slide 'neg2')" in message


@pytest.mark.usefixtures("embed_here")
@pytest.mark.fault(26)
def test_a_slide_that_is_not_there_fails_alone_and_the_rest_is_embedded(
    mhim: Any, refused: Refused, write_table: WriteTable, write_slide: Callable[..., Path], store: Path
) -> None:
    write_slide("a.tiff")
    table = write_table([{"slide_id": "a", "path": "a.tiff"}, {"slide_id": "b", "path": "b.tiff"}])
    words = [f"cohort={table}", f"store={store}", "encoder=hed-texture"]
    assert "row 3, slide 'b', column 'path': not_found" in refused("embed", *words, "strict=true")
    assert not store.exists()
    ended = mhim("embed", *words)
    assert ended.code == ExitCode.TOO_MANY_FAILED
    assert "2 slides: 1 ok, 0 empty, 1 failed (not_found 1), 0 skipped" in ended.out
    assert mhim("check", f"cohort={table}").code == ended.code
    again = mhim("embed", *words, "max_failed_fraction=0.5")
    assert again.code == ExitCode.PARTIAL
    assert "0 ok, 0 empty, 1 failed (not_found 1), 1 skipped" in again.out


@pytest.mark.parametrize(
    ("counts", "words", "complaint"),
    [
        ({"neg": 8}, [], "every labelled slide (8) is of class 'neg'; two classes are needed"),
        ({"neg": 1}, [], "every labelled slide (1) is of class 'neg'"),
        ({"neg": 8, "pos": 4}, [], "class 'pos' has 4 patients, and folds=5 needs 5 of each"),
        ({"neg": 8, "pos": 4}, [], "set folds=4 or lower"),
        ({"neg": 8, "pos": 2}, ["folds=3"], "class 'pos' has 2 patients, and folds=3 needs 3"),
        ({"neg": 8, "pos": 2}, ["folds=1"], "class 'pos' has 2 patients, and folds=1 needs 3"),
        ({"neg": 8, "pos": 2}, ["scheme=leave_one_patient_out"], "leave-one-patient-out needs 3"),
        ({"neg": 8, "pos": 8}, ["scheme=column"], "no labelled slide with tiles has a value in the split column"),
        ({"a": 6, "b": 6, "c": 1}, [], "class 'c' has 1 patient, and"),
    ],
)
@pytest.mark.fault(29)
def test_labels_that_cannot_be_split(
    train_refused: Callable[..., str],
    cohort_rows: Callable[..., Rows],
    counts: dict[str, int],
    words: list[str],
    complaint: str,
) -> None:
    assert complaint in train_refused(cohort_rows(**counts), *words)


@pytest.mark.fault(29)
def test_a_split_column_that_leaves_a_part_without_a_class(
    train_refused: Callable[..., str], cohort_rows: Callable[..., Rows]
) -> None:
    rows = [row | {"split": "test" if row["label"] == "pos" else "train"} for row in cohort_rows(neg=5, pos=5)]
    message = train_refused(rows)
    assert "class 'pos' has no patient in the train part of fold 0" in message
    assert "change the split column, or set scheme=folds" in message


def test_a_class_whose_slides_have_no_tiles(
    train_refused: Callable[..., str], cohort_rows: Callable[..., Rows]
) -> None:
    rows = cohort_rows(neg=6, pos=6, rare=6)
    rare = [f"rare{i}" for i in range(6)]
    others = [row["slide_id"] for row in rows if row["label"] != "rare"]
    for message in (train_refused(rows, embedded=others), train_refused(rows, empty=rare)):
        assert message == ("class 'rare' has no slide with tiles; embed its slides, or leave their label cells empty")


def test_nothing_to_train_on(train_refused: Callable[..., str], cohort_rows: Callable[..., Rows]) -> None:
    rows = cohort_rows(neg=6, pos=6)
    assert "no slide of my.csv is both labelled and embedded" in train_refused(rows, embedded=["other"])
    unlabelled = [row | {"label": ""} for row in rows]
    assert "no slide has a label, or a time and an event" in train_refused(unlabelled)


def test_a_store_that_holds_nothing(
    refused: Refused, write_table: WriteTable, cohort_rows: Callable[..., Rows], store: Path, tmp_path: Path
) -> None:
    table = write_table(cohort_rows(neg=6, pos=6))
    message = refused("train", f"cohort={table}", f"store={store}", f"out={tmp_path / 'run'}")
    assert message == f"{store} holds no features; run `mhim embed` first"
    assert not store.exists()
    assert not (tmp_path / "run").exists()


def test_a_store_of_several_feature_sets_asks_which(
    train_refused: Callable[..., str], cohort_rows: Callable[..., Rows], made_store: Any, tmp_path: Path, mhim: Any
) -> None:
    rows = cohort_rows(neg=6, pos=6)
    made_store(["x"], encoder="toy2")
    made_store(["x"], target_mpp=1.0)
    message = train_refused(rows)
    assert "3 feature sets fit; say which" in message
    lines = message.split("\n")[1:]
    assert sorted(line.split("  ", 2)[2] for line in lines) == [
        "toy (D=4)  target_mpp=0.5",
        "toy (D=4)  target_mpp=1.0",
        "toy2 (D=4)  target_mpp=0.5",
    ]
    assert "2 feature sets fit" in train_refused(rows, "encoder=toy")
    assert "no feature set fits" in train_refused(rows, "encoder=toy3")
    # each way to name one of them leads to it: it holds no slide of the table, or it is the one that does
    digits = next(line.split()[0] for line in lines if "toy2" in line)
    for words in (["encoder=toy2"], ["target_mpp=1.0"], [f"feature_set={digits}"]):
        assert "is both labelled and embedded" in train_refused(rows, *words)


def test_a_run_folder_of_another_configuration_ends_with_5(
    mhim: Any,
    refused: Refused,
    write_table: WriteTable,
    cohort_rows: Callable[..., Rows],
    made_store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = cohort_rows(neg=6, pos=6)
    table, store = write_table(rows), made_store([row["slide_id"] for row in rows])
    words = [f"cohort={table}", store, f"out={tmp_path / 'run'}"]
    monkeypatch.setattr("flows.train.fit_all", lambda *_: [])
    assert mhim("train", *words).code == ExitCode.OK
    assert mhim("train", *words).code == ExitCode.OK
    message = refused("train", *words, "epochs=3", code=ExitCode.CONFLICT)
    assert f"{tmp_path / 'run'} holds a run of another configuration (epochs: 200 there, 3 here)" in message


@pytest.mark.parametrize(
    "words",
    [
        ["train", "cohort=c", "store=s", "out=o", "workers=2"],
        ["train", "cohort=c", "store=s", "out=o", "ray_address=ray://head:10001"],
        ["embed", "cohort=c", "store=s", "ray_address=http://head:8265"],
        ["predict", "run=r", "cohort=c", "out=o", "ray_address=ray://head:10001"],
        ["demo", "ray_address=ray://head:10001"],
        ["demo", "epochs=0"],
        ["train", "cohort=c", "store=s", "out=o", "epochs=ten"],
        ["train", "cohort=c", "store=s", "out=o", "method=magic"],
        ["train", "cohort=c", "store=s"],
        ["evaluate", "run=r", "bootstrap_replicates=-1"],
        ["check", "cohort=c", "tile_px=8"],
    ],
    ids=" ".join,
)
def test_a_bad_value_is_one_sentence_before_any_work(
    mhim: Any, refused: Refused, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(*words)
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
    debugged = mhim(*words, "--debug")
    assert debugged.code == ExitCode.BAD_INPUT
    assert debugged.err.startswith("Traceback")
    assert debugged.err.endswith(f"mhim: {message}\n")


@pytest.mark.parametrize("name", ["evaluate", "report", "predict"])
def test_a_run_that_is_not_there(refused: Refused, tmp_path: Path, name: str) -> None:
    more = ["cohort=c", "out=o"] if name == "predict" else []
    message = refused(name, f"run={tmp_path / 'run'}", *more)
    assert "holds no run (run.json is not there); it is the out= of mhim train" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["encoder=hed-textur"], "did you mean hed-texture?"),
        (["encoder=os.system"], "Known are hed-texture, efficientnet-lite0, timm/<model>"),
        (["encoder=timm/../../x"], "is unknown"),
        (["encoder="], "is unknown"),
        (["encoder=hed-texture", "encoder_weights=x.pth"], "has no weights"),
        (["encoder=efficientnet-lite0", "encoder_weights=x.pth"], "x.pth"),
    ],
)
def test_an_encoder_that_cannot_be_had(
    refused: Refused, write_table: WriteTable, store: Path, words: list[str], complaint: str
) -> None:
    table = write_table([{"slide_id": "a", "path": "a.tiff"}])
    assert complaint in refused("embed", f"cohort={table}", f"store={store}", *words)
    assert not store.exists()


def test_the_order_of_findings_is_the_order_of_rows(refused: Refused, write_table: WriteTable) -> None:
    table = write_table([{"slide_id": f"bad id {i}", "path": f"{i}.svs"} for i in range(60)])
    lines = refused("check", f"cohort={table}").split("\n")
    assert lines[0] == f"{table.name}: 60 errors in the table"
    assert [line.split(",")[0].strip() for line in lines[1:51]] == [f"row {i + 2}" for i in range(50)]
    assert lines[51] == "  … and 10 more"
