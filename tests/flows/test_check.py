"""`mhim check` judges each slide as `mhim embed` does, and writes nothing but the pictures it was asked for."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mhim_core.slides.source_identity import file_sha256
from mhim_core.types import ExitCode, FailureReason

Mhim = Callable[..., Any]
WriteTable = Callable[..., Path]


def verdicts(out: str) -> dict[str, str]:
    """What check said of each slide: ok, `empty`, or the reason of its failure."""
    reasons = {reason.value for reason in FailureReason}
    outcomes = {}
    for line in out.splitlines()[:-1]:  # the last is the summary
        slide_id, text = line.split(": ", 1)
        if slide_id not in ("note", "warning"):
            first = text.split(":")[0].split(",")[0]
            assert first in reasons or first == "empty" or first.endswith(" tiles"), line
            outcomes[slide_id] = "ok" if first.endswith(" tiles") else first
    return outcomes


def embedded(store: Path) -> dict[str, str]:
    """What an embedding run made of each slide, from its newest manifest and report."""
    import pyarrow.parquet as pq

    report = max((store / "reports").iterdir())
    with (report / "failed.csv").open() as file:
        reasons = {row["slide_id"]: row["reason"] for row in csv.DictReader(file)}
    key = json.loads((report / "summary.json").read_text())["manifest"]["key"]
    statuses = pq.read_table(store / key, columns=["slide_id", "status"]).to_pylist()
    return reasons | {row["slide_id"]: row["status"] for row in statuses}


@pytest.fixture
def spoilt(write_slide: Callable[..., Path], tmp_path: Path) -> list[dict[str, object]]:
    """Rows of a whole slide and of many that are not: bare glass, no mpp, truncated, holed, no slide at all."""
    data = write_slide("whole.tiff").read_bytes()
    write_slide("glass.tiff", seed=1, tissue=False)
    write_slide("no_mpp.tiff", seed=2, mpp=None)
    write_slide("coarse.tiff", seed=3, mpp=2.0)
    write_slide("nonsense.tiff", seed=4, mpp=300.0)
    for percent in (0, 30, 60, 99):
        (tmp_path / f"cut{percent}.tiff").write_bytes(data[: len(data) * percent // 100])
    (tmp_path / "cut1k.tiff").write_bytes(data[:1024])
    third = len(data) // 3
    (tmp_path / "holed.tiff").write_bytes(data[:third] + bytes(third) + data[2 * third :])
    (tmp_path / "text.svs").write_text("version https://git-lfs.github.com/spec/v1\n")
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".tiff", ".svs"))
    return [{"slide_id": name, "path": name} for name in [*names, "absent.svs"]]


@pytest.mark.usefixtures("embed_here")
def test_check_ends_as_embed_would_and_gives_each_slide_the_same_verdict(
    mhim: Mhim, write_table: WriteTable, spoilt: list[dict[str, object]], tmp_path: Path
) -> None:
    table = write_table(spoilt)
    checked = mhim("check", f"cohort={table}")
    outcomes = verdicts(checked.out)
    ended = mhim("embed", f"cohort={table}", f"store={tmp_path / 'store'}", "encoder=hed-texture")
    assert checked.code == ended.code == ExitCode.TOO_MANY_FAILED
    assert outcomes == embedded(tmp_path / "store")
    assert checked.out.splitlines()[-1] in ended.out.splitlines(), "one summary"
    expected = {
        "whole": "ok",
        "glass": "empty",
        "no_mpp": "no_mpp",
        "coarse": "upsample",
        "nonsense": "implausible_mpp",
        "absent": "not_found",
        "holed": "read",
        "text": "open",
        **dict.fromkeys(("cut0", "cut30", "cut60", "cut99", "cut1k"), "open"),
    }
    assert outcomes == expected


def test_the_exit_code_follows_the_share_of_failed_slides(
    mhim: Mhim, write_table: WriteTable, write_slide: Callable[..., Path]
) -> None:
    good = [{"slide_id": f"s{i}", "path": write_slide(f"{i}.tiff", seed=i, tissue=False)} for i in range(3)]
    bad = {"slide_id": "bad", "path": "absent.svs"}
    any_empty = "max_empty_fraction=1"
    assert mhim("check", f"cohort={write_table(good)}", any_empty).code == ExitCode.OK
    assert mhim("check", f"cohort={write_table(good)}").code == ExitCode.TOO_MANY_FAILED
    table = write_table([*good, bad])
    assert mhim("check", f"cohort={table}", any_empty, "max_failed_fraction=0.25").code == ExitCode.PARTIAL
    assert mhim("check", f"cohort={table}", any_empty, "max_failed_fraction=0.24").code == ExitCode.TOO_MANY_FAILED


@pytest.mark.fault(21)
def test_a_stated_resolution_is_used_or_refused_never_guessed(
    mhim: Mhim, write_table: WriteTable, write_slide: Callable[..., Path]
) -> None:
    cells = {"silent": ["", "0", "-0.5", "nan", "0.5"], "stating": ["", "0.25", "0.01", "50", "2.0"]}
    rows = []
    for kind, cells_of_kind in cells.items():
        for mpp in cells_of_kind:
            path = write_slide(f"{len(rows)}.tiff", seed=len(rows), mpp=None if kind == "silent" else 0.5)
            rows.append({"slide_id": f"{kind}{mpp}", "path": path, "mpp": mpp})
    table = write_table([row | {"slide_id": f"s{number}"} for number, row in enumerate(rows)])

    def verdict_of(*words: str) -> dict[object, str]:
        lines = mhim("check", f"cohort={table}", *words).out.splitlines()[-11:-1]
        return {row["slide_id"]: line.split(": ", 1)[1] for row, line in zip(rows, lines, strict=True)}

    plain, default = verdict_of(), verdict_of("default_mpp=0.5", "max_upsample=4")
    for mpp in ("", "0", "-0.5", "nan"):
        assert plain[f"silent{mpp}"].startswith("no_mpp: ")
        assert "set default_mpp" in plain[f"silent{mpp}"]
        assert "at 0.5 µm/px (default)" in default[f"silent{mpp}"]
    assert "at 0.5 µm/px (override)" in plain["silent0.5"]
    assert "at 0.25 µm/px (override)" in plain["stating0.25"]
    assert plain["stating"] == default["stating"]
    assert "at 0.5 µm/px (slide)" in plain["stating"]
    for outcomes in (plain, default):
        assert outcomes["stating0.01"].startswith("implausible_mpp: the cohort table gives 0.01")
        assert outcomes["stating50"].startswith("implausible_mpp: the cohort table gives 50")
    assert plain["stating2.0"].startswith("upsample: ")
    assert "enlarged 4.00×" in default["stating2.0"]


@pytest.mark.fault(19)
def test_a_file_that_is_not_the_one_the_table_names_fails_by_its_hash(
    mhim: Mhim, write_table: WriteTable, write_slide: Callable[..., Path]
) -> None:
    paths = {name: write_slide(f"{name}.tiff", seed=seed) for seed, name in enumerate(("right", "upper", "wrong"))}
    digests = {name: file_sha256(path) for name, path in paths.items()}
    stated = {"right": digests["right"], "upper": digests["upper"].upper(), "wrong": digests["right"]}
    table = write_table([{"slide_id": name, "path": paths[name], "sha256": stated[name]} for name in paths])
    expected = {"right": "ok", "upper": "ok", "wrong": "source_hash_mismatch"}
    assert verdicts(mhim("check", f"cohort={table}").out) == expected


def test_pictures_are_written_of_what_can_be_seen_and_nothing_else_is(
    mhim: Mhim, write_table: WriteTable, write_slide: Callable[..., Path], tmp_path: Path
) -> None:
    write_slide("a.tiff")
    write_slide("glass.tiff", tissue=False)
    rows = [{"slide_id": name, "path": f"{name}.tiff"} for name in ("a", "glass", "absent")]
    table = write_table(rows)
    before = sorted(tmp_path.rglob("*"))
    output = mhim("check", f"cohort={table}").out
    assert output.count("by direct") == 2, "who decoded what could be opened"
    assert sorted(tmp_path.rglob("*")) == before
    mhim("check", f"cohort={table}", f"pictures={tmp_path / 'pictures'}")
    pictures = tmp_path / "pictures"
    assert sorted(path.name for path in pictures.iterdir()) == ["a.jpg", "glass.jpg"]
    with Image.open(pictures / "a.jpg") as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) > 20
    assert set(tmp_path.iterdir()) - {pictures} == {path for path in before if path.parent == tmp_path}


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_every_shared_slide_has_a_row_and_a_reason_of_the_list(
    mhim: Mhim, write_table: WriteTable, shared_data: Path
) -> None:
    files = sorted(path for path in (shared_data / "slides").rglob("*") if path.is_file() and path.suffix != ".csv")
    rows = [{"slide_id": f"{path.parent.name}-{path.name}", "path": path} for path in files]
    ended = mhim("check", f"cohort={write_table(rows)}", "target_mpp=4.0")  # few tiles: quick
    outcomes = verdicts(ended.out)
    assert len(outcomes) == len(files)
    assert ended.code == ExitCode.TOO_MANY_FAILED
    assert outcomes["slides-CMU-1-Small-Region"] == "ok"
    assert outcomes["slides-ndpi_test3-DAPI-2-387"] == "empty"
    assert outcomes["slides-tcga-cr-7395-01a-01-ts1"] == "no_mpp"
    assert outcomes["odd-unreadable"] == "read"
    for name in ("unopenable", "histolab_broken", "lfs_pointer_default", "gcp_lfs_or_stub", "uint16-grey"):
        assert outcomes[f"odd-{name}"] == "open"
    assert outcomes["odd-flat-rgb"] == "no_mpp"
    assert outcomes["odd-small"] == "empty"
    atlas = [outcomes[f"atlas10x-{path.stem}"] for path in files if path.parent.name == "atlas10x"]
    assert sorted(atlas) == ["no_mpp"] * 5 + ["ok"] * 16


@pytest.mark.usefixtures("embed_here")
@pytest.mark.fault(17)
def test_check_and_embed_agree_on_odd_and_truncated_real_slides(
    mhim: Mhim, write_table: WriteTable, shared_data: Path, tmp_path: Path
) -> None:
    slides = shared_data / "slides"
    whole = slides / "CMU-1-Small-Region.svs"
    data = whole.read_bytes()
    for percent in (0, 30, 60, 99):
        (tmp_path / f"cut{percent}.svs").write_bytes(data[: len(data) * percent // 100])
    for start in (2, 5):
        length = len(data) // 20
        holed = data[: start * len(data) // 10] + bytes(length) + data[start * len(data) // 10 + length :]
        (tmp_path / f"holed{start}.svs").write_bytes(holed)
    files = sorted([whole, *(slides / "odd").iterdir(), *tmp_path.glob("*.svs")])
    table = write_table([{"slide_id": path.stem, "path": path} for path in files])
    checked = mhim("check", f"cohort={table}", "target_mpp=1.0")
    ended = mhim("embed", f"cohort={table}", "target_mpp=1.0", f"store={tmp_path / 'store'}", "encoder=hed-texture")
    assert verdicts(checked.out) == embedded(tmp_path / "store")
    assert checked.code == ended.code


def test_a_slide_that_takes_longer_than_its_time_limit_fails_as_in_embedding(
    mhim: Mhim, write_table: WriteTable, write_slide: Callable[..., Path]
) -> None:
    table = write_table([{"slide_id": "a", "path": write_slide("a.tiff").name}])
    ended = mhim("check", f"cohort={table}", "decode_timeout_s=0.001")
    assert ended.code == ExitCode.TOO_MANY_FAILED
    assert "a: timeout: the decoder showed no progress for 0.001 s and was killed" in ended.out


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        ([{"label": "x"}, {"label": "y"}], "note: 'x' 1 slides of 1 patients, 'y' 1 slides of 1 patients"),
        (
            [{"OS_months": "12.5", "vital_status": "Dead"}, {"OS_months": "3", "vital_status": "Alive"}],
            "note: 2 slides of 2 patients: 1 patients with the event, 1 censored; times 3 to 12.5",
        ),
        ([{"label": "0.5"}, {"label": "7"}], "note: 2 slides of 2 patients: target 0.5 to 7, mean 3.75"),
        ([{}, {}], "note: cannot be trained on: no slide has a label, or a time and an event"),
    ],
)
def test_what_can_be_learned_from_the_table_is_said(
    mhim: Mhim, write_table: WriteTable, cells: list[dict[str, object]], note: str
) -> None:
    rows = [{"slide_id": name, "path": f"{name}.svs"} | more for name, more in zip("ab", cells, strict=True)]
    assert note in mhim("check", f"cohort={write_table(rows)}").out


@pytest.mark.usefixtures("embed_here")
def test_an_estimate_looks_at_a_sample_and_comes_close_to_what_embedding_then_makes(
    mhim: Mhim, write_table: WriteTable, write_slide: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"slide_id": f"s{index}", "path": write_slide(f"{index}.tiff", seed=index)} for index in range(12)]
    table = write_table([*rows, {"slide_id": "away", "path": "absent.svs"}])
    keys = (f"cohort={table}", "encoder=hed-texture", "target_mpp=0.5")
    ended = mhim("check", *keys, "estimate=true", "estimate_slides=4", "encoder_tiles_per_s=1", "price_gpu_hour=3600")
    assert ended.code == ExitCode.OK
    lines = dict(re.findall(r"^  (\S.*?)  +(.*)$", ended.out, re.MULTILINE))
    assert sum(outcome == "ok" for outcome in verdicts(ended.out.split("estimate for")[0]).values()) == 4
    assert "1 slides whose file is missing are left out" in ended.out
    mhim("embed", *keys, f"store={tmp_path / 'store'}")
    report = max((tmp_path / "store" / "reports").iterdir())
    num_tiles = json.loads((report / "summary.json").read_text())["num_tiles"]
    interval = [float(text.replace(",", "")) for text in re.findall(r"[\d,.]+", lines["tiles"])]
    expected, low, high = interval if len(interval) == 3 else interval * 3  # painted slides may be alike
    assert low <= expected <= high
    assert expected == pytest.approx(num_tiles, rel=0.2)
    assert float(re.split(r"[ ,]", lines["cost"])[0]) == pytest.approx(expected, abs=0.6), "a tile is a second"


def test_an_estimate_measures_the_encoder_where_its_speed_is_not_given(
    mhim: Mhim, write_table: WriteTable, write_slide: Callable[..., Path]
) -> None:
    table = write_table([{"slide_id": "s", "path": write_slide("s.tiff")}])
    ended = mhim("check", f"cohort={table}", "encoder=hed-texture", "estimate=true")
    assert ended.code == ExitCode.OK
    assert re.search(r"encoder \([1-9][\d,]* tiles/s, measured here", ended.out)
    assert mhim("check", f"cohort={table}", "estimate=true", "encoder=nonesuch").code == ExitCode.BAD_INPUT
    assert mhim("check", f"cohort={table}", "estimate=true", "encoder_tiles_per_s=0").code == ExitCode.BAD_INPUT
