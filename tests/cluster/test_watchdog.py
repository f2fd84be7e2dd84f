"""The watch over encoder actors, without Ray and with a clock of the test's own."""

import os
import signal
import subprocess
import sys

import pytest

from cluster.watchdog import MAX_DEATHS, Verdict, Watch, Worker, _start_of, kill_here
from mhim_core.types import SlideId, Status, StatusRow

A, B, C = (SlideId(name) for name in "abc")


class Scene:
    """A watch, its clock, whom it killed and which nodes are gone."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.killed: list[Worker] = []
        self.lost_nodes: set[str] = set()
        self.ended: set[Worker] = set()
        self.watch = Watch(self.kill, self.lost_nodes.__contains__, lambda: self.now_s)

    def kill(self, worker: Worker) -> bool:
        self.killed.append(worker)
        return worker not in self.ended


@pytest.fixture
def scene() -> Scene:
    return Scene()


def worker(pid: int, node: str = "node") -> Worker:
    return Worker(node, pid, f"start {pid}")


def ok(slide_id: SlideId) -> StatusRow:
    return StatusRow(slide_id, Status.OK)


def test_a_slide_at_which_two_workers_died_is_not_begun_again_and_its_neighbours_are(scene: Scene) -> None:
    for pid in range(MAX_DEATHS):
        assert scene.watch.take(worker(pid), [A, B, C]) == ({} if pid == 0 else {A: ok(A)})
        if pid == 0:
            scene.watch.begin(worker(pid), A)
            scene.watch.end(worker(pid), ok(A))
        scene.watch.begin(worker(pid), B)
    assert scene.watch.take(worker(9), [A, B, C]) == {A: ok(A), B: Verdict(2, was_still=False)}
    assert scene.killed == []


def test_a_silent_worker_is_killed_and_the_slide_that_it_had_is_named(scene: Scene) -> None:
    for pid in (1, 2):
        scene.watch.take(worker(pid), [A])
        scene.watch.begin(worker(pid), A)
        scene.watch.hear(worker(pid), 10.0)
        scene.now_s += 9.0
        assert scene.watch.sweep() == []
        scene.now_s += 2.0
        (replaced,) = scene.watch.sweep()
        assert replaced == (worker(pid), A, 11.0, 0.0)
        assert scene.watch.sweep() == []
    assert scene.killed == [worker(1), worker(2)]
    assert scene.watch.take(worker(3), [A]) == {A: Verdict(2, was_still=True)}


def test_who_is_killed_while_loading_or_at_a_slide_is_told_with_what_was_measured(scene: Scene) -> None:
    scene.watch.take(worker(1), [A])
    scene.watch.begin(worker(1), A)
    scene.watch.hear(worker(1), 10.0, longest_s=7.5)
    scene.watch.hear(worker(1), 10.0)
    scene.watch.hear(worker(2), 10.0)
    scene.now_s += 5.0
    scene.watch.hear(worker(2), 5.0)
    scene.now_s += 6.0
    assert scene.watch.sweep() == [(worker(1), A, 11.0, 7.5), (worker(2), None, 11.0, 7.5)]
    for pid in (3, 4):
        verdicts = scene.watch.take(worker(pid), [A])
        scene.watch.begin(worker(pid), A)
    assert verdicts == {A: Verdict(2, was_still=False, longest_s=7.5)}


def test_a_worker_that_had_ended_by_itself_did_not_stand_still(scene: Scene) -> None:
    for pid in (1, 2):
        scene.watch.take(worker(pid), [A])
        scene.watch.begin(worker(pid), A)
        scene.watch.hear(worker(pid), 10.0)
        scene.ended.add(worker(pid))
        scene.now_s += 11.0
        assert scene.watch.sweep() == []
    assert scene.watch.take(worker(3), [A]) == {A: Verdict(2, was_still=False)}


def test_a_worker_that_goes_on_telling_of_itself_is_left_alone(scene: Scene) -> None:
    scene.watch.begin(worker(1), A)
    for _ in range(50):
        scene.watch.hear(worker(1), 10.0)
        scene.now_s += 9.0
        assert scene.watch.sweep() == []
    assert scene.killed == []


def test_workers_that_went_down_with_their_nodes_do_not_count_against_the_slide(scene: Scene) -> None:
    for pid in range(5):
        assert scene.watch.take(worker(pid, f"node {pid}"), [A]) == {}
        scene.watch.begin(worker(pid, f"node {pid}"), A)
        scene.lost_nodes.add(f"node {pid}")
    assert scene.watch.take(worker(5), [A]) == {}


def test_a_process_of_the_same_id_that_started_at_another_time_is_not_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not kill_here(Worker("node", child.pid, "0"))
        assert child.poll() is None
        os.kill(child.pid, signal.SIGSTOP)
        assert kill_here(Worker("node", child.pid, _start_of(child.pid)))
        assert child.wait(timeout=20) == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()
    assert not kill_here(Worker("node", child.pid, "0")), "nobody is there"
