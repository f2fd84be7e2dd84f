"""`mhim embed encoder=a,b`: one decoding, and in the store what separate commands would have written."""

import csv
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.embedding import SlideActor
from flows.config.files import RESOLVED
from flows.config.keys import EncoderKeys
from flows.runs.tiling import feature_set_of
from mhim_core.embed.efficientnet_lite0 import PACKAGE
from mhim_core.embed.registry import encoder_card
from mhim_core.slides.spec import TileSpec, TissueMethod
from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import register

pytestmark = [
    pytest.mark.filterwarnings("ignore:::ray"),
    pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra `encoders` is not installed"),
]

FIRST, SECOND = "hed-texture", "efficientnet-lite0"
BOTH = f"encoder={FIRST},{SECOND}"
TORCH = "encoder_runtime=torch"  # loads in a second
IMMUTABLE = ("features", "commits", "manifests", "feature_sets")


def contents(store: Path) -> dict[str, bytes]:
    """What the store holds but for its reports, whose names are random."""
    files = (path for folder in IMMUTABLE for path in (store / folder).rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def summaries(store: Path) -> dict[str, dict[str, Any]]:
    """The newest report's summary of each encoder."""
    reports = [json.loads(path.read_bytes()) for path in sorted(store.glob("reports/*/summary.json"), key=_written)]
    return {report["encoder"]: report for report in reports}


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def counts(store: Path) -> dict[str, dict[str, int]]:
    return {
        encoder: {name: number for name, number in report["counts"].items() if number}
        for encoder, report in summaries(store).items()
    }


def some(cohort: Path, table: Path, *numbers: int) -> Path:
    """A table of some of the cohort's slides."""
    with cohort.open(newline="") as file:
        rows = [row for place, row in enumerate(csv.DictReader(file)) if place in numbers]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"path": str(cohort.parent / row["path"])} for row in rows)
    return table


class Separate(NamedTuple):
    """A table of four slides, and the store of two commands, one for each encoder."""

    table: Path
    store: Path


@pytest.fixture(scope="module")
def separate(painted: Any, tmp_path_factory: pytest.TempPathFactory, run_here: Callable[..., Any]) -> Separate:
    folder = tmp_path_factory.mktemp("separate")
    made = Separate(some(painted.cohort, folder / "four.csv", 0, 1, 2, 3), folder / "store")
    for encoder in (FIRST, SECOND):
        ended = run_here("embed", f"cohort={made.table}", f"store={made.store}", f"encoder={encoder}", TORCH)
        assert ended.code == 0, ended
    return made


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The slides that are decoded, in order."""
    slides: list[str] = []
    embed = SlideActor._embed_with_retries

    def count(self: SlideActor, task: Any, *rest: Any) -> Any:
        slides.append(task.slide_id)
        return embed(self, task, *rest)

    monkeypatch.setattr(SlideActor, "_embed_with_retries", count)
    return slides


def test_files_commits_and_manifests_are_those_of_separate_commands_and_each_slide_is_decoded_once(
    separate: Separate, tmp_path: Path, run_here: Callable[..., Any], decoded: list[str]
) -> None:
    words = ("embed", f"cohort={separate.table}", f"store={tmp_path / 'store'}", TORCH)
    ended = run_here(*words, BOTH)
    assert ended.code == 0, ended
    assert contents(tmp_path / "store") == contents(separate.store)
    assert len([key for key in contents(separate.store) if key.startswith("features/")]) == 8
    assert sorted(decoded) == ["s00", "s01", "s02", "s03"]
    assert counts(tmp_path / "store") == {FIRST: {"ok": 4}, SECOND: {"ok": 4}}
    decoded.clear()
    ended = run_here(*words, f"encoder={SECOND},{FIRST}")
    assert counts(tmp_path / "store") == {FIRST: {"skipped": 4}, SECOND: {"skipped": 4}}
    assert (ended.code, decoded) == (0, [])
    assert contents(tmp_path / "store") == contents(separate.store)


def test_regions_and_quality_are_every_encoder_s_and_a_slide_that_is_refused_is_so_for_all(
    separate: Separate, tmp_path: Path, run_here: Callable[..., Any], decoded: list[str]
) -> None:
    table = some(separate.table, tmp_path / "three.csv", 0, 1, 2)
    (tmp_path / "annotations").mkdir()
    for slide_id in ("s00", "s01"):
        ring = [[0, 0], [500, 0], [500, 600], [0, 600], [0, 0]]
        region = {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": "Tumor"}},
        }
        document = {"type": "FeatureCollection", "features": [region]}
        (tmp_path / f"annotations/{slide_id}.geojson").write_text(json.dumps(document))
    words = ["embed", f"cohort={table}", TORCH, f"annotations={tmp_path / 'annotations'}", "roi=Tumor"]
    words += ["tile_classes=true", "quality=true", "colour=reinhard", "max_failed_fraction=0.5"]
    for encoder in (FIRST, SECOND):
        assert run_here(*words, f"store={tmp_path / 'apart'}", f"encoder={encoder}").code == 3
    decoded.clear()
    together = (*words, f"store={tmp_path / 'store'}", BOTH)
    ended = run_here(*together)
    assert ended.code == 3, ended
    assert ended.out.count("s02: no_annotation") >= 2
    assert contents(tmp_path / "store") == contents(tmp_path / "apart")
    assert len([key for key in contents(tmp_path / "store") if key.startswith("features/")]) == 4
    assert sorted(decoded) == ["s00", "s01"]
    decoded.clear()
    assert (run_here(*together).code, decoded) == (3, [])
    assert counts(tmp_path / "store") == {name: {"skipped": 2, "failed": 1} for name in (FIRST, SECOND)}


def test_what_is_missing_of_one_encoder_is_made_by_that_one_alone(
    separate: Separate, tmp_path: Path, run_here: Callable[..., Any], decoded: list[str]
) -> None:
    """As after a driver that was killed between two commits of a slide, and one that was killed between two slides."""
    store = tmp_path / "store"
    shutil.copytree(separate.store, store)
    shutil.rmtree(store / "manifests")
    second = {path for path in store.glob("commits/*/*/*.json") if json.loads(path.read_bytes())["dim"] == 1280}
    lost = [path for path in second if path.parent.name in ("s01", "s03")]
    lost += [path for path in store.glob("commits/*/s03/*.json") if path not in second]
    for path in lost:
        path.unlink()
    assert len(lost) == 3
    before = {path: path.stat().st_mtime_ns for path in store.glob("commits/*/*/*.json")}
    ended = run_here("embed", f"cohort={separate.table}", f"store={store}", BOTH, TORCH)
    assert ended.code == 0, ended
    assert sorted(decoded) == ["s01", "s03"]
    assert counts(store) == {FIRST: {"ok": 1, "skipped": 3}, SECOND: {"ok": 2, "skipped": 2}}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(store) == contents(separate.store)


def test_a_slide_that_cannot_be_read_is_one_slide_failed_and_recorded_for_each_encoder(
    painted: Any, tmp_path: Path, run_here: Callable[..., Any], decoded: list[str]
) -> None:
    table, store = some(painted.cohort, tmp_path / "two.csv", 4), tmp_path / "store"
    (tmp_path / "broken.tiff").write_bytes(b"no slide")
    with table.open("a") as file:
        file.write(f"broken,{tmp_path / 'broken.tiff'},p99,tumour\n")
    words = ("embed", f"cohort={table}", f"store={store}", BOTH, TORCH, "max_failed_fraction=0.5")
    ended = run_here(*words)
    assert ended.code == 3, ended
    assert "2 slides: 1 ok, 0 empty, 1 failed (open 1)" in ended.out.splitlines()[-1]
    assert counts(store) == {FIRST: {"ok": 1, "failed": 1}, SECOND: {"ok": 1, "failed": 1}}
    attempts = {path.parts[-4] for path in store.glob("attempts/*/broken/*/*.json")}
    assert attempts == {report["feature_set"] for report in summaries(store).values()}
    decoded.clear()
    assert run_here(*words, "retry_failed=false").code == 3
    assert decoded == []


def test_one_report_and_one_resolved_config_for_each_encoder_repeat_it_alone(
    separate: Separate, tmp_path: Path, mhim: Callable[..., Any]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(separate.store, store)
    shutil.rmtree(store / "reports")
    assert mhim("embed", f"cohort={separate.table}", f"store={store}", BOTH, TORCH).code == 0
    files = {
        json.loads(path.with_name("summary.json").read_bytes())["encoder"]: path
        for path in store.glob(f"reports/*/{RESOLVED}")
    }
    assert files.keys() == {FIRST, SECOND}
    for encoder, path in files.items():
        ended = mhim("embed", f"config={path}")
        assert ended.code == 0, ended
        assert ended.out.startswith("4 slides: 0 ok, 0 empty, 0 failed, 4 skipped")
        assert f"encoder: {encoder}" in path.read_text()


def test_encoders_whose_tissue_the_store_began_otherwise_are_decoded_for_each_tiling(
    separate: Separate, tmp_path: Path, run_here: Callable[..., Any], decoded: list[str]
) -> None:
    store = tmp_path / "store"
    begun = feature_set_of(TileSpec(tissue=TissueMethod.otsu), encoder_card(FIRST))
    register(LocalStorage(store), begun)
    ended = run_here("embed", f"cohort={separate.table}", f"store={store}", BOTH, TORCH)
    assert ended.code == 0, ended
    assert sorted(decoded) == sorted(["s00", "s01", "s02", "s03"] * 2)
    assert summaries(store)[FIRST]["feature_set"] == begun.fingerprint
    assert counts(store) == {FIRST: {"ok": 4}, SECOND: {"ok": 4}}
    files = {key: data for key, data in contents(separate.store).items() if "features/" in key}
    own = contents(store)
    assert sum(own.get(key) == data for key, data in files.items()) == 4, "those of the second"


WEIGHTS = "encoder=timm/a,timm/b"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([f"encoder={FIRST},{SECOND},{FIRST}"], "names hed-texture more than once"),
        ([BOTH, "encoder_weights=w.pth"], f"write encoder_weights={SECOND}=…"),
        ([BOTH, "encoder_revision=main"], "encoder_revision=main does not say which encoder it is for"),
        ([WEIGHTS, "encoder_weights=timm/a=x,timm/c=y"], "has a value for timm/c"),
        ([WEIGHTS, "encoder_weights=timm/a=x,timm/a=y"], "two values for timm/a"),
        ([WEIGHTS, "encoder_weights=x,timm/a=y"], "does not say which encoder"),
        ([f"encoder={FIRST}", f"encoder_weights={SECOND}=x"], f"has a value for {SECOND}"),
        ([BOTH, "encoder_runtime=openvino"], "hed-texture is no network"),
        ([f"encoder={FIRST},hed-textur"], "did you mean hed-texture"),
    ],
)
def test_what_is_ambiguous_is_refused_before_any_work(
    refused: Callable[..., str], painted: Any, tmp_path: Path, words: list[str], reason: str
) -> None:
    assert reason in refused("embed", f"cohort={painted.cohort}", f"store={tmp_path / 'store'}", *words)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", ["pipeline", "demo", "check"])
def test_commands_of_one_encoder_refuse_several(
    refused: Callable[..., str], painted: Any, tmp_path: Path, command: str
) -> None:
    words = {
        "pipeline": [f"cohort={painted.cohort}", f"store={tmp_path / 's'}", f"out={tmp_path / 'out'}"],
        "demo": [f"out={tmp_path / 'out'}"],
        "check": [f"cohort={painted.cohort}", "estimate=true"],
    }[command]
    assert "names 2 encoders" in refused(command, *words, BOTH)
    assert not list(tmp_path.glob("out/*"))


def test_doctor_looks_at_every_encoder(mhim: Callable[..., Any]) -> None:
    ended = mhim("doctor", "start_ray=false", BOTH, "encoder_runtime=torch")
    assert ended.code == 0, ended
    assert [name for name in (FIRST, SECOND) if f"{name} (D=" in ended.out] == [FIRST, SECOND]


def test_the_keys_of_each_encoder_are_those_that_name_it() -> None:
    keys = EncoderKeys(
        encoder="[timm/a, timm/b,hed-texture]",
        encoder_weights="timm/b=/w/epoch=3,last.pth,timm/a=/w/a.pth",
        encoder_revision="timm/b=abc",
    )
    assert [(own.encoder, own.encoder_weights, own.encoder_revision) for own in keys.each()] == [
        ("timm/a", "/w/a.pth", ""),
        ("timm/b", "/w/epoch=3,last.pth", "abc"),
        ("hed-texture", "", ""),
    ]
    assert keys.weights_of("timm/b") == "/w/epoch=3,last.pth"
    assert keys.weights_of("hed-texture") is None
    alone = EncoderKeys(encoder="timm/a", encoder_weights="epoch=3,x.pth")
    assert alone.each() == (alone,)
    assert alone.weights_of("timm/a") == "epoch=3,x.pth"
