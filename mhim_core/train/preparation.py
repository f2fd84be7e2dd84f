"""The state from which a fit starts or resumes."""

from collections.abc import Callable

import torch

from mhim_core.errors import InputError, IntegrityError
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import StudentInit
from mhim_core.task import fit_task
from mhim_core.train.context import TrainContext, from_rank_zero
from mhim_core.train.fit_checkpoints import FitCheckpoints
from mhim_core.train.model_file import LoadedModel
from mhim_core.train.plan import FitSpec, Stage, TrainPlan
from mhim_core.train.state import FitSetup, TrainState


def make_setup(plan: TrainPlan, spec: FitSpec) -> FitSetup:
    """What is constant over the fit."""
    return FitSetup(
        stage=spec.stage,
        seed=spec.seed,
        d_in=plan.d_in,
        task=fit_task(plan.task, [bag.target for bag in spec.train]),
        model=plan.model,
        mhim=plan.mhim,
        fit=plan.fit.resolved(plan.task.kind),
        train=spec.train,
        weights=spec.weights,
    )


def start_state(
    setup: FitSetup, teacher: LoadedModel | None, device: torch.device, initial: LoadedModel | None = None
) -> TrainState:
    """The state before the first step. In stage 2 the teacher is the stage-1 model, the student as `student_init` says.

    The recycle network, which a stage-1 file lacks, is the student's in both. `initial` (a warm start) takes the place
    of the random draw: in stage 1 of every weight, in stage 2 of those that `student_init` does not take from the
    teacher, so of the recycle network too. Raises InputError where its weights are of other shapes.
    """
    mhim = setup.mhim if setup.stage is Stage.mhim else None
    student = build_model(
        setup.d_in, setup.task.num_outputs, setup.model, mhim, seed=f"{setup.seed}/{setup.stage}", dtype=setup.dtype
    )
    if initial is not None:
        _take_over(student, initial.student)
    if teacher is None:
        return TrainState.start(setup, student, None, device)
    learned = teacher.student.state_dict()
    with torch.device("meta"):
        follower = MilModel(setup.d_in, setup.task.num_outputs, setup.model, mhim)
    follower.load_state_dict(
        {name: tensor.clone() for name, tensor in (student.state_dict() | learned).items()}, assign=True
    )
    if setup.mhim.student_init is StudentInit.all:
        student.load_state_dict(student.state_dict() | learned)
    elif setup.mhim.student_init is StudentInit.embed:
        student.load_state_dict(student.state_dict() | {k: v for k, v in learned.items() if k.startswith("embed.")})
    return TrainState.start(setup, student, follower, device)


def _take_over(student: MilModel, initial: MilModel) -> None:
    """Every weight of `initial` that the student has too; a plain model has no recycle network."""
    own, source = student.state_dict(), initial.state_dict()
    shared = {name: tensor for name, tensor in source.items() if name in own}
    wrong = [name for name, tensor in shared.items() if tensor.shape != own[name].shape]
    if wrong:
        listed = ", ".join(f"{name} {tuple(source[name].shape)} instead of {tuple(own[name].shape)}" for name in wrong)
        raise InputError(f"the model to start from has weights of other shapes: {listed}")
    student.load_state_dict(own | shared)


def resume_or_start(
    setup: FitSetup,
    teacher: LoadedModel | None,
    initial: LoadedModel | None,
    checkpoints: FitCheckpoints,
    context: TrainContext,
    warn: Callable[[str], None],
) -> TrainState:
    """The newest valid checkpoint's state, else a fresh one: found on rank 0 and broadcast, so all ranks are equal."""
    state = start_state(setup, teacher, context.device, initial)
    fresh = state.to_bytes()

    def find() -> bytes:
        for checkpoint in checkpoints.newest_first(warn):
            try:
                state.load_bytes(checkpoint.data)
            except IntegrityError as error:
                warn(f"checkpoint passed over: {checkpoint.key}: {error}")
                continue
            return checkpoint.data
        return fresh

    state.load_bytes(from_rank_zero(context, find))
    return state
