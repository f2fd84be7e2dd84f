"""mhim export geojson and heatmap: of runs and of predictions, and back through `mhim embed annotations=`."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from flows.predict import predict_bags
from flows.prediction.predictor import predictor_of_run
from flows.prediction.robustness import write_robustness
from flows.runs.folder import read_run
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.evaluation.prediction_table import new_bags_schema
from mhim_core.fingerprint import canonical_json
from mhim_core.registry.external import new_bags
from mhim_core.slides.annotations import read_annotation
from mhim_core.storage import LocalStorage
from mhim_core.store.attention import decode_attention
from mhim_core.tables import write_parquet
from mhim_core.types import SlideId

TILE = 256


@pytest.fixture
def run(
    tmp_path: Path,
    mhim: Any,
    cohort_rows: Callable[..., list[dict[str, str]]],
    write_table: Callable[..., Path],
    made_store: Callable[..., str],
    train_here: None,
) -> Path:
    """An evaluated run of eight slides of three tiles in a row, whose files are not there."""
    rows = cohort_rows(neg=4, pos=4)
    store = made_store([row["slide_id"] for row in rows])
    table, out = f"cohort={write_table(rows)}", tmp_path / "run"
    words = ("method=plain", "epochs=2", "embed_dim=8", "folds=2")
    assert mhim("train", table, store, f"out={out}", *words).code == 0
    assert mhim("evaluate", f"run={out}", "bootstrap_replicates=20").code == 0
    return out


def features_of(path: Path) -> dict[str, dict[str, Any]]:
    """By classification and name."""
    features = json.loads(path.read_text())["features"]
    return {
        feature["properties"]["classification"]["name"] + feature["properties"].get("name", ""): feature
        for feature in features
    }


def paint(path: Path, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 240, np.uint8)
    texture = np.random.default_rng(0).integers(-25, 25, (shape[0] - 20, shape[1] - 20, 1))
    pixels[10:-10, 10:-10] = np.clip(np.array([205, 130, 175]) + texture, 0, 255)
    write_pyramid(path, pixels, mpp=(0.5, 0.5))


def test_a_run_s_slides_become_objects_and_come_back_as_regions(
    run: Path, tmp_path: Path, mhim: Any, write_table: Callable[..., Path], embed_here: None
) -> None:
    paint(tmp_path / "pos0.svs", (256, 1024))
    paint(tmp_path / "pos1.svs", (512, 1024))
    out = tmp_path / "qupath"
    words = ("export", "geojson", f"run={run}", f"out={out}", "shares=0.67,0.34", "foci=2", "top_tiles=2")
    ended = mhim(*words)
    assert ended.code == 0, ended
    assert "8 files written" in ended.out
    assert "pos1 (open: its file is of another size now, 1024 × 512)" in ended.out
    assert sum(f"{name} (" in ended.out for name in ("neg0", "neg3", "pos3")) == 3, "what is left out is named"

    features = features_of(out / "pos0.geojson")
    assert "Tissue" in features
    assert "Tissue" not in features_of(out / "pos2.geojson")
    attention = decode_attention((run / "evaluation/attention/pos0.parquet").read_bytes())
    order = np.argsort(-attention.attention, kind="stable")
    first = features["Top tiletile 1"]
    left, top = attention.coords_l0_px[order[0]].tolist()
    assert first["geometry"]["coordinates"][0][0] == [left, top]
    assert first["properties"]["objectType"] == "detection"
    measured = first["properties"]["measurements"]
    assert measured["attention"] == pytest.approx(float(attention.attention[order[0]]))
    assert measured["evidence neg"] == pytest.approx(-measured["evidence pos"])
    focus = next(feature["properties"] for name, feature in features.items() if name.startswith("Focus "))
    assert focus["name"] == "focus 1"
    assert 0 < focus["measurements"]["sufficiency"] < 1
    area = features["Attention top 67%"]["properties"]["measurements"]
    assert (area["tiles"], area["area mm2"]) == (2, pytest.approx(2 * (TILE * 0.5e-3) ** 2))

    # the tiles that QuPath's area encloses are those that are embedded from it
    assert read_annotation((out / "pos0.geojson").read_bytes()).regions["Attention top 67%"]
    rows = [{"slide_id": "pos0", "path": "pos0.svs", "patient_id": "p", "label": "x"}]
    cohort = write_table(rows, name="one.csv")
    again = mhim(
        *("embed", f"cohort={cohort}", f"store={tmp_path / 'again'}", "encoder=hed-texture", "min_tissue=0.2"),
        *(f"annotations={out}", "roi=Attention top 67%", "min_roi=0.9"),
    )
    assert again.code == 0, again
    [file] = (tmp_path / "again/features").rglob("*.parquet")
    table = pq.read_table(file, columns=["x_l0_px", "y_l0_px"]).to_pydict()
    assert sorted(table["x_l0_px"]) == sorted(attention.coords_l0_px[order[:2], 0].tolist())

    assert mhim(*words).code == 0, "the same files are left"
    assert mhim(*words[:-1], "top_tiles=1").code == 5, "others are never overwritten"


def test_archives_some_slides_and_what_is_refused(run: Path, tmp_path: Path, mhim: Any, refused: Any) -> None:
    out = tmp_path / "qupath"
    words = ("export", "geojson", f"run={run}", f"out={out}", "tissue=false", "gzip=true", "evidence=false")
    assert mhim(*words, "slides=neg1,pos1").code == 0
    assert sorted(path.name for path in out.glob("*.gz")) == ["neg1.geojson.gz", "pos1.geojson.gz"]
    classes = read_annotation((out / "neg1.geojson.gz").read_bytes()).classes
    assert classes == tuple(sorted(f"Attention top {share}%" for share in (50, 20, 10, 5)))
    assert "nobody" in refused(*words, "slides=nobody")
    assert "shares=" in refused(*words, "shares=0.1,2")
    assert "run=" in refused("export", "geojson", f"out={out}")
    assert "registry=" in refused(*words, "registry=r")
    (run / "evaluation/attention/neg2.parquet").write_bytes(
        (run / "evaluation/attention/neg2.parquet").read_bytes()[:-20]
    )
    ended = mhim(*words)
    assert ended.code == 4, "one of eight is more than a tenth"
    assert "neg2: read" in ended.out
    assert (out / "pos3.geojson.gz").exists()


def test_a_prediction_s_slides(
    run: Path, tmp_path: Path, mhim: Any, embed_here: None, write_table: Callable[..., Path]
) -> None:
    """The models of all folds; the features are those of the predictions' own slides."""
    rows = [{"slide_id": f"pos{i}", "path": f"pos{i}.svs", "patient_id": f"p-pos{i}", "label": "pos"} for i in (0, 1)]
    cohort, out = write_table(rows, name="new.csv"), tmp_path / "predictions"
    # the run's encoder is none that could embed: what a prediction keeps is put there
    trained = read_run(str(run))
    predictor = predictor_of_run(trained)
    members = [row for row in trained.slides if row.slide_id in ("pos0", "pos1")]
    bags = new_bags(predictor.unit, members, {SlideId("pos0"), SlideId("pos1")})
    storage = LocalStorage(out)
    predicted = predict_bags(predictor, trained.bag_source(), bags, storage)
    schema = new_bags_schema(predictor.task, predictor.unit, tuple(predictor.origin))
    storage.put("predictions.parquet", write_parquet([each.line for each in predicted], schema=schema))
    storage.put("summary.json", canonical_json({"by": predictor.origin}))
    (out / "resolved.yaml").write_text(f"cohort: {cohort}\nout: {out}\nrun: {run}\n")

    words = ("export", "heatmap", f"predictions={out}", f"out={tmp_path / 'maps'}", "style=values")
    ended = mhim(*words)
    assert ended.code == 0, ended
    kept = decode_attention((out / "attention/pos1.parquet").read_bytes())
    data = (tmp_path / "maps/pos1.ome.tif").read_bytes()
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        values = tiff.series[0].asarray()
    assert values.shape == (4, 256, 1024), "attention, its rank, and two classes"
    for (x, y), value in zip(kept.coords_l0_px.tolist(), kept.attention.tolist(), strict=True):
        assert (values[0, y : y + TILE, x : x + TILE] == np.float32(value)).all()
    assert np.isnan(values[0, :, 3 * TILE :]).all()
    assert np.nanmax(np.abs(values[2] + values[3])) < 1e-6
    storage.put("summary.json", canonical_json({"by": {"run": "another"}}))
    assert mhim(*words).code == 2
    assert mhim("export", "geojson", f"predictions={tmp_path / 'maps'}", "out=x").code == 2


@pytest.mark.thorough
def test_predictions_say_how_far_they_are_from_another_class(run: Path, tmp_path: Path, refused: Any) -> None:
    """A line a bag, compared with slides that the run knows; the same each time."""
    trained = read_run(str(run))
    predictor = predictor_of_run(trained)
    bags = new_bags(predictor.unit, list(trained.slides)[:2], {slide.slide_id for slide in trained.slides[:2]})
    tables = []
    for name in ("first", "second"):
        storage = LocalStorage(tmp_path / name)
        write_robustness(trained, predictor, trained.bag_source(), bags, 3, storage)
        tables.append(pq.read_table(tmp_path / name / "robustness.parquet").to_pylist())
        assert (tmp_path / name / "robustness.csv").exists()
    assert tables[0] == tables[1]
    assert [line["slide_id"] for line in tables[0]] == [bag.bag_id for bag in bags]
    for line in tables[0]:
        assert line["num_known"] == 3
        assert line["fragility"] in {0, 1 / 3, 2 / 3, 1}
        assert line["to_class"] in predictor.classes
        assert line["flip_radius"] > 0
    words = ("predict", "model=m@1", f"registry={tmp_path}", "cohort=c.csv", f"out={tmp_path}/p")
    assert "robustness" in refused(*words, "robustness=true")
