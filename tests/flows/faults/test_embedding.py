"""An embedding whose processes end by a signal, or whose store takes no features: the next run goes on from it."""

import dataclasses
import signal
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mhim_core.embed.efficientnet_lite0 import PACKAGE
from mhim_core.embed.registry import encoder_card

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.usefixtures("one_ray")]

HOW = [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)]
"""How a driver is ended."""


def commits(store: Path) -> list[Path]:
    return list(store.glob("commits/*/*/*.json"))


@pytest.mark.fault(5, 50)
@pytest.mark.parametrize("kind", HOW, ids=str)
def test_an_embedding_killed_half_way_goes_on_with_what_was_not_committed(
    embedding: tuple[str, ...],
    tmp_path: Path,
    killed_when: Callable[..., None],
    run_here: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
    kind: signal.Signals,
) -> None:
    store = tmp_path / "store"
    killed_when(lambda: len(commits(store)) >= 2, *embedding, kind=kind)
    before = {path: path.stat().st_mtime_ns for path in commits(store)}
    assert 2 <= len(before) < 12
    ended = run_here(*embedding)
    assert ended.code == 0, ended
    assert f"12 slides: {12 - len(before)} ok, 0 empty, 0 failed, {len(before)} skipped" in ended.out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert features_of(store) == clean_features
    assert len(commits(store)) == 12


@pytest.mark.fault(1, 2)
def test_a_decoder_and_then_an_actor_killed_amid_a_slide_change_nothing(
    embedding: tuple[str, ...],
    tmp_path: Path,
    killing: Callable[..., Any],
    run_mhim: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
) -> None:
    store = tmp_path / "store"
    with (
        killing("multiprocessing.spawn", lambda: commits(store)) as decoders,
        killing("SlideActor", lambda: decoders and len(commits(store)) >= 3) as actors,
    ):
        ended = run_mhim(*embedding)
    assert decoders
    assert actors
    assert ended.code == 0, ended
    assert features_of(store) == clean_features
    assert len(commits(store)) == 12


@pytest.mark.thorough
@pytest.mark.fault(1)
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra `encoders` is not installed")
def test_an_actor_of_two_encoders_killed_amid_a_slide_leaves_one_commit_of_each(
    embedding: tuple[str, ...],
    tmp_path: Path,
    killing: Callable[..., Any],
    run_mhim: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
) -> None:
    store = tmp_path / "store"
    words = (*embedding, "encoder=hed-texture,efficientnet-lite0", "encoder_runtime=torch")
    with killing("SlideActor", lambda: len(commits(store)) >= 3) as actors:
        ended = run_mhim(*(word for word in words if word != "encoder=hed-texture"))
    assert actors
    assert ended.code == 0, ended
    slides = Counter((path.parts[-3], path.parts[-2]) for path in commits(store))
    assert set(slides.values()) == {1}
    assert len(slides) == 24
    features = features_of(store)
    assert clean_features.items() <= features.items()
    assert len(features) == 24


def test_an_encoder_that_an_actor_cannot_load_ends_the_run_with_a_sentence(
    embedding: tuple[str, ...], run_mhim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flows.runs.tiling.encoder_card",
        lambda *words, **more: dataclasses.replace(encoder_card(*words, **more), network={"algorithm": "other"}),
    )
    ended = run_mhim(*embedding)
    assert ended.code == 2, ended
    assert "mhim: encoder hed-texture: the card says {'algorithm': 'other'}" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(("taken", "code"), [(("features",), 4), (("features", "probe"), 6)])
def test_a_store_that_stopped_taking_features_ends_the_run_and_one_that_refuses_a_slide_does_not(
    embedding: tuple[str, ...], tmp_path: Path, run_here: Callable[..., Any], taken: tuple[str, ...], code: int
) -> None:
    (tmp_path / "store").mkdir()
    for name in taken:
        (tmp_path / "store" / name).write_text("a file where a folder belongs")
    ended = run_here(*embedding)
    assert ended.code == code, ended
    assert ("12 failed (storage 12)" in ended.out) == (code == 4)
    assert ("the store stopped taking writes" in ended.err) == (code == 6)
