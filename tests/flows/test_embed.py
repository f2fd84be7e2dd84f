"""How many actors embed, and that more of them than this machine has room for are refused before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.session import Resources
from flows.config import EmbedConfig
from flows.embed import ActorPool, actor_pool


def config(**changes: Any) -> EmbedConfig:
    return EmbedConfig(**{"cohort": "c", "store": "s", "ray_address": "head:6379"} | changes)


HERE = Resources(1, 8.0, 1.0, is_local=True)
EMPTY = Resources(1, 0.0, 0.0, is_local=False)
THREE_NODES = Resources(4, 48.0, 3.0, is_local=False)


def test_a_local_pool_has_an_actor_for_each_cpu_and_no_more_than_slides() -> None:
    assert actor_pool(config(), HERE, 1000) == ActorPool(8, 8, 8, slides_per_call=4)
    assert actor_pool(config(), HERE, 3) == ActorPool(3, 3, 3, slides_per_call=1)
    assert actor_pool(config(gpus_per_actor=0.25), HERE, 1000) == ActorPool(4, 4, 4, slides_per_call=4)
    assert actor_pool(config(gpus_per_actor=0.1), HERE, 1000).initial_size == 8  # ten shares, eight CPUs


def test_a_cluster_s_pool_begins_with_what_is_there_and_grows_with_it_to_an_actor_for_each_call() -> None:
    assert actor_pool(config(), EMPTY, 1000) == ActorPool(1, 1, 250, slides_per_call=4)
    assert actor_pool(config(), THREE_NODES, 1000) == ActorPool(1, 48, 250, slides_per_call=4)
    assert actor_pool(config(gpus_per_actor=0.5), THREE_NODES, 1000) == ActorPool(1, 6, 250, slides_per_call=4)
    assert actor_pool(config(), THREE_NODES, 48) == ActorPool(1, 48, 48, slides_per_call=1)
    assert actor_pool(config(), EMPTY, 1) == ActorPool(1, 1, 1, slides_per_call=1)


@pytest.mark.parametrize("cluster", [HERE, EMPTY, THREE_NODES])
def test_as_many_actors_as_were_asked_for(cluster: Resources) -> None:
    assert actor_pool(config(embed_actors=5), cluster, 1000) == ActorPool(5, 5, 5, slides_per_call=4)


@pytest.mark.parametrize(
    ("words", "told"),
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
    told: str,
) -> None:
    monkeypatch.setattr("cluster.session._usable_gpus", lambda: 0)
    monkeypatch.chdir(tmp_path)
    table = write_table([{"slide_id": "a", "path": write_slide("a.tiff").name, "label": "x"}])
    before = set(tmp_path.iterdir())
    message = refused(*words, f"cohort={table}", "store=store", "local_cpus=2")
    assert told in message
    assert "\n" not in message
    assert set(tmp_path.iterdir()) == before
