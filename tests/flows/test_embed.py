"""How many actors embed, and that more of them than this machine has room for are refused before any work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.session import Resources
from flows.commands import read_words
from flows.config.commands import EmbedConfig, PredictConfig
from flows.config.flat import from_keys, with_keys
from flows.config.keys import EmbedExecution
from flows.embed import ActorPool, actor_pool, embed_cohort
from flows.runs.cohort import load_cohort
from mhim_core.embed.embedder import embed_slide
from mhim_core.embed.registry import encoder_card, load_encoder
from mhim_core.errors import ConfigError
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.storage import LocalStorage
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.types import FailureReason, Status, StatusRow

HERE = Resources(1, 8.0, 1.0, is_local=True)
EMPTY = Resources(1, 0.0, 0.0, is_local=False)
THREE_NODES = Resources(4, 48.0, 3.0, is_local=False)


def test_a_local_pool_has_an_actor_for_each_cpu_and_no_more_than_slides() -> None:
    assert actor_pool(EmbedExecution(), HERE, 1000) == ActorPool(8, 8, 8, slides_per_call=4)
    assert actor_pool(EmbedExecution(), HERE, 3) == ActorPool(3, 3, 3, slides_per_call=1)
    assert actor_pool(EmbedExecution(gpus_per_actor=0.25), HERE, 1000) == ActorPool(4, 4, 4, slides_per_call=4)
    assert actor_pool(EmbedExecution(gpus_per_actor=0.1), HERE, 1000).initial_size == 8  # ten shares, eight CPUs


def test_a_cluster_s_pool_begins_with_what_is_there_and_grows_with_it_to_an_actor_for_each_call() -> None:
    assert actor_pool(EmbedExecution(), EMPTY, 1000) == ActorPool(1, 1, 250, slides_per_call=4)
    assert actor_pool(EmbedExecution(), THREE_NODES, 1000) == ActorPool(1, 48, 250, slides_per_call=4)
    assert actor_pool(EmbedExecution(gpus_per_actor=0.5), THREE_NODES, 1000) == ActorPool(1, 6, 143, 7, num_decoders=7)
    assert actor_pool(EmbedExecution(), THREE_NODES, 48) == ActorPool(1, 48, 48, slides_per_call=1)
    assert actor_pool(EmbedExecution(), EMPTY, 1) == ActorPool(1, 1, 1, slides_per_call=1)


def test_an_encoder_on_a_gpu_has_the_cpus_that_there_are_for_it_as_decoders_and_slides_for_all_of_them() -> None:
    on_gpu = EmbedExecution(gpus_per_actor=1)
    assert actor_pool(on_gpu, HERE, 1000) == ActorPool(1, 1, 1, slides_per_call=7, num_decoders=7)
    assert actor_pool(on_gpu, HERE, 6) == ActorPool(1, 1, 1, slides_per_call=3, num_decoders=3)
    assert actor_pool(on_gpu, THREE_NODES, 1000).num_decoders == 8
    assert actor_pool(EmbedExecution(gpus_per_actor=1, decoders_per_actor=12), THREE_NODES, 1000).num_decoders == 12
    assert actor_pool(EmbedExecution(decoders_per_actor=2), HERE, 1000).num_decoders == 2


@pytest.mark.parametrize("cluster", [HERE, EMPTY, THREE_NODES])
def test_as_many_actors_as_were_asked_for(cluster: Resources) -> None:
    assert actor_pool(EmbedExecution(embed_actors=5), cluster, 1000) == ActorPool(5, 5, 5, slides_per_call=4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["embed", "embed_actors=3"], "embed_actors=3 asks for 3 CPUs and ray_address=local has 2"),
        (["embed", "gpus_per_actor=1"], "PyTorch finds 0 on this machine"),
        (["train", "out=o", "workers=3", "global_batch=3"], "workers=3 asks for 3 CPUs and ray_address=local has 2"),
        (["train", "out=o", "gpus_per_worker=0.5"], "workers=1 with gpus_per_worker=0.5 asks for 0.5 GPUs"),
    ],
)
def test_more_than_this_machine_has_room_for_is_refused_before_any_work(
    refused: Callable[..., str],
    write_table: Callable[..., Path],
    write_slide: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    reason: str,
) -> None:
    monkeypatch.setattr("cluster.session._usable_gpus", lambda: 0)
    monkeypatch.chdir(tmp_path)
    table = write_table([{"slide_id": "a", "path": write_slide("a.tiff").name, "label": "x"}])
    before = set(tmp_path.iterdir())
    message = refused(*words, f"cohort={table}", "store=store", "local_cpus=2")
    assert reason in message
    assert "\n" not in message
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("flow", ["embed", "predict"])
def test_an_encoder_of_a_gpu_is_refused_before_any_work_where_actors_have_none(
    write_table: Callable[..., Path],
    write_slide: Callable[..., Path],
    tmp_path: Path,
    embed_here: None,
    monkeypatch: pytest.MonkeyPatch,
    flow: str,
) -> None:
    cohort_input = load_cohort(str(write_table([{"slide_id": "a", "path": write_slide("a.tiff").name, "label": "x"}])))
    card = encoder_card("hed-texture", device="cuda")
    keys = {"cohort": "c", "store": "s"} | ({"out": "o", "run": "r"} if flow == "predict" else {})
    config: Any = from_keys(PredictConfig if flow == "predict" else EmbedConfig, **keys)
    monkeypatch.setattr("cluster.session._usable_gpus", lambda: 0)
    reasons = {0.0: "hed-texture are made on a GPU .* set gpus_per_actor=1", None: "PyTorch finds 0 on this machine"}
    for gpus_per_actor, reason in reasons.items():
        chosen = with_keys(config, gpus_per_actor=gpus_per_actor)
        with pytest.raises(ConfigError, match=reason) as caught:
            embed_cohort(cohort_input, card, TileSpec(), chosen, LocalStorage(tmp_path / "store"))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "store").exists()


def test_features_of_a_gpu_that_are_all_there_need_none(
    write_table: Callable[..., Path], write_slide: Callable[..., Path], tmp_path: Path
) -> None:
    cohort_input = load_cohort(str(write_table([{"slide_id": "a", "path": write_slide("a.tiff").name, "label": "x"}])))
    card, spec, store = encoder_card("hed-texture", device="cuda"), TileSpec(), LocalStorage(tmp_path / "store")
    feature_set = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
    (task,) = cohort_input.tasks()
    (features,) = embed_slide(task, [load_encoder("hed-texture")], spec=spec, policy=SlidePolicy())
    commit(store, feature_set, replace(features, encoder=card.to_dict()))
    config = from_keys(EmbedConfig, cohort="c", store="s")
    embedded = embed_cohort(cohort_input, card, spec, config, store)
    assert embedded.outcome.count(Status.SKIPPED) == 1
    assert read_words("embed", [f"config={embedded.result.outputs['report']}/resolved.yaml"]) == config


@pytest.mark.parametrize(
    ("reason", "more", "refusal"),
    [
        (FailureReason.NO_SPACE, (), None),
        (FailureReason.STORAGE, (), None),
        (FailureReason.TIMEOUT, ("decode_timeout_s=301",), None),
        (FailureReason.TIMEOUT, (), "retry_failed=true tries all of them (a higher decode_timeout_s="),
        (FailureReason.READ, (), "1 of the failed were not tried again, since the same file failed before"),
        (FailureReason.TOO_LARGE, (), ""),
    ],
)
def test_after_the_cause_is_mended_the_same_command_embeds_or_says_which_key_does(
    mhim: Callable[..., Any],
    embed_here: None,
    write_table: Callable[..., Path],
    write_slide: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: FailureReason,
    more: tuple[str, ...],
    refusal: str | None,
) -> None:
    """`told`: None: it is tried again; empty: nothing is said, for no key helps."""
    table = write_table([{"slide_id": "a", "path": write_slide("a.tiff").name, "label": "x"}])
    words = ("embed", f"cohort={table}", f"store={tmp_path / 'store'}", "encoder=hed-texture", "retry_failed=false")

    def fail(tasks: Any, *_: Any) -> Any:
        yield StatusRow(tasks[0].slide_id, Status.FAILED, reason, "tiles", "SlideError", "why")

    with monkeypatch.context() as failing:
        failing.setattr("flows.embed.status_rows", fail)
        first = mhim(*words)
    assert first.code == 4
    assert "retry_failed" not in first.out, "they were tried just now"
    again = mhim(*words, *more)
    if refusal is None:
        assert again.code == 0, again
    else:
        assert again.code == 4
        assert refusal in again.out
        assert ("retry_failed=true" in again.out) == bool(refusal)
        assert mhim(*words[:-1]).code == 0, "retry_failed=true"


def test_tiles_that_cannot_fit_into_memory_are_refused_before_any_work(
    painted: Any, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"cohort={painted.cohort}", f"store={tmp_path / 'store'}", "encoder=hed-texture", "tile_px=4096")
    monkeypatch.setattr("flows.embed.memory_bytes", lambda: 10**9)
    assert "2.0 GB" in refused("embed", *words)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", ["embed", "pipeline"])
def test_an_encoder_s_scale_is_warned_of_before_its_weights_are_looked_for(
    command: str, mhim: Callable[..., Any], write_table: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"slide_id": "a", "path": "a.svs", "patient_id": "a", "label": "x"}]
    rows += [{"slide_id": "b", "path": "b.svs", "patient_id": "b", "label": "y"}]
    words = [f"cohort={write_table(rows)}", f"store={tmp_path / 'store'}", "encoder=uni2-h", "target_mpp=1.0"]
    words += [f"out={tmp_path / 'out'}"] if command == "pipeline" else []
    ended = mhim(command, *words, f"encoder_weights={tmp_path / 'nowhere'}")
    assert ended.code == 2, ended
    assert "nowhere" in ended.err
    assert "target_mpp=0.5" in ended.out
