"""mhim import and mhim export: other tools' files into a store, trained on, and out of it again."""

import csv
import functools
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows import import_features
from mhim_core.storage import LocalStorage
from mhim_core.store.bags import ParquetBags
from mhim_core.store.feature_sets import FeatureSet, list_feature_sets
from mhim_core.store.foreign import names, tools
from mhim_core.store.foreign.arrays import write_h5, write_tensor
from mhim_core.store.manifest import read_manifest
from mhim_core.store.schema import FeatureTable
from mhim_core.types import BagId

pytest.importorskip("h5py")
Mhim = Callable[..., Any]
Table = Callable[..., Path]

COORDS = np.array([[0, 0], [224, 0], [0, 224], [448, 224]], np.int64)


def features_of_slide(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, 6)).astype(np.float32) + (seed % 2)


def write_clam(folder: Path, slide_ids: list[str]) -> Path:
    """CLAM's two folders."""
    for number, slide_id in enumerate(slide_ids):
        for name, data in (
            (f"h5_files/{slide_id}.h5", write_h5({"features": features_of_slide(number), "coords": COORDS})),
            (f"pt_files/{slide_id}.pt", write_tensor(features_of_slide(number))),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


def only_set(store: Path) -> FeatureSet:
    (feature_set,) = list_feature_sets(LocalStorage(store))
    return feature_set


def tables(store: Path, feature_set: FeatureSet | None = None) -> dict[str, FeatureTable]:
    storage = LocalStorage(store)
    bags = ParquetBags(storage, read_manifest(storage, (feature_set or only_set(store)).fingerprint).bags())
    return {str(bag_id): bags.read_table(BagId(bag_id)) for bag_id in bags.lengths()}


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def made_in(out: Path) -> dict[str, bytes]:
    """What an export has written, but for its reports."""
    return {key: data for key, data in content(out).items() if not key.startswith("reports/")}


def report_of(out: Path) -> Path:
    (folder,) = (out / "reports").iterdir()
    return folder


def test_an_import_names_what_does_not_match_and_goes_on_past_damage(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Callable[..., list[dict[str, str]]]
) -> None:
    table = write_table(cohort_rows(pos=2, neg=2))
    theirs = write_clam(tmp_path / "theirs", ["pos0", "pos1", "neg0", "pos01"])
    damaged = theirs / "h5_files/pos1.h5"
    damaged.write_bytes(damaged.read_bytes()[:700])
    words = (
        "import",
        f"source={theirs}",
        "format=clam",
        f"cohort={table}",
        f"store={tmp_path / 'store'}",
        "encoder=uni",
    )
    ended = mhim(*words, "max_failed_fraction=0.6")
    assert ended.code == 3, ended
    assert "1 file named after no slide of the cohort: h5_files/pos01.h5" in ended.out
    assert "1 slide without a file: neg1" in ended.out
    assert "pos1: failed, open" in ended.err
    assert "3/3 slides: 2 ok" in ended.err
    assert tables(tmp_path / "store").keys() == {"neg0", "pos0"}
    report = LocalStorage(tmp_path / "store")
    (summary,) = [entry.key for entry in report.list("reports") if entry.key.endswith("summary.json")]
    assert json.loads(report.get(summary))["failures_by_reason"] == {"open": 1, "not_found": 1}
    assert mhim(*words).code == 4
    assert mhim(*words, "max_failed_fraction=0.5", "partial_ok=true").code == 0


def test_a_file_at_which_its_reader_hangs_fails_and_the_others_go_on(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_: object, name: str, place: str, data: bytes, *, timeout_s: float) -> object:
        if place.endswith("pos1.h5"):
            raise TimeoutError(f"no result after {timeout_s:g} s")
        return import_features._read_file(name, place, data)

    monkeypatch.setattr(import_features, "call_in_child", hang)
    theirs = write_clam(tmp_path / "theirs", ["pos0", "pos1"])
    words = ("import", f"source={theirs}", "format=clam", f"cohort={write_table(cohort_rows(pos=2))}", "encoder=uni")
    ended = mhim(*words, f"store={tmp_path / 'store'}", "max_failed_fraction=0.5")
    assert ended.code == 3, ended
    assert "pos1: failed, timeout" in ended.err
    assert tables(tmp_path / "store").keys() == {"pos0"}


def test_an_import_is_repeated_to_the_same_bytes_and_reads_nothing_twice(
    mhim: Mhim,
    tmp_path: Path,
    write_table: Table,
    cohort_rows: Callable[..., list[dict[str, str]]],
    features_of: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = write_table(cohort_rows(pos=2, neg=1))
    theirs = write_clam(tmp_path / "theirs", ["pos0", "pos1", "neg0"])
    words = ("import", f"source={theirs}", "format=clam", f"cohort={table}", "encoder=uni", "tile_size_l0_px=224")
    for store in ("store", "other"):
        assert mhim(*words, f"store={tmp_path / store}").code == 0
    made = features_of(tmp_path / "store")
    assert len(made) == 3
    assert made == features_of(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr("flows.import_features.read_bytes", lambda place: pytest.fail(f"{place} is read again"))
        ended = mhim(*words, f"store={tmp_path / 'store'}")
    assert "3 skipped" in ended.out
    assert features_of(tmp_path / "store") == made
    lost = next((tmp_path / "store/features").rglob("*.parquet"))
    lost.unlink()
    assert mhim(*words, f"store={tmp_path / 'store'}").code == 0
    assert features_of(tmp_path / "store") == made
    # another word of the user's makes other features, under another commit
    assert mhim(*words[:-1], "tile_size_l0_px=448", f"store={tmp_path / 'store'}").code == 0
    assert {tuple(table.metadata["tile_size_l0_px"]) for table in tables(tmp_path / "store").values()} == {(448, 448)}


@pytest.mark.parametrize("name", ["trident", "clam", "clam-pt", "mhim", "stamp"])
def test_features_go_out_and_come_back(
    mhim: Mhim,
    tmp_path: Path,
    write_table: Table,
    cohort_rows: Callable[..., list[dict[str, str]]],
    made_store: Any,
    name: str,
) -> None:
    rows = [row | {"mpp": "0.5"} for row in cohort_rows(pos=2, neg=2)]
    table = write_table(rows)
    store = made_store([row["slide_id"] for row in rows])
    ours = tables(tmp_path / "store")
    out = tmp_path / "theirs"
    words = ("export", store, f"format={name}", f"out={out}", f"cohort={table}")
    assert mhim(*words).code == 0
    written = made_in(out)
    ended = mhim(*words)
    assert (ended.code, made_in(out)) == (0, written)
    assert "0 files written" in ended.out
    encoder = [] if name in ("trident", "stamp") else ["encoder=toy"]
    source = f"source={next(out.rglob('features_toy')) if name == 'trident' else out}"
    back = tmp_path / "back"
    assert mhim("import", source, f"format={name}", f"store={back}", f"cohort={table}", *encoder).code == 0
    assert only_set(back).encoder_id == f"{name}/toy"
    for slide_id, table_of_slide in tables(back).items():
        assert np.array_equal(table_of_slide.features, ours[slide_id].features)
        if name not in ("clam-pt", "mhim"):
            assert np.array_equal(table_of_slide.coords_l0_px, ours[slide_id].coords_l0_px)
    some = out / next(iter(made_in(out)))
    some.write_bytes(b"another's")
    assert mhim(*words).code == 5
    assert some.read_bytes() == b"another's"


@pytest.mark.parametrize("name", ["clam", "clam-pt"])
def test_imported_features_are_trained_on_and_reported(
    mhim: Mhim,
    refused: Callable[..., str],
    train_here: None,
    tmp_path: Path,
    write_table: Table,
    cohort_rows: Any,
    name: str,
) -> None:
    rows = cohort_rows(pos=6, neg=6)
    table = write_table(rows)
    theirs = write_clam(tmp_path / "theirs", [row["slide_id"] for row in rows])
    store, run = f"store={tmp_path / 'store'}", f"run={tmp_path / 'run'}"
    size = ["tile_size_l0_px=224"] if name == "clam" else []
    words = ("import", f"source={theirs}", f"format={name}", f"cohort={table}", store, "encoder=uni", *size)
    assert mhim(*words).code == 0
    ended = mhim(
        "train",
        f"cohort={table}",
        store,
        f"out={tmp_path / 'run'}",
        "folds=2",
        "epochs=1",
        "embed_dim=8",
        f"encoder={name}/uni",
    )
    assert ended.code == 0, ended
    assert mhim("evaluate", run, "bootstrap_replicates=0").code == 0
    ended = mhim("report", run, "max_heatmaps=2")
    assert ended.code == 0, ended
    page = (tmp_path / "run/report.html").read_text()
    assert "imported from another tool" in page
    assert ("no heat map" in ended.out) == (name == "clam-pt")
    new = write_table(
        [row | {"slide_id": f"new-{row['slide_id']}", "patient_id": row["slide_id"]} for row in rows], "new.csv"
    )
    predict = ("predict", run, f"cohort={new}", f"out={tmp_path / 'predicted'}", "max_heatmaps=1")
    elsewhere = mhim(*predict, f"store={tmp_path / 'empty'}")
    assert elsewhere.code == 2
    assert "mhim import" in elsewhere.err
    theirs = write_clam(tmp_path / "new", [f"new-{row['slide_id']}" for row in rows[:-1]])
    words = ("import", f"source={theirs}", f"format={name}", f"cohort={new}", store, "encoder=uni", *size)
    assert mhim(*words, "max_failed_fraction=0.2").code == 3
    for word in ("annotations=annotations", "masks=masks", "unannotated=whole"):
        assert f"leave out {word.partition('=')[0]}=" in refused(*predict, word)
    ended = mhim(*predict, "max_failed_fraction=0.2")
    assert ended.code == 3, ended
    assert "not_found 1" in ended.out
    with (tmp_path / "predicted/predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 11
    assert mhim("model", "register", "lung", run, f"registry={tmp_path / 'registry'}").code == 0
    assert mhim("store", "verify", store, "deep=true").code == 0


def test_a_slide_beside_its_imported_features_is_not_taken_for_their_file(
    mhim: Mhim, train_here: None, tmp_path: Path, write_table: Table, write_slide: Callable[..., Path], cohort_rows: Any
) -> None:
    rows = [
        row | {"path": write_slide(f"{row['slide_id']}.tiff", seed=i).name}
        for i, row in enumerate(cohort_rows(pos=4, neg=4))
    ]
    table = write_table(rows)
    theirs = write_clam(tmp_path / "theirs", [row["slide_id"] for row in rows])
    store = f"store={tmp_path / 'store'}"
    assert mhim("import", f"source={theirs}", "format=clam", f"cohort={table}", store, "encoder=uni").code == 0
    ended = mhim("train", f"cohort={table}", store, f"out={tmp_path / 'run'}", "folds=2", "epochs=1", "embed_dim=8")
    assert ended.code == 0, ended
    # the table's µm/px contradicts nothing that is stated
    with_mpp = write_table([row | {"mpp": "0.5"} for row in rows], "mpp.csv")
    ended = mhim("train", f"cohort={with_mpp}", store, f"out={tmp_path / 'run2'}", "folds=2", "epochs=1", "embed_dim=8")
    assert ended.code == 0, ended
    # one file of features under two ids could be in training and test
    shutil.copy(theirs / "h5_files/pos0.h5", theirs / "h5_files/neg0.h5")
    assert mhim("import", f"source={theirs}", "format=clam", f"cohort={table}", store, "encoder=uni").code == 0
    ended = mhim("train", f"cohort={table}", store, f"out={tmp_path / 'run3'}", "folds=2", "epochs=1")
    assert ended.code == 2
    assert "neg0 = pos0" in ended.err or "pos0 = neg0" in ended.err


def test_tiles_are_written_as_they_were_embedded(
    mhim: Mhim, embed_here: None, tmp_path: Path, write_table: Table, write_slide: Callable[..., Path]
) -> None:
    write_slide("a.tiff", seed=1)
    write_slide("b.tiff", seed=2)
    table = write_table([{"slide_id": name, "path": f"{name}.tiff", "patient_id": name} for name in "ab"])
    store = f"store={tmp_path / 'store'}"
    assert mhim("embed", f"cohort={table}", store, "encoder=hed-texture").code == 0
    places = {name: made.coords_l0_px.tolist() for name, made in tables(tmp_path / "store").items()}
    for name in ("tiles", "webdataset"):
        words = ("export", store, f"format={name}", f"out={tmp_path / name}", f"cohort={table}", "tiles_per_shard=4")
        assert mhim(*words).code == 0
        written = made_in(tmp_path / name)
        assert mhim(*words).code == 0
        assert made_in(tmp_path / name) == written
    for slide_id, coords in places.items():
        names = [f"{slide_id}/{number:06d}_{x}_{y}.png" for number, (x, y) in enumerate(coords)]
        assert (
            sorted(
                path.relative_to(tmp_path / "tiles").as_posix() for path in (tmp_path / "tiles" / slide_id).iterdir()
            )
            == names
        )
        shards = sorted((tmp_path / "webdataset").glob(f"{slide_id}-*.tar"))
        assert len(shards) == -(-len(coords) // 4)
        members = {}
        for shard in shards:
            with tarfile.open(shard) as opened:
                members |= {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]
        for name, (x, y) in zip(names, coords, strict=True):
            stem = f"{slide_id}_{Path(name).stem}"
            assert members[f"{stem}.png"] == (tmp_path / "tiles" / name).read_bytes()
            assert json.loads(members[f"{stem}.json"])["x_l0_px"] == x
            assert json.loads(members[f"{stem}.json"])["y_l0_px"] == y
        with Image.open(io.BytesIO(members[f"{slide_id}_{Path(names[0]).stem}.png"])) as picture:
            assert picture.size == (256, 256)
    write_slide("b.tiff", seed=3)
    ended = mhim(
        "export", store, "format=tiles", f"out={tmp_path / 'again'}", f"cohort={table}", "max_failed_fraction=0.5"
    )
    assert ended.code == 3
    assert "b: failed, read" in ended.err
    assert not (tmp_path / "again/b").exists()


def test_an_export_of_slides_that_the_store_lacks_says_so(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, made_store: Any
) -> None:
    rows = cohort_rows(pos=2)
    ended = mhim(
        "export",
        made_store(["pos0"]),
        "format=clam-pt",
        f"out={tmp_path / 'theirs'}",
        f"cohort={write_table(rows)}",
        "max_failed_fraction=0.5",
    )
    assert ended.code == 3
    assert "1 slide not in the store: pos1" in ended.out
    assert (tmp_path / "theirs/slides.csv").read_text() == "case_id,slide_id,label\np-pos0,pos0,pos\n"


def test_slides_without_tissue_are_no_failures_of_an_export(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, made_store: Any
) -> None:
    out = tmp_path / "theirs"
    words = (
        "export",
        made_store(["pos0", "pos1"], empty=["pos1"]),
        "format=clam-pt",
        f"out={out}",
        f"cohort={write_table(cohort_rows(pos=2))}",
    )
    ended = mhim(*words)
    assert ended.code == 0, ended
    assert "1 slide without tiles, for which no file is written: pos1" in ended.out
    assert made_in(out).keys() == {"pt_files/pos0.pt", "slides.csv"}
    assert (out / "slides.csv").read_text() == "case_id,slide_id,label\np-pos0,pos0,pos\n"
    summary = json.loads((report_of(out) / "summary.json").read_text())
    assert (summary["counts"]["empty"], summary["counts"]["failed"], summary["empty"]) == (1, 0, ["pos1"])
    ended = mhim("export", f"config={report_of(out) / 'resolved.yaml'}")
    assert (ended.code, "0 files written" in ended.out) == (0, True)


def test_tables_name_the_slides_that_were_exported_and_are_completed(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, made_store: Any
) -> None:
    store, out = made_store(["pos0", "pos1", "pos2"]), tmp_path / "theirs"
    table = write_table(cohort_rows(pos=3))
    (lost,) = (path for path in (tmp_path / "store").rglob("*.parquet") if "pos1" in path.as_posix())
    features = lost.read_bytes()
    lost.unlink()
    words = ("export", store, "format=clam-pt", f"out={out}", f"cohort={table}", "max_failed_fraction=0.5")
    ended = mhim(*words)
    assert ended.code == 3, ended
    with (out / "slides.csv").open(newline="") as file:
        assert [row["slide_id"] for row in csv.DictReader(file)] == ["pos0", "pos2"]
    with (report_of(out) / "failed.csv").open(newline="") as file:
        assert [(row["slide_id"], row["reason"]) for row in csv.DictReader(file)] == [("pos1", "read")]
    lost.write_bytes(features)
    assert mhim(*words).code == 0
    with (out / "slides.csv").open(newline="") as file:
        assert [row["slide_id"] for row in csv.DictReader(file)] == ["pos0", "pos1", "pos2"]


def test_another_table_is_refused_before_any_file_is_written(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, made_store: Any
) -> None:
    out = tmp_path / "theirs"
    out.mkdir()
    (out / "slides.csv").write_text("case_id,slide_id,label\np-pos0,pos0,neg\n")
    words = ("export", made_store(["pos0"]), "format=clam", f"out={out}", f"cohort={write_table(cohort_rows(pos=1))}")
    assert mhim(*words).code == 5
    assert content(out).keys() == {"slides.csv"}


def test_an_export_into_a_store_is_refused(refused: Callable[..., str], tmp_path: Path, made_store: Any) -> None:
    words = ("export", made_store(["pos0"]), "format=clam-pt", f"out={tmp_path / 'store'}")
    before = content(tmp_path / "store")
    assert "is a feature store" in refused(*words)
    assert content(tmp_path / "store") == before


def test_stamp_gives_back_the_places_of_slides_of_several_resolutions(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, refused: Callable[..., str]
) -> None:
    rows = [row | {"mpp": mpp} for row, mpp in zip(cohort_rows(pos=2), ("0.25", "0.5023"), strict=True)]
    theirs, out = write_clam(tmp_path / "clam", ["pos0", "pos1"]), tmp_path / "stamp"
    table, store = write_table(rows), f"store={tmp_path / 'store'}"
    words = ("import", f"source={theirs}", "format=clam", f"cohort={table}", store, "encoder=uni")
    assert mhim(*words, "tile_size_l0_px=224").code == 0
    assert mhim("export", store, "format=stamp", f"out={out}", f"cohort={table}").code == 0
    with (out / "slide.csv").open(newline="") as file:
        assert [row["mpp"] for row in csv.DictReader(file)] == ["0.25", "0.5023"]
    without = write_table(cohort_rows(pos=2), "without.csv")
    words = ("import", f"source={out}", "format=stamp", f"store={tmp_path / 'back'}")
    # the files' own counts, not what is said of all files
    for _ in range(2):
        ended = mhim(*words, f"cohort={without}", "default_mpp=0.25")
        assert ended.code == 0, ended
    assert "2 skipped" in ended.out
    places = {tuple(map(tuple, made.coords_l0_px)) for made in tables(tmp_path / "back").values()}
    assert places == {tuple(sorted(map(tuple, COORDS), key=lambda place: (place[1], place[0])))}
    contradicting = write_table([row | {"mpp": "0.25"} for row in rows], "other.csv")
    ended = mhim(*words, f"cohort={contradicting}", "max_failed_fraction=0.5")
    assert ended.code == 3
    assert "pos1: failed, bad_features" in ended.err


def test_all_keys_that_files_lack_are_named_before_any_work(
    refused: Callable[..., str], mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any
) -> None:
    (tmp_path / "theirs").mkdir()
    for slide_id in ("pos0", "pos1"):
        file = write_h5({"feats": features_of_slide(0), "coords": COORDS})
        (tmp_path / f"theirs/{slide_id}.h5").write_bytes(file)
    store, table = tmp_path / "store", write_table(cohort_rows(pos=2))
    words = ("import", f"source={tmp_path / 'theirs'}", "format=stamp", f"cohort={table}", f"store={store}")
    message = refused(*words)
    assert [key for key in ("encoder=", "coords_unit=", "default_mpp=") if key in message] == [
        "encoder=",
        "coords_unit=",
        "default_mpp=",
    ]
    assert not store.exists()
    # a file of another kind among others fails alone
    (tmp_path / "theirs/pos1.h5").write_bytes(
        write_h5(
            {"feats": features_of_slide(0), "coords": COORDS * 0.5}, file_attributes={"unit": "um", "tile_size": 112.0}
        )
    )
    ended = mhim(*words, "encoder=uni", "default_mpp=0.5", "max_failed_fraction=0.5")
    assert ended.code == 3, ended
    assert tables(store).keys() == {"pos1"}


@pytest.mark.parametrize(
    ("format_name", "held", "other"),
    [("trident", {"feats", "coords"}, "format=stamp"), ("stamp", {"coords"}, "patches/")],
)
def test_a_format_that_no_file_has_is_refused_before_any_work(
    refused: Callable[..., str],
    mhim: Mhim,
    tmp_path: Path,
    write_table: Table,
    cohort_rows: Any,
    format_name: str,
    held: set[str],
    other: str,
) -> None:
    folder = tmp_path / "theirs/features_uni"
    folder.mkdir(parents=True)
    arrays = {"feats": features_of_slide(0), "features": features_of_slide(0), "coords": COORDS}
    for slide_id in ("pos0", "pos1"):
        (folder / f"{slide_id}.h5").write_bytes(write_h5({name: arrays[name] for name in sorted(held)}))
    words = ("import", f"source={tmp_path / 'theirs'}", f"format={format_name}", "max_failed_fraction=0.5")
    words = (*words, f"cohort={write_table(cohort_rows(pos=2))}", f"store={tmp_path / 'store'}")
    message = refused(*words)
    assert f"format={format_name}" in message
    assert other in message
    assert not (tmp_path / "store").exists()
    # of its own kind, one among others fails alone
    unit = {"unit": "um", "tile_size": 112.0, "extractor": "uni"}
    good = (
        {"features": arrays["features"], "coords": COORDS}
        if format_name == "trident"
        else {"feats": arrays["feats"], "coords": COORDS * 0.5}
    )
    (folder / "pos1.h5").write_bytes(write_h5(good, file_attributes=unit))
    ended = mhim(*words, "default_mpp=0.5")
    assert ended.code == 3, ended


def test_failures_beyond_a_screen_are_counted(mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any) -> None:
    rows = cohort_rows(pos=23)
    (tmp_path / "theirs").mkdir()
    for row in rows:
        (tmp_path / f"theirs/{row['slide_id']}.pt").write_bytes(b"damaged")
    words = ("import", f"source={tmp_path / 'theirs'}", "format=mhim", f"cohort={write_table(rows)}", "encoder=uni")
    ended = mhim(*words, f"store={tmp_path / 'store'}")
    assert ended.code == 4
    assert ended.err.count(": failed, open") == 20
    assert "and 3 more" in ended.err


def test_of_several_encoders_one_folder_is_asked_for(
    refused: Callable[..., str], mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any
) -> None:
    table = write_table(cohort_rows(pos=2))
    file = write_h5({"features": features_of_slide(0), "coords": COORDS})
    for folder in ("20x/features_uni/pos0", "20x/features_conch/pos0", "20x/patches/pos0_patches"):
        path = tmp_path / f"theirs/{folder}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
    words = ("import", f"source={tmp_path / 'theirs'}", "format=trident", f"cohort={table}", "max_failed_fraction=0.5")
    message = refused(*words, f"store={tmp_path / 'store'}")
    assert "give the folder of one encoder" in message
    assert "20x/features_uni/pos0.h5" in message
    (tmp_path / "theirs/20x/features_conch/pos0.h5").unlink()
    ended = mhim(*words, f"store={tmp_path / 'store'}")
    assert ended.code == 3, ended
    assert "patches" not in ended.out
    assert only_set(tmp_path / "store").encoder_id == "trident/uni"


def test_slides_without_coordinates_are_counted(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any
) -> None:
    folder = tmp_path / "theirs/tile_embeddings"
    folder.mkdir(parents=True)
    (folder / "pos0.pt").write_bytes(write_tensor(features_of_slide(0)))
    table = write_table(cohort_rows(pos=1))
    words = ("import", f"source={tmp_path / 'theirs'}", "format=slide2vec", f"cohort={table}", "encoder=uni")
    ended = mhim(*words, f"store={tmp_path / 'store'}")
    assert ended.code == 0, ended
    assert "1 slide without coordinates" in ended.out
    assert "1 slide of which neither the file nor the table's column mpp states" in ended.out


def test_an_aggregator_that_needs_coordinates_refuses_features_without_them_and_leaves_no_run(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any
) -> None:
    folder = tmp_path / "theirs/tile_embeddings"
    folder.mkdir(parents=True)
    rows = cohort_rows(pos=3, neg=3)
    for number, row in enumerate(rows):
        (folder / f"{row['slide_id']}.pt").write_bytes(write_tensor(features_of_slide(number)))
    store, table = f"store={tmp_path / 'store'}", f"cohort={write_table(rows)}"
    assert mhim("import", f"source={tmp_path / 'theirs'}", "format=slide2vec", table, "encoder=uni", store).code == 0
    for words in (("train",), ("sweep", "vary=mammil_layers=1,2")):
        ended = mhim(*words, table, store, "aggregator=mammil", "folds=3", f"out={tmp_path / 'run'}")
        assert ended.code == 2, ended
        assert "without coordinates; mammil_graph=path" in ended.err
        assert not (tmp_path / "run").exists()


def test_rounding_is_told_for_each_type(mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any) -> None:
    (tmp_path / "theirs").mkdir()
    for slide_id, values in (("pos0", np.full((2, 3), 0.5, np.float32)), ("pos1", np.full((2, 3), 0.1, np.float64))):
        (tmp_path / f"theirs/{slide_id}.pt").write_bytes(write_tensor(values))
    words = ("import", f"source={tmp_path / 'theirs'}", "format=mhim", f"cohort={write_table(cohort_rows(pos=2))}")
    ended = mhim(*words, f"store={tmp_path / 'store'}", "encoder=uni")
    assert "1 file of float32, stored as float16: all features exactly" in ended.out
    assert "1 file of float64, stored as float16: no feature is off by more than 2.4e-05" in ended.out


def test_an_id_within_another_is_named_with_it(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, made_store: Any
) -> None:
    store = made_store(["pos1", "pos10"])
    rows = [row for row in cohort_rows(pos=11) if row["slide_id"] in ("pos1", "pos10")]
    ended = mhim("export", store, "format=mhim", f"out={tmp_path / 'theirs'}", f"cohort={write_table(rows)}")
    assert "would mix pos1 with pos10" in ended.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("import", "source=x", "format=clm", "cohort=c", "store=s"), "format=clm is not one of clam"),
        (("export", "store=s", "format=tiles", "out=o"), "cohort="),
        (("export", "store=s", "format=slide2vec", "out=o"), "format=slide2vec can be imported, not exported"),
        (("import", "source=x", "format=tiles", "cohort=c", "store=s"), "format=tiles can be exported, not imported"),
        (("import", "source=x", "format=clam", "cohort=c", "store=s"), "encoder="),
        (("import", "source=x", "format=clam-pt", "cohort=c", "store=s"), "encoder="),
        (("import", "source=x", "format=mhim", "cohort=c", "store=s"), "encoder="),
        (("import", "source=nowhere", "format=trident", "cohort=c", "store=s"), "there is no such folder"),
        (("import", f"source={__file__}", "format=trident", "cohort=c", "store=s"), "is a file; give its folder"),
        (("export", "store=s", "format=clam", f"out={__file__}"), "is a file; give a folder"),
        (("export", "store=s", "format=clam", "out=o", "labels=l"), "cohort="),
    ],
)
def test_words_that_do_not_fit_are_refused(refused: Callable[..., str], words: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(*words)


def test_a_folder_of_other_slides_is_refused(
    refused: Callable[..., str], tmp_path: Path, write_table: Table, cohort_rows: Any
) -> None:
    theirs = write_clam(tmp_path / "theirs", ["other"])
    table = write_table(cohort_rows(pos=1))
    words = ("import", "format=clam", f"cohort={table}", f"store={tmp_path / 's'}", "encoder=uni")
    assert "suffix=" in refused(*words, f"source={theirs}")
    (tmp_path / "nothing").mkdir()
    assert "no file that ends in .h5" in refused(*words, f"source={tmp_path / 'nothing'}")


def test_a_format_is_added_by_one_file_as_contributing_says(
    mhim: Mhim, tmp_path: Path, write_table: Table, cohort_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("\n## Adding a tool's feature files\n")[2].partition("\n## ")[0]
    example = re.search(r"```python\n# mhim_core/store/foreign/tools/(\w+)\.py\n(.*?)```", section, re.DOTALL)
    assert example is not None
    (tmp_path / f"{example.group(1)}.py").write_text(example.group(2))
    monkeypatch.setattr(tools, "__path__", [*tools.__path__, str(tmp_path)])
    monkeypatch.setattr(names, "registered", functools.cache(names.registered.__wrapped__))
    (tmp_path / "theirs").mkdir()
    np.save(tmp_path / "theirs/pos0.npy", features_of_slide(0))
    words = ("import", f"source={tmp_path / 'theirs'}", "format=npy", f"cohort={write_table(cohort_rows(pos=1))}")
    ended = mhim(*words, f"store={tmp_path / 'store'}", "encoder=uni")
    assert ended.code == 0, ended
    assert np.array_equal(tables(tmp_path / "store")["pos0"].features, features_of_slide(0).astype(np.float16))


class TestRealFiles:
    """The files in the shared data."""

    def test_a_bag_in_stamps_layout_without_a_unit(
        self, mhim: Mhim, tmp_path: Path, write_table: Table, shared_data: Path
    ) -> None:
        slide_id = "TCGA-AD-6964-01Z-00-DX1"
        table = write_table([{"slide_id": slide_id, "path": f"{slide_id}.svs", "patient_id": "TCGA-AD-6964"}])
        words = (
            "import",
            f"source={shared_data / 'bags/foreign'}",
            "format=stamp",
            f"cohort={table}",
            f"store={tmp_path / 'store'}",
            "suffix=.features.h5",
            "encoder=retccl",
        )
        ended = mhim(*words)
        assert ended.code == 2
        assert "coords_unit=" in ended.err
        assert not (tmp_path / "store").exists()
        assert mhim(*words, "coords_unit=level0_px", "tile_size_l0_px=512").code == 0
        (made,) = tables(tmp_path / "store").values()
        assert made.features.shape == (777, 512)
        assert made.coords_l0_px.min(axis=0).tolist() == [9728, 10752]
        assert made.coords_l0_px.max(axis=0).tolist() == [34304, 27648]

    def test_clam_like_files_are_imported_exported_and_trained_on(
        self, mhim: Mhim, train_here: None, tmp_path: Path, shared_data: Path
    ) -> None:
        theirs, table = shared_data / "bags/atlas10x", shared_data / "slides/atlas10x_mpp.csv"
        store = f"store={tmp_path / 'store'}"
        words = ("import", f"source={theirs}", "format=clam", f"cohort={table}", store, "encoder=mobilenetv2_100")
        ended = mhim(*words, "tile_size_l0_px=224")
        assert ended.code == 0, ended
        made = tables(tmp_path / "store")
        with table.open(newline="") as file:
            assert made.keys() == {row["slide_id"] for row in csv.DictReader(file)}
        for name in ("trident", "stamp"):
            out = tmp_path / name
            ended = mhim("export", store, f"format={name}", f"out={out}", f"cohort={table}", "max_failed_fraction=1")
            back = tmp_path / f"back-{name}"
            folder = next(out.rglob("features_*" if name == "trident" else "mobilenetv2_100"))
            mhim("import", f"source={folder}", f"format={name}", f"cohort={table}", f"store={back}")
            returned = tables(back)
            # µm need a µm/px, which the table has for five slides alone
            assert len(returned) == (21 if name == "trident" else 5)
            for slide_id, again in returned.items():
                assert np.array_equal(again.features, made[slide_id].features)
                assert np.array_equal(again.coords_l0_px, made[slide_id].coords_l0_px)
        ended = mhim("train", f"cohort={table}", store, f"out={tmp_path / 'run'}", "folds=2", "epochs=1", "embed_dim=8")
        assert ended.code == 0, ended
