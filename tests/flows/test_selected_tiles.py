"""A share of the tiles for a large encoder, and tiles at other tools' places: from the command to the features."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import FeatureSet, list_feature_sets
from mhim_core.store.manifest import read_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.store.selection import num_chosen
from mhim_core.tables import write_csv
from mhim_core.types import ExitCode

Mhim = Callable[..., Any]


def feature_sets(store: Path, rule: str = "") -> list[FeatureSet]:
    """Those whose tiles were chosen by this rule; "": all tiles."""
    return [made for made in list_feature_sets(LocalStorage(store)) if made.tiling.get("select_rule", "") == rule]


def records(store: Path, feature_set: FeatureSet) -> dict[str, CommitRecord]:
    return dict(read_manifest(LocalStorage(store), feature_set.fingerprint).entries)


def table(store: Path, record: CommitRecord) -> Any:
    return pq.read_table(store / record.key)


def places(made: Any) -> list[tuple[int, int]]:
    return list(zip(made["x_l0_px"].to_pylist(), made["y_l0_px"].to_pylist(), strict=True))


@pytest.mark.usefixtures("embed_here")
def test_a_share_that_is_spread_is_embedded_and_goes_on_where_it_was(
    mhim: Mhim, refused: Callable[..., str], painted: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    words = ["embed", f"cohort={painted.new}", f"store={store}", "encoder=hed-texture", "tile_px=128"]
    chosen = [*words, "select_by=hed-texture", "select_share=0.25"]
    assert "mhim embed encoder=hed-texture" in refused(*chosen)
    assert mhim(*words).code == ExitCode.OK
    assert "select_by" in refused(*words, "select_share=0.25")
    assert "select_share" in refused(*words, "select_by=hed-texture")
    assert "same tiles" in refused(*chosen, "overlap_px=8")
    ended = mhim(*chosen)
    assert ended.code == ExitCode.OK, ended
    (whole,), (some,) = feature_sets(store), feature_sets(store, "spread")
    assert some.tiling["select_features"] == whole.fingerprint
    assert some.tiling["select_share"] == 0.25
    for slide_id, record in records(store, some).items():
        all_tiles, own = table(store, records(store, whole)[slide_id]), table(store, record)
        rows = [places(all_tiles).index(place) for place in places(own)]
        assert len(rows) == num_chosen(all_tiles.num_rows, 0.25)
        assert own["features"].to_pylist() == all_tiles.take(rows)["features"].to_pylist()
    assert "3 skipped" in mhim(*chosen).out
    shutil.rmtree(store / "features" / some.fingerprint[:16])
    ended = mhim("store", "repair", f"cohort={painted.new}", f"store={store}", "select_by=hed-texture")
    assert ended.code == ExitCode.OK, ended
    assert mhim("store", "verify", f"store={store}", "deep=true").code == ExitCode.OK
    assert "select_share" in refused("check", f"cohort={painted.new}", "select_share=0.5")


@pytest.mark.usefixtures("embed_here", "train_here")
def test_the_tiles_with_the_most_attention_are_chosen_by_the_models_that_held_the_slide_out(
    mhim: Mhim, refused: Callable[..., str], painted: Any, tmp_path: Path
) -> None:
    store, run = f"store={tmp_path / 'store'}", tmp_path / "run"
    tiles = ["encoder=hed-texture", "tile_px=128"]
    for cohort in (painted.cohort, painted.new):
        assert mhim("embed", f"cohort={cohort}", store, *tiles).code == ExitCode.OK
    small = ["method=plain", "epochs=1", "embed_dim=8", "folds=2"]
    ended = mhim("train", f"cohort={painted.cohort}", store, f"out={run}", *small)
    assert ended.code == ExitCode.OK, ended
    chosen = ["embed", store, *tiles, f"select_run={run}", "select_share=0.2"]
    assert "was trained on 128 px" in refused(*chosen, f"cohort={painted.cohort}", "overlap_px=8")
    assert mhim(*chosen, f"cohort={painted.cohort}").code == ExitCode.OK
    (whole,), (some,) = feature_sets(tmp_path / "store"), feature_sets(tmp_path / "store", "attention")
    made = records(tmp_path / "store", some)
    assert mhim("evaluate", f"run={run}", "bootstrap_replicates=0").code == ExitCode.OK
    for slide_id, record in made.items():  # the attention that evaluation kept is that of the model that held it out
        attention = pq.read_table(run / f"evaluation/attention/{slide_id}.parquet")
        num = num_chosen(attention.num_rows, 0.2)
        rows = np.sort(np.argsort(-attention["attention"].to_numpy(), kind="stable")[:num])
        assert places(table(tmp_path / "store", record)) == [places(attention)[row] for row in rows]
    # a model of these features predicts new slides of which the others are there
    chosen_run = tmp_path / "chosen"
    digits = f"feature_set={some.fingerprint[:16]}"
    ended = mhim("train", f"cohort={painted.cohort}", store, f"out={chosen_run}", *small, digits)
    assert ended.code == ExitCode.OK, ended
    predict = ["predict", f"cohort={painted.new}", f"run={chosen_run}", f"out={tmp_path / 'new'}", "max_heatmaps=0"]
    assert "select_run=" in refused(*predict)
    assert "another choice" in refused(*predict, f"select_by={whole.fingerprint[:16]}")
    ended = mhim(*predict, f"select_run={run}")
    assert ended.code == ExitCode.OK, ended
    assert len(records(tmp_path / "store", some)) == len(made) + 3


@pytest.fixture
def slides(write_table: Callable[..., Path], write_slide: Callable[..., Path]) -> Path:
    return write_table([{"slide_id": f"s{i}", "path": write_slide(f"s{i}.tiff", seed=i).name} for i in range(2)])


@pytest.mark.usefixtures("embed_here")
def test_tiles_are_those_of_another_tool_s_files(
    mhim: Mhim, refused: Callable[..., str], slides: Path, tmp_path: Path
) -> None:
    pytest.importorskip("h5py")
    store, theirs = tmp_path / "store", tmp_path / "theirs"
    assert mhim("embed", f"cohort={slides}", f"store={store}", "encoder=hed-texture").code == ExitCode.OK
    # as TRIDENT would have them
    assert mhim("export", f"store={store}", "format=trident", f"out={theirs}").code == ExitCode.OK
    words = [f"cohort={slides}", f"coordinates={theirs}"]
    embed = ["embed", *words, f"store={store}", "encoder=hed-texture"]
    ended = mhim(*embed)
    assert ended.code == ExitCode.OK, ended
    (grid,) = (made for made in list_feature_sets(LocalStorage(store)) if "placed" not in made.tiling)
    (placed,) = (made for made in list_feature_sets(LocalStorage(store)) if "placed" in made.tiling)
    for slide_id, record in records(store, placed).items():
        whole, own = (table(store, entry) for entry in (records(store, grid)[slide_id], record))
        assert places(own) == places(whole)
        assert own["features"].to_pylist() == whole["features"].to_pylist()
        assert record.reading.regions
    assert "2 skipped" in mhim(*embed).out
    assert mhim("check", *words, f"pictures={tmp_path / 'pictures'}").code == ExitCode.OK
    # one file changes: that slide is embedded again, and the other is not
    (patches,) = theirs.glob("*/patches")
    (patches / "s1_patches.h5").unlink()
    lines = [{"x": x, "y": 300, "tile_size_l0_px": 256} for x in (200, 450)]
    (patches / "s1.csv").write_bytes(write_csv(lines))
    ended = mhim(*embed)
    assert "1 ok" in ended.out, ended
    assert places(table(store, records(store, placed)["s1"])) == [(200, 300), (450, 300)]
    (patches / "s1.csv").write_bytes(write_csv([{"x": 5000, "y": 0, "tile_size_l0_px": 256}]))
    ended = mhim(*embed, "max_failed_fraction=0.5")
    assert ended.code == ExitCode.PARTIAL
    assert "s1: bad_annotation" in ended.out or "s1: failed, bad_annotation" in ended.err
    for name in ("s0_patches.h5", "s1.csv"):
        (patches / name).unlink()
    (patches / "s0.csv").write_bytes(write_csv([{"left": 1, "top": 2}]))
    assert "columns x and y" in refused(*embed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["coordinates=nowhere"], ["coordinates=nowhere"]),
        (["coordinates=theirs", "roi=Tumor", "annotations=x"], ["roi"]),
        (["coordinates=theirs", "overlap_px=8"], ["overlap_px"]),
        (["tile_size_l0_px=512"], ["coordinates="]),
        (["select_by=hed-texture", "select_run=run", "select_share=0.5"], ["select_by=", "select_run="]),
        (["coordinates=theirs", "select_by=hed-texture", "select_share=0.5"], ["select_share"]),
        (["select_run=nowhere", "select_share=0.5"], ["holds no run"]),
        (["select_by=hed-textur", "select_share=0.5"], ["did you mean select_by=hed-texture"]),
        (["select_by=97b26b", "select_share=0.5"], ["neither an encoder nor"]),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    refused: Callable[..., str], slides: Path, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    message = refused("embed", f"cohort={slides}", f"store={tmp_path / 'store'}", "encoder=hed-texture", *words)
    assert all(part in message for part in said), message
    assert not (tmp_path / "store").exists()
