"""A fit that is stopped at any step goes on from there, to the same bytes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch

from mhim_core.errors import MhimError, StoppedError
from mhim_core.storage import LocalStorage
from mhim_core.train import within_epoch
from mhim_core.train.context import Notice, SingleProcess
from mhim_core.train.events import FitEvent, FitEventKind
from mhim_core.train.loop import run_fits
from mhim_core.train.plan import TrainPlan

PlanOf = Callable[..., TrainPlan]
PLAIN, MHIM = "seed-2021/fold-0/plain", "seed-2021/fold-0/mhim"
STEPS = 6
"""Of an epoch: 16 bags, three to a step."""


class KilledError(Exception):
    pass


def run(plan: TrainPlan, bags: Any, root: Path, notice: Callable[[], Notice] | None = None) -> list[FitEvent]:
    events: list[FitEvent] = []
    context = SingleProcess() if notice is None else SingleProcess(notice=notice)
    run_fits(plan, bags, LocalStorage(root), context, events.append)
    return events


def after(num_steps: int, then: Notice | Exception) -> Callable[[], Notice]:
    """Nothing for that many steps of the command; then a notice, or the end, as a kill would make it."""
    steps: Iterator[int] = iter(range(1, 10_000))

    def notice() -> Notice:
        if next(steps) < num_steps:
            return Notice.none
        if isinstance(then, Exception):
            raise then
        return then

    return notice


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def checkpoints(root: Path) -> list[str]:
    return sorted(path.stem for path in root.rglob("attempts/*/*.safetensors"))


def resumed(events: list[FitEvent]) -> list[str]:
    return [event.message for event in events if event.kind is FitEventKind.resumed]


@pytest.fixture(scope="module")
def plan(plan_of: PlanOf) -> TrainPlan:
    return plan_of(epochs=2, global_batch=3, checkpoint_every=0)


@pytest.fixture(scope="module")
def whole(plan: TrainPlan, bags_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("whole")
    run(plan, bags_of(24), root)
    return contents(root)


@pytest.mark.fault(31)
def test_a_fit_told_to_stop_at_any_step_goes_on_to_the_same_bytes(  # type: ignore[no-untyped-def]
    plan: TrainPlan, whole: dict[str, bytes], bags, tmp_path: Path
) -> None:
    root = tmp_path / "cut"
    num_steps = 2 * 2 * STEPS
    for number in range(num_steps):
        with pytest.raises(StoppedError, match=f"stopped after step {number % (num_steps // 2) + 1}"):
            run(plan, bags, root, after(1, Notice.stop))
    run(plan, bags, root)
    assert contents(root) == whole


@pytest.mark.fault(31)
@pytest.mark.parametrize("num_steps", [2, 5, 6, 7, 19])
def test_a_fit_that_is_killed_goes_on_from_its_last_checkpoint_to_the_same_bytes(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, whole: dict[str, bytes], bags, tmp_path: Path, num_steps: int
) -> None:
    plan = plan_of(epochs=2, global_batch=3, checkpoint_every=2, checkpoint_every_steps=4)
    root = tmp_path / "cut"
    with pytest.raises(KilledError):
        run(plan, bags, root, after(num_steps, KilledError()))
    assert resumed(run(plan, bags, root)) == (["after epoch 0 and 4 of 6 steps"] if num_steps > 4 else [])
    assert contents(root) == whole


def test_checkpoints_are_ordered_by_epoch_and_step_and_the_last_two_stay(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of(epochs=2, global_batch=3, checkpoint_every=1, checkpoint_every_steps=4)
    with pytest.raises(KilledError):
        run(plan, bags, tmp_path, after(8, KilledError()))
    assert checkpoints(tmp_path) == ["epoch-0000-step-0000004", "epoch-0001"]
    with pytest.raises(KilledError):
        run(plan, bags, tmp_path, after(3, KilledError()))
    (newest,) = tmp_path.rglob("epoch-0001-step-0000008.json")
    assert json.loads(newest.read_text())["step"] == 8
    assert resumed(run(plan, bags, tmp_path))[0] == "after epoch 1 and 2 of 6 steps"


@pytest.mark.fault(33)
@pytest.mark.parametrize("kind", ["flipped", "no record", "renamed"])
def test_a_damaged_checkpoint_within_an_epoch_is_passed_over_with_a_warning(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, whole: dict[str, bytes], bags, tmp_path: Path, kind: str
) -> None:
    plan = plan_of(epochs=2, global_batch=3, checkpoint_every=0, checkpoint_every_steps=2)
    root = tmp_path / "cut"
    with pytest.raises(KilledError):
        run(plan, bags, root, after(9, KilledError()))
    (newest,) = root.rglob("epoch-0001-step-0000008.safetensors")
    data = newest.read_bytes()
    if kind == "flipped":
        newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif kind == "no record":
        newest.with_suffix(".json").unlink()
    else:
        newest.rename(newest.with_name("not-ours.safetensors"))
    events = run(plan, bags, root)
    kinds = [event.kind for event in events if event.fit == PLAIN]
    assert kinds[0] is (FitEventKind.resumed if kind == "renamed" else FitEventKind.warning)
    assert resumed(events) == ["after epoch 0 and 6 of 6 steps"]
    assert contents(root) == whole


def test_a_state_between_epochs_is_written_as_ever_and_one_within_differs(
    plan_of: PlanOf, bags, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of(epochs=2, global_batch=3, checkpoint_every=1)
    with pytest.raises(StoppedError):
        run(plan, bags, tmp_path, after(8, Notice.stop))
    schemas, keys = {}, {}
    for path in tmp_path.rglob("*.safetensors"):
        with safetensors.safe_open(path, "pt") as file:
            schemas[path.stem] = json.loads(file.metadata()["state"])["schema"]
            keys[path.stem] = set(file.keys())
            if "step" in path.stem:
                losses_2T = file.get_tensor("epoch/losses")
    assert schemas == {"epoch-0001": 1, "epoch-0001-step-0000008": 2}
    assert keys["epoch-0001-step-0000008"] - keys["epoch-0001"] == {"epoch/losses"}
    assert losses_2T.dtype is torch.float64
    assert (losses_2T[0] > 0).tolist() == [True] * 6 + [False] * 10


def test_the_minutes_between_checkpoints_count_from_the_last_one(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(epochs=3, global_batch=3, checkpoint_every=0, checkpoint_every_min=2.0)
    now_s = [0.0]
    monkeypatch.setattr(within_epoch, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    steps = iter(range(1, 100))

    def notice() -> Notice:
        now_s[0] += 30
        if next(steps) == 14:
            raise KilledError
        return Notice.none

    with pytest.raises(KilledError):
        run(plan, bags, tmp_path, notice)
    assert checkpoints(tmp_path) == ["epoch-0001-step-0000008", "epoch-0001-step-0000012"]


def test_while_a_machine_may_be_taken_away_a_checkpoint_is_written_now_and_then(  # type: ignore[no-untyped-def]
    plan: TrainPlan, whole: dict[str, bytes], bags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(within_epoch, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    steps = iter(range(1, 100))

    def notice() -> Notice:
        now_s[0] += 5
        return Notice.save if 3 <= next(steps) <= 10 else Notice.none

    events = run(plan, bags, tmp_path / "noticed", notice)
    saved = [event.message for event in events if event.kind is FitEventKind.saved]
    assert saved == ["step 3 of 6 in epoch 1", "step 6 of 6 in epoch 1", "step 3 of 6 in epoch 2"]
    assert contents(tmp_path / "noticed") == whole


def test_losses_that_are_no_numbers_are_never_saved(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bags.bags["bag-05"][:] = 3e38  # finite, but the embedding overflows
    plan = plan_of(global_batch=16, checkpoint_every_steps=1)
    with pytest.raises(MhimError, match=r"fold-0/plain: the loss became NaN .* in epoch 1, first in bag bag-05"):
        run(plan, bags, tmp_path)
    assert not contents(tmp_path)
