"""A check that runs on every node of a cluster before anything else does."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from cluster.session import gist
from mhim_core.errors import ConfigError

ANSWER_TIMEOUT_S = 180.0
"""How long a node may take, a new worker process and a store that is slow to answer included."""

Answer = TypeVar("Answer")


class NodeId(NamedTuple):
    """A node, by what identifies it to people."""

    address: str
    short_id: str
    """The first digits of Ray's id: several nodes may share an address."""

    def __str__(self) -> str:
        return f"{self.address} ({self.short_id})"


def ask_every_node(question: Callable[[], Answer]) -> dict[NodeId, Answer]:
    """The answer of each live node of the connected cluster; nodes that are lost meanwhile are left out.

    `question` must be picklable by reference to its module, which every node imports. It needs no free CPU.
    Raises ConfigError naming the node that could not answer.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    remote: Any = ray.remote(num_cpus=0, max_retries=1)(_answer)
    for node in ray.nodes():
        if node["Alive"]:
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = NodeId(node["NodeManagerAddress"], node["NodeID"][:6])
            asked[node["NodeID"]] = name, remote.options(scheduling_strategy=on_node).remote(question)
    answers = {}
    for node_id, (name, reference) in asked.items():
        try:
            answers[name] = ray.get(reference, timeout=ANSWER_TIMEOUT_S)
        except GetTimeoutError:
            raise ConfigError(f"node {name} did not answer for {ANSWER_TIMEOUT_S:.0f} s") from None
        except RayError as error:
            if any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id):
                raise ConfigError(f"node {name} cannot run this job: {gist(error)}") from error
    return answers


def _answer(question: Callable[[], Answer]) -> Answer:
    return question()
