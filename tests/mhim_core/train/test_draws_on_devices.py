"""The step draws on the device where it computes: to the same losses, and without waiting for it."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mhim_core.mil.draws import Draws
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions, ModelOptions, TeacherMode
from mhim_core.mil.philox import NUMPY, TORCH, Source, numpy_words, source_on, torch_at_least
from mhim_core.task import ClassTarget, FittedTask, TaskKind
from mhim_core.train.arithmetic import fixed_arithmetic
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitOptions, Precision
from mhim_core.train.objective import make_label
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId

D_IN, NUM_STEPS = 12, 20
EVERY_DRAW = MhimOptions(
    high_mask_ratio=0.2,
    high_mask_subsample=0.5,
    random_mask_ratio=0.5,
    full_view_weight=0.5,
    teacher_mode=TeacherMode.train,
)
"""Without v1's random mask, whose union with the high one is of a size that only the device knows."""
COUNTED = MhimOptions(high_mask_ratio=0.2, v1_random_mask_ratio=0.2)


def start(aggregator: str, device: torch.device, mhim: MhimOptions = EVERY_DRAW) -> TrainState:
    train = tuple(LabelledBag(BagId(f"bag-{index}"), ClassTarget(index % 3)) for index in range(6))
    stage = Stage.mhim if aggregator in MINING_AGGREGATORS else Stage.plain
    setup = FitSetup(
        stage=stage,
        seed=1,
        d_in=D_IN,
        task=FittedTask(kind=TaskKind.classification, classes=("a", "b", "c")),
        model=ModelOptions(aggregator=aggregator, embed_dim=16),
        mhim=mhim,
        fit=FitOptions(epochs=4, learning_rate=1e-3, precision=Precision.float64).resolved(TaskKind.classification),
        train=train,
    )
    own = mhim if stage is Stage.mhim else None
    student, teacher = (
        build_model(D_IN, 3, setup.model, own, seed=name, dtype=torch.float64) for name in ("student", "teacher")
    )
    if device.type == "meta":  # torch's fused optimizer does not know it
        student = student.to(device)
        teacher = teacher.to(device).requires_grad_(False)
        return TrainState(setup, student, teacher if own else None, torch.optim.Adam(student.parameters()))
    return TrainState.start(setup, student, teacher if own else None, device)


def bags_of(state: TrainState, device: torch.device) -> list[Bag]:
    setup = state.setup
    bags = []
    for index, bag in enumerate(setup.train):
        x_NF = torch.randn(20 + 9 * index, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
        bags.append(Bag(bag.bag_id, make_label(bag.target, setup.task, setup.dtype, device), x_NF.to(device)))
    return bags


def losses_of(aggregator: str, source: Source, device: torch.device) -> list[torch.Tensor]:
    """Both losses of every step, and the weights after the last."""
    state = start(aggregator, device)
    bags, context = bags_of(state, device), SingleProcess(device)
    numbers = []
    with fixed_arithmetic(device):
        for step in range(NUM_STEPS):
            state.epoch = step // len(bags)
            make_draws = functools.partial(Draws, source=source)
            result = train_step(state, [bags[step % len(bags)]], 1, context, make_draws)
            numbers += [result.task_B, result.consistency_B]
    return [tensor.cpu() for tensor in (*numbers, *state.models().values())]


@pytest.mark.parametrize("aggregator", ["abmil", pytest.param("transmil", marks=pytest.mark.thorough), "clam-sb"])
def test_twenty_steps_are_the_same_to_the_bit_whatever_the_draws_source(aggregator: str, device: torch.device) -> None:
    copied = NUMPY if device.type == "cpu" else Source(numpy_words, torch_at_least)
    expected = losses_of(aggregator, copied, device)
    for source in {TORCH, source_on(device)} - {copied}:
        actual = losses_of(aggregator, source, device)
        assert len(actual) > 2 * NUM_STEPS
        assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def test_other_draws_end_in_other_losses() -> None:
    """What the test above compares depends on every draw."""
    shifted = Source(lambda key, *place: numpy_words(key + 1, *place), NUMPY.at_least)
    cpu = torch.device("cpu")
    pairs = zip(losses_of("abmil", NUMPY, cpu), losses_of("abmil", shifted, cpu), strict=True)
    assert not any(torch.equal(*pair) for pair in list(pairs)[: 2 * NUM_STEPS])


class Crossings(TorchDispatchMode):
    """Names of the operations that copy from one device to another, or wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        places = {value.device.type for value in (*args, result) if isinstance(value, torch.Tensor)}
        is_copy = name in ("aten::_to_copy", "aten::copy_") and len(places) > 1
        is_read = name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select") and places != {"cpu"}
        if is_copy or is_read:
            self.names.append(name)
        return result


@pytest.mark.thorough_for("transmil", "mammil")
@pytest.mark.parametrize("aggregator", AGGREGATOR_NAMES)
def test_a_step_copies_nothing_to_its_device_and_reads_nothing_back(aggregator: str) -> None:
    """On torch's meta device, for which the words are made as for any that is no CPU."""
    device = torch.device("meta")
    state = start(aggregator, device)
    (bag, *_) = bags_of(state, device)
    with Crossings() as crossings:
        label = make_label(ClassTarget(1), state.setup.task, state.setup.dtype, device)
        train_step(state, [bag._replace(label=label)], 1, SingleProcess(device))
    assert crossings.names == []
    with Crossings() as crossings:
        torch.zeros(3).to(device)
    assert crossings.names == ["aten::_to_copy"]


@pytest.fixture
def count_waits() -> Callable[[Callable[[], object]], int]:
    """count_waits(work) → how often the host waited for the GPU in it."""

    def count(work: Callable[[], object]) -> int:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    return count


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("aggregator", "mhim", "num_waits"),
    [*((name, EVERY_DRAW, 0) for name in AGGREGATOR_NAMES), ("abmil", COUNTED, 1)],
)
def test_the_host_waits_for_a_gpu_in_a_step_only_to_count_v1s_masks(
    aggregator: str, mhim: MhimOptions, num_waits: int, count_waits: Callable[[Callable[[], object]], int]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    device = torch.device("cuda")
    state = start(aggregator, device, mhim)
    bags, context = bags_of(state, device), SingleProcess(device)
    with fixed_arithmetic(device):
        for bag in bags[:3]:  # the first ones compile, allocate and check
            train_step(state, [bag], 1, context)

        def work() -> None:
            make_label(ClassTarget(1), state.setup.task, state.setup.dtype, device)
            train_step(state, [bags[0]], 1, context)

        assert count_waits(work) == num_waits
        assert count_waits(lambda: torch.zeros((), device=device).item()) == 1
