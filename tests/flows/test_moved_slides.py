"""A slide that was moved, touched or given a sha256 is known by its bytes: nothing is embedded twice, or unchecked."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import open_storage, shared_client
from flows.runs.cohort import slide_identity
from mhim_core.slides.source_identity import file_sha256, source_identity
from mhim_core.types import ExitCode, SlideId, SlideTask

Mhim = Callable[..., Any]
WriteTable = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("embed_here")


@pytest.fixture
def slides(write_slide: Callable[..., Path]) -> list[Path]:
    return [write_slide("a.tiff", seed=1), write_slide("b.tiff", seed=2), write_slide("glass.tiff", tissue=False)]


@pytest.fixture
def embed(mhim: Mhim, write_table: WriteTable, tmp_path: Path) -> Callable[..., dict[str, int]]:
    """embed(paths, [sha256, …], code=0) → the run's counts by status."""

    def run(paths: list[Path] | list[str], sha256s: list[str] | None = None, code: int = ExitCode.OK) -> dict[str, int]:
        places = zip(paths, sha256s or [""] * len(paths), strict=True)
        rows = [{"slide_id": Path(path).stem, "path": path, "sha256": digest} for path, digest in places]
        store = tmp_path / "store"
        ended = mhim("embed", f"cohort={write_table(rows)}", f"store={store}", "encoder=hed-texture")
        assert ended.code == code, ended
        newest = max((store / "reports").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        summary = json.loads((newest / "summary.json").read_text())
        if code:
            with (newest / "failed.csv").open(newline="") as file:
                assert [row["reason"] for row in csv.DictReader(file)] == ["source_hash_mismatch"]
        return {name: number for name, number in summary["counts"].items() if number}

    return run


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on, embedding anything fails the test."""

    def embed_pending(*_: object) -> None:
        raise AssertionError("a slide was to be embedded")

    return lambda: monkeypatch.setattr("flows.embed.embed_pending", embed_pending)


def moved(paths: list[Path], folder: Path) -> list[Path]:
    folder.mkdir()
    places = [path.rename(folder / path.name) for path in paths]
    for place in places:
        os.utime(place, (1, 1))
    return places


def test_a_cohort_that_was_moved_and_touched_is_skipped_without_starting_ray(
    embed: Callable[..., dict[str, int]], no_work: Callable[[], None], slides: list[Path], tmp_path: Path
) -> None:
    assert embed(slides) == {"ok": 2, "empty": 1}
    elsewhere = moved(slides, tmp_path / "archive")
    no_work()
    assert embed(elsewhere) == {"skipped": 3}
    with pytest.MonkeyPatch.context() as patch:  # and then the new place is remembered
        patch.setattr("flows.runs.open_sets.slide_identity", lambda _: None)
        assert embed(elsewhere) == {"skipped": 3}


def test_a_moved_cohort_of_named_sha256s_is_skipped_as_well(
    embed: Callable[..., dict[str, int]], no_work: Callable[[], None], slides: list[Path], tmp_path: Path
) -> None:
    digests = [file_sha256(path) for path in slides]
    embed(slides, digests)
    elsewhere = moved(slides, tmp_path / "archive")
    no_work()
    assert embed(elsewhere, digests) == {"skipped": 3}


def test_a_slide_replaced_in_its_place_is_embedded_anew(
    embed: Callable[..., dict[str, int]], slides: list[Path]
) -> None:
    embed(slides)
    slides[1].replace(slides[0])
    assert embed(slides[:1]) == {"ok": 1}


def test_sha256s_named_after_embedding_are_checked_once(
    embed: Callable[..., dict[str, int]], no_work: Callable[[], None], slides: list[Path], tmp_path: Path
) -> None:
    embed(slides)
    commits = sorted((tmp_path / "store/commits").rglob("*.json"))
    digests = [file_sha256(path) for path in slides]
    assert embed(slides, digests) == {"skipped": 3}
    assert sorted((tmp_path / "store/commits").rglob("*.json")) == commits
    no_work()
    assert embed(slides, digests) == {"skipped": 3}


def test_a_committed_slide_is_refused_once_the_table_names_another_sha256(
    embed: Callable[..., dict[str, int]], slides: list[Path]
) -> None:
    digests = [file_sha256(path) for path in slides]
    for sha256s in (None, digests):
        embed(slides, sha256s)
        wrong = [digests[0], "0" * 64, digests[2]]
        assert embed(slides, wrong, code=ExitCode.TOO_MANY_FAILED) == {"skipped": 2, "failed": 1}


@pytest.mark.s3
def test_a_slide_has_one_identity_in_a_folder_and_in_a_bucket_and_none_where_it_is_not(
    slides: list[Path], bucket: str
) -> None:
    shared_client.cache_clear()
    open_storage(f"s3://{bucket}").put("a.tiff", slides[0].read_bytes())
    places = [
        f"s3://{bucket}/a.tiff", f"s3://{bucket}/b.tiff", str(slides[0]), str(slides[0].parent / "none.tiff"),
    ]  # fmt: skip
    identities = [slide_identity(SlideTask(SlideId("a"), place)) for place in places]
    assert identities == [source_identity(slides[0]), None, source_identity(slides[0]), None]
    shared_client.cache_clear()
