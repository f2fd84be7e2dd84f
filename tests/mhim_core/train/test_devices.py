"""Fits on the CPU and on a GPU: the same bits run to run and after an interruption, and what makes them so."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.task import ClassTarget, SurvivalTarget, Task, TaskKind
from mhim_core.train.arithmetic import fixed_arithmetic
from mhim_core.train.context import SingleProcess
from mhim_core.train.events import FitEvent, FitEventKind, ignore_events
from mhim_core.train.fit_options import Precision
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import predict_bag
from mhim_core.train.objective import make_label
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.preparation import make_setup
from mhim_core.train.state import TrainState
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId

PlanOf = Callable[..., TrainPlan]

OF_SURVIVAL = [name for name in AGGREGATOR_NAMES if name != "mdmil"]
"""MDMIL needs classes."""
WITHOUT_DETERMINISTIC_KERNEL = {
    *("aten::cumsum", "aten::nll_loss2d_forward", "aten::histc", "aten::median.dim", "aten::put_", "aten::kthvalue"),
    *("aten::grid_sampler_2d_backward", "aten::upsample_bilinear2d_backward", "aten::_embedding_bag_backward"),
    *("aten::adaptive_max_pool2d_backward", "aten::_adaptive_avg_pool2d_backward", "aten::reflection_pad2d_backward"),
}
"""What torch refuses on CUDA in deterministic mode (floating point); see torch.use_deterministic_algorithms."""


class StoppedError(Exception):
    pass


def stop_after(fit: str, epoch: int) -> Callable[[FitEvent], None]:
    """Ends the run there, as a kill would."""

    def watch(event: FitEvent) -> None:
        is_epoch = event.kind is FitEventKind.epoch and event.record is not None
        if is_epoch and (event.fit, event.record.epoch) == (fit, epoch):
            raise StoppedError

    return watch


def plan_with(plan_of: PlanOf, aggregator: str, precision: Precision = Precision.float32) -> TrainPlan:
    """Both stages, or the one there is; three classes, so that DSMIL's critical instances may coincide."""
    stage = Stage.mhim if aggregator in MINING_AGGREGATORS else Stage.plain
    plan = plan_of(6, stage, 3, epochs=2, precision=precision, global_batch=2)
    return dataclasses.replace(plan, model=ModelOptions(aggregator=aggregator, embed_dim=16))


def survival_plan(plan_of: PlanOf, aggregator: str) -> TrainPlan:
    bags = [LabelledBag(BagId(f"bag-{index:02d}"), SurvivalTarget(1.0 + index, index % 3 > 0)) for index in range(6)]
    task = Task(kind=TaskKind.survival)
    plan = plan_with(plan_of, aggregator)
    fits = plan_fits([FoldBags(0, tuple(bags[:4]), tuple(bags[4:]))], plan.fits[-1].stage, task, [plan.fit.seed])
    return dataclasses.replace(plan, fits=fits, task=task)


def run(plan: TrainPlan, bags: Any, root: Path, device: torch.device, on_event: Any = ignore_events) -> None:
    run_fits(plan, bags, LocalStorage(root), SingleProcess(device), on_event)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.thorough_for("transmil", "mammil", "mdmil")
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("aggregator", AGGREGATOR_NAMES)
def test_a_fit_ends_with_the_same_bits_run_again_and_after_an_interruption(
    plan_of: PlanOf, bags: Any, tmp_path: Path, device: torch.device, aggregator: str, precision: Precision
) -> None:
    plan = plan_with(plan_of, aggregator, precision)
    run(plan, bags, tmp_path / "whole", device)
    run(plan, bags, tmp_path / "again", device)
    with pytest.raises(StoppedError):
        run(plan, bags, tmp_path / "cut", device, stop_after(plan.fits[-1].name, epoch=1))
    run(plan, bags, tmp_path / "cut", device)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.thorough_for("transmil", "mammil", "mdmil")
@pytest.mark.parametrize("aggregator", OF_SURVIVAL)
def test_a_survival_fit_ends_with_the_same_bits_run_again(
    plan_of: PlanOf, bags: Any, tmp_path: Path, device: torch.device, aggregator: str
) -> None:
    plan = survival_plan(plan_of, aggregator)
    run(plan, bags, tmp_path / "whole", device)
    run(plan, bags, tmp_path / "again", device)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


class Recorder(TorchDispatchMode):
    """Names of the operations on floating-point tensors, the backward pass's included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_float = any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in args)
        if is_float:
            self.names |= {func.name(), func.name().split(".")[0]}
        return result


@pytest.mark.parametrize(
    ("plan_for", "aggregator"),
    [(plan_with, name) for name in AGGREGATOR_NAMES] + [(survival_plan, name) for name in OF_SURVIVAL],
)
def test_a_fit_uses_no_operation_that_lacks_a_deterministic_kernel_on_cuda(
    plan_of: PlanOf,
    bags: Any,
    tmp_path: Path,
    aggregator: str,
    plan_for: Callable[..., TrainPlan],
) -> None:
    """By the operations' names, on the CPU."""
    with Recorder() as recorder:
        run(plan_for(plan_of, aggregator), bags, tmp_path, torch.device("cpu"))
    assert {"aten::mm", "aten::gelu_backward"} <= recorder.names
    assert recorder.names & WITHOUT_DETERMINISTIC_KERNEL == set()


def settings() -> dict[str, Any]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "precision": torch.get_float32_matmul_precision(),
        "convolutions": (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
    }


def test_arithmetic_on_cuda_is_deterministic_without_tf32_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_float32_matmul_precision("high")
    before = settings()
    try:
        with fixed_arithmetic(torch.device("cuda")):
            inside = settings()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")  # the two that torch accepts
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
    expected = {"deterministic": True, "warn only": False, "filled": False, "precision": "highest"}
    assert inside == expected | {"convolutions": (True, False)}


def test_arithmetic_on_a_cpu_is_left_alone() -> None:
    before = settings()
    with fixed_arithmetic(torch.device("cpu")):
        assert settings() == before


@pytest.mark.thorough_for("transmil", "mammil", "mdmil")
@pytest.mark.parametrize("aggregator", AGGREGATOR_NAMES)
def test_a_step_mixes_no_tensors_of_the_cpu_with_those_of_its_device(plan_of: PlanOf, aggregator: str) -> None:
    """On torch's meta device, which knows shapes and places but no numbers: a mixture raises as it would on CUDA."""
    device = torch.device("meta")
    plan = plan_with(plan_of, aggregator)
    setup = make_setup(plan, plan.fits[-1])
    mhim = setup.mhim if setup.stage is Stage.mhim else None
    student, follower = (build_model(setup.d_in, 3, setup.model, mhim, seed="").to(device) for _ in range(2))
    adam = torch.optim.Adam(student.parameters())  # the fused one knows no such device
    state = TrainState(setup, student, follower.requires_grad_(False) if mhim else None, adam)
    label = make_label(ClassTarget(1), setup.task, setup.dtype, device)
    bags = [Bag(BagId(f"bag {num}"), label, torch.empty(num, setup.d_in, device=device)) for num in (1, 5, 60)]
    result = train_step(state, bags, len(bags), SingleProcess(device))
    prediction = predict_bag(state.student, torch.empty(9, setup.d_in), append_recycled=True)
    tensors = (*result, *prediction, *state.models().values())
    places = [tensor.device for tensor in tensors if tensor is not None]
    assert set(places) == {device}
