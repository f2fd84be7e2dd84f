"""Fits from start to finish: results, resuming, adopting, refusing."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mhim_core.errors import ConfigError, ConflictError, InputError, IntegrityError, MhimError
from mhim_core.mil.model_options import MhimOptions
from mhim_core.storage import LocalStorage
from mhim_core.train.context import SingleProcess
from mhim_core.train.events import FitEvent, FitEventKind
from mhim_core.train.fit_options import Selection
from mhim_core.train.loop import run_fit, run_fits
from mhim_core.train.model_file import load_model, predict_bag
from mhim_core.train.plan import Stage, TrainPlan
from mhim_core.train.preparation import make_setup, start_state
from mhim_core.train.results import FitResult, card_key, initial_key, read_model, read_result

PlanOf = Callable[..., TrainPlan]


class StoppedError(Exception):
    pass


PLAIN, MHIM = "seed-2021/fold-0/plain", "seed-2021/fold-0/mhim"


class Watcher:
    """Keeps the events; stops the run after an epoch of a fit, as a kill would."""

    def __init__(self, stop_fit: str = "", stop_epoch: int = 0) -> None:
        self.events: list[FitEvent] = []
        self.stop = (stop_fit, stop_epoch)

    def __call__(self, event: FitEvent) -> None:
        self.events.append(event)
        if (
            event.record is not None
            and event.kind is FitEventKind.epoch
            and (event.fit, event.record.epoch) == self.stop
        ):
            raise StoppedError

    def kinds(self, fit: str) -> list[str]:
        return [event.kind.value for event in self.events if event.fit == fit]


def run(plan: TrainPlan, bags, root: Path, watcher: Watcher | None = None) -> list[FitResult]:  # type: ignore[no-untyped-def]
    return run_fits(plan, bags, LocalStorage(root), SingleProcess(), watcher or Watcher())


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_two_runs_leave_the_same_bytes(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run(plan_of(), bags, tmp_path / "a")
    run(plan_of(), bags, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_finished_run_leaves_results_and_models_and_no_checkpoints(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    results = run(plan_of(), bags, tmp_path)
    names = [PLAIN, MHIM]
    assert [result.name for result in results] == names
    expected = {f"fits/{name}/result.json" for name in names} | {result.model_key for result in results}
    expected |= {card_key(result.name, result.model_sha256) for result in results}
    assert set(contents(tmp_path)) == expected
    for result in results:
        assert read_result(LocalStorage(tmp_path), result.name) == result
        loaded = load_model(read_model(LocalStorage(tmp_path), result))
        assert (loaded.teacher is not None) is (result.stage is Stage.mhim)
        assert [record.epoch for record in result.history] == [1, 2, 3, 4]


@pytest.mark.parametrize(("fit", "epoch"), [(PLAIN, 1), (PLAIN, 4), (MHIM, 3)])
@pytest.mark.parametrize("checkpoint_every", [0, pytest.param(1, marks=pytest.mark.thorough), 2])
def test_an_interrupted_run_ends_like_an_uninterrupted_one_bit_for_bit(  # type: ignore[no-untyped-def]
    plan_of: PlanOf, bags, tmp_path: Path, fit: str, epoch: int, checkpoint_every: int
) -> None:
    plan = plan_of(checkpoint_every=checkpoint_every)
    run(plan, bags, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(plan, bags, tmp_path / "cut", Watcher(fit, epoch))
    watcher = Watcher()
    run(plan, bags, tmp_path / "cut", watcher)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    resumed = 0 < checkpoint_every <= epoch
    assert watcher.kinds(fit)[0] == ("resumed" if resumed else "started")


def damage(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
    elif kind == "record missing":
        path.with_suffix(".json").unlink()
    elif kind == "record damaged":
        path.with_suffix(".json").write_text("{")
    else:
        data = bytearray(path.read_bytes())
        if kind == "flipped":
            data[-1] ^= 1
        path.write_bytes(data[: len(data) // 2] if kind == "truncated" else data)


@pytest.mark.parametrize(
    "kind",
    [
        "flipped",
        "record missing",
        *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("truncated", "record damaged")),
    ],
)
@pytest.mark.fault(33)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(plan_of: PlanOf, bags, tmp_path: Path, kind: str) -> None:  # type: ignore[no-untyped-def]
    run(plan_of(), bags, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(plan_of(), bags, tmp_path / "cut", Watcher(MHIM, 3))
    checkpoints = sorted((tmp_path / "cut").rglob("epoch-*.safetensors"))
    assert [path.stem for path in checkpoints] == ["epoch-0002", "epoch-0003"]
    damage(checkpoints[-1], kind)
    watcher = Watcher()
    run(plan_of(), bags, tmp_path / "cut", watcher)
    assert watcher.kinds(MHIM)[:2] == ["warning", "resumed"]
    assert "after epoch 2" in [event.message for event in watcher.events]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.fault(33)
def test_checkpoints_of_another_configuration_are_not_resumed(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StoppedError):
        run(plan_of(), bags, tmp_path, Watcher(PLAIN, 2))
    watcher = Watcher()
    run(plan_of(learning_rate=2e-3), bags, tmp_path, watcher)
    assert watcher.kinds(PLAIN)[:3] == ["warning", "warning", "started"]


def test_a_later_identical_run_adopts_what_is_there(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    first = run(plan_of(), bags, tmp_path)
    before, reads = contents(tmp_path), bags.reads
    watcher = Watcher()
    assert run(plan_of(checkpoint_every=3), bags, tmp_path, watcher) == first
    assert {event.kind for event in watcher.events} == {FitEventKind.adopted}
    assert contents(tmp_path) == before
    assert bags.reads == reads


def test_what_a_process_killed_just_after_finishing_left_is_cleared_away(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run(plan_of(), bags, tmp_path)
    before = contents(tmp_path)
    left = tmp_path / f"fits/{MHIM}/attempts/of-the-killed"
    left.mkdir(parents=True)
    for name in ("epoch-0004.safetensors", "epoch-0004.json"):
        (left / name).write_bytes(b"no longer needed")
    run(plan_of(), bags, tmp_path)
    assert contents(tmp_path) == before


def test_a_result_that_appears_while_a_fit_runs_is_adopted(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of(stage=Stage.plain)

    def overtaken(event: FitEvent) -> None:
        if event.record is not None and event.record.epoch == 2 and event.kind is FitEventKind.epoch:
            run(plan, bags, tmp_path)

    results = run_fits(plan, bags, LocalStorage(tmp_path), SingleProcess(), overtaken)
    assert read_result(LocalStorage(tmp_path), PLAIN) == results[0]


def test_a_different_fit_under_the_same_name_is_a_conflict(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run(plan_of(), bags, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConflictError, match="another configuration"):
        run(plan_of(learning_rate=2e-3), bags, tmp_path)
    assert contents(tmp_path) == before


def test_mhim_options_are_no_part_of_a_stage_one_fit(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (plain,) = run(plan_of(stage=Stage.plain), bags, tmp_path)
    watcher = Watcher()
    assert run(plan_of(mhim=MhimOptions(temperature=0.2)), bags, tmp_path, watcher)[0] == plain
    assert watcher.kinds(PLAIN) == ["adopted"]


def test_a_missing_teacher_is_an_error(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    student = dataclasses.replace(plan, fits=plan.fits[1:])
    with pytest.raises(InputError, match=r"seed-2021/fold-0/mhim: its teacher .*seed-2021/fold-0/plain.* is missing"):
        run(student, bags, tmp_path)


@pytest.mark.parametrize("difference", ["seed", "fold", "model options", "validation bags", "task", "features"])
def test_another_ones_teacher_is_an_error(plan_of: PlanOf, bags, tmp_path: Path, difference: str) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    run(dataclasses.replace(plan, fits=plan.fits[:1]), bags, tmp_path)
    spec = plan.fits[1]
    if difference == "seed":
        spec = spec._replace(seed=1)
    elif difference == "fold":
        spec = spec._replace(fold=4)
    elif difference == "validation bags":
        spec = spec._replace(validation=spec.validation[1:])
    elif difference == "model options":
        plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, gated=True))
    elif difference == "task":
        plan = dataclasses.replace(plan, task=dataclasses.replace(plan.task, classes=("yes", "no")))
    else:
        plan = dataclasses.replace(plan, provenance={"encoder": "another"})
    with pytest.raises(InputError, match=difference):
        run_fit(plan, spec, bags, LocalStorage(tmp_path), SingleProcess())


def test_a_damaged_teacher_is_refused(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    (plain,) = run(dataclasses.replace(plan, fits=plan.fits[:1]), bags, tmp_path)
    damage(tmp_path / plain.model_key, "flipped")
    with pytest.raises(IntegrityError, match="sha256"):
        run(dataclasses.replace(plan, fits=plan.fits[1:]), bags, tmp_path)


def test_features_that_are_not_finite_stop_the_fit_by_name(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bags.bags["bag-05"][0, 0] = float("nan")
    with pytest.raises(IntegrityError, match="bag-05"):
        run(plan_of(), bags, tmp_path)


def test_a_loss_that_is_no_longer_finite_stops_the_fit_naming_the_bag(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bags.bags["bag-05"][:] = 3e38  # finite, but the embedding overflows
    with pytest.raises(MhimError, match=r"fold-0/plain: the loss became NaN .* in epoch 1, first in bag bag-05"):
        run(plan_of(), bags, tmp_path)
    assert not contents(tmp_path)


def test_a_bag_that_is_absent_stops_before_any_work(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    del bags.bags["bag-20"]
    with pytest.raises(ConfigError, match="bag-20"):
        run(plan_of(), bags, tmp_path)
    assert bags.reads == 0


def test_early_stopping_waits_for_its_epoch_and_keeps_the_best(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of(stage=Stage.plain, epochs=40, learning_rate=0.02, patience=3, patience_from_epoch=8)
    (result,) = run(plan, bags, tmp_path)
    assert result.stopped_early
    num_epochs = len(result.history)
    assert num_epochs == max(8, result.best_epoch + 3) < 40
    best = result.history[result.best_epoch - 1]
    assert best.validation_metric == max(record.validation_metric or 0 for record in result.history)


def test_the_last_epoch_is_taken_where_asked(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (result,) = run(
        plan_of(stage=Stage.plain, selection=Selection.last, patience=1, patience_from_epoch=0), bags, tmp_path
    )
    assert result.best_epoch == len(result.history) == 4


def test_a_result_holds_nothing_of_time_or_place(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run(plan_of(), bags, tmp_path)
    text = (tmp_path / "fits/seed-2021/fold-0/mhim/result.json").read_text()
    assert str(tmp_path) not in text
    assert not {"seconds", "attempt", "host"} & set(json.loads(text))


@pytest.mark.parametrize("num_classes", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_mhim_learns_a_task_of_known_truth(plan_of: PlanOf, bags_of, tmp_path: Path, num_classes: int) -> None:  # type: ignore[no-untyped-def]
    bags = bags_of(60, num_classes, shift=7.0)
    plan = plan_of(num=60, num_classes=num_classes, epochs=12, learning_rate=5e-3, mhim=MhimOptions())
    plain, mhim = run(plan, bags, tmp_path)
    assert plain.metric is not None
    assert mhim.metric is not None
    assert min(plain.metric, mhim.metric) > 0.9
    assert mhim.history[0].consistency_loss > 0 == plain.history[0].consistency_loss
    # attention lies on the shifted instances: a sixth of the bag, and they come first
    model = load_model(read_model(LocalStorage(tmp_path), mhim)).student
    positive = bags.bags["bag-55"] if num_classes == 2 else bags.bags["bag-58"]
    attention = predict_bag(model, positive).attention_N
    assert float(attention[: len(positive) // 6].mean()) > 1.5 * float(attention.mean())


def test_training_leaves_the_global_random_state_alone(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = torch.get_rng_state()
    run(plan_of(), bags, tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def warm(plan_of: PlanOf, bags, tmp_path: Path, **more):  # type: ignore[no-untyped-def]
    """A plan that starts from the student of a finished run, whose file lies in the place it is to run in."""
    before = run(plan_of(), bags, tmp_path / "before")[-1]
    data = read_model(LocalStorage(tmp_path / "before"), before)
    LocalStorage(tmp_path / "warm").put(initial_key(before.model_sha256), data)
    return dataclasses.replace(plan_of(**more), warm_start={2021: before.model_sha256}), load_model(data)


def test_a_warm_start_begins_at_the_weights_given(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan, initial = warm(plan_of, bags, tmp_path)
    weights = initial.student.state_dict()
    stage_one = start_state(make_setup(plan, plan.fits[0]), None, torch.device("cpu"), initial).student.state_dict()
    assert stage_one.keys() < weights.keys(), "a plain model has no recycle network"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in stage_one.items())
    taught = load_model(read_model(LocalStorage(tmp_path / "before"), run(plan_of(), bags, tmp_path / "before")[0]))
    stage_two = start_state(make_setup(plan, plan.fits[1]), taught, torch.device("cpu"), initial)
    learned = taught.student.state_dict()
    assert stage_two.teacher is not None
    for name, tensor in stage_two.student.state_dict().items():
        assert torch.equal(tensor, weights[name]), f"{name}: student_init=fresh takes nothing from stage 1"
    for name, tensor in stage_two.teacher.state_dict().items():
        assert torch.equal(tensor, learned.get(name, weights[name])), f"{name}: stage 1, and the recycle network given"


@pytest.mark.thorough
def test_a_warm_start_changes_the_fit_and_goes_on_alike_after_a_kill(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan, _ = warm(plan_of, bags, tmp_path)
    cold = run(plan_of(), bags, tmp_path / "before")
    with pytest.raises(StoppedError):
        run(plan, bags, tmp_path / "warm", Watcher(MHIM, 2))
    ended = run(plan, bags, tmp_path / "warm")
    shutil.copytree(tmp_path / "warm/initial", tmp_path / "again/initial")
    assert run(plan, bags, tmp_path / "again") == ended
    assert ended[0].history[0].task_loss < cold[0].history[0].task_loss, "it went on where the other had ended"
    assert {result.identity for result in ended}.isdisjoint(result.identity for result in cold)


def test_a_warm_start_of_other_data_options_or_bytes_is_refused(plan_of: PlanOf, bags, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan, _ = warm(plan_of, bags, tmp_path)
    gated = dataclasses.replace(plan, model=dataclasses.replace(plan.model, gated=True))
    with pytest.raises(InputError, match="model options"):
        run(gated, bags, tmp_path / "warm")
    elsewhere = dataclasses.replace(plan, provenance={"encoder": "another"})
    with pytest.raises(InputError, match="encoder: None instead of another"):
        run(elsewhere, bags, tmp_path / "warm")
    queries = dataclasses.replace(plan, mhim=dataclasses.replace(plan.mhim, recycle_queries=2))
    with pytest.raises(InputError, match=r"other shapes: recycle\."):
        run(queries, bags, tmp_path / "warm")
    with pytest.raises(ConfigError, match="no model to start from for the seeds 2021"):
        dataclasses.replace(plan, warm_start={1: "0" * 64})
    (file,) = (tmp_path / "warm/initial").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="does not match the sha256"):
        run(plan, bags, tmp_path / "warm")
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        run(plan, bags, tmp_path / "warm")
