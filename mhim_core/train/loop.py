"""All fits of one training command, one after another in one group of workers.

Every function here is collective: all ranks call it alike. Rank 0 alone reads and writes storage, and decides.
"""

import json
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mhim_core.bags import BagSource
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.storage import Storage
from mhim_core.train.arithmetic import fixed_arithmetic
from mhim_core.train.card import ModelCard
from mhim_core.train.checks import check_drift, check_losses, check_validation
from mhim_core.train.context import TrainContext, from_rank_zero
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.events import FitEvent, FitEventKind, OnEvent, ignore_events
from mhim_core.train.feed import BagFeed
from mhim_core.train.fit_checkpoints import FitCheckpoints
from mhim_core.train.fit_options import Selection
from mhim_core.train.model_file import load_model, save_model
from mhim_core.train.packed_step import packed_step
from mhim_core.train.plan import FitSpec, Stage, TrainPlan
from mhim_core.train.preparation import make_setup, resume_or_start
from mhim_core.train.results import (
    FitResult,
    adopt,
    card_key,
    commit_result,
    data_identity,
    describe,
    fit_identity,
    model_key,
    read_initial,
    read_teacher,
)
from mhim_core.train.sampler import share_of
from mhim_core.train.state import Best, TrainState
from mhim_core.train.step import train_step
from mhim_core.train.validation import METRIC_OF, is_better, validate
from mhim_core.train.within_epoch import StepEnd


def run_fits(
    plan: TrainPlan, bags: BagSource, storage: Storage, context: TrainContext, on_event: OnEvent = ignore_events
) -> list[FitResult]:
    """Every fit of the plan in order, so that each teacher precedes its student; finished ones are adopted.

    Raises what `run_fit` raises; what was finished by then stays and is adopted by the next run.
    """
    return [run_fit(plan, spec, bags, storage, context, on_event) for spec in plan.fits]


def run_fit(
    plan: TrainPlan,
    spec: FitSpec,
    bags: BagSource,
    storage: Storage,
    context: TrainContext,
    on_event: OnEvent = ignore_events,
) -> FitResult:
    """One fit, to its end. Raises as `advance_fit`."""
    result = advance_fit(plan, spec, bags, storage, context, on_event)
    assert isinstance(result, FitResult)
    return result


class PausedFit(NamedTuple):
    """A fit that has its last epoch still before it. Its checkpoint is kept, and `advance_fit` goes on from there."""

    history: tuple[EpochRecord, ...]


def advance_fit(
    plan: TrainPlan,
    spec: FitSpec,
    bags: BagSource,
    storage: Storage,
    context: TrainContext,
    on_event: OnEvent = ignore_events,
    until: int | None = None,
) -> FitResult | PausedFit:
    """One fit, from its newest valid checkpoint if it was interrupted, up to `until` epochs (None: to its end).

    There it pauses unless it has ended by then; one that has come further already stays where it is. Events are
    reported on rank 0.

    Raises InputError (bags absent, teacher missing or mismatched, initial model mismatched), ConflictError (another fit
    under this name), IntegrityError (damaged files, NaN features, ranks drifted apart), DivergedError (the loss is
    no longer finite) and StoppedError (a rank was told to end; the step that it had reached is saved).
    """
    started_s = time.monotonic()

    def tell(kind: FitEventKind, message: str = "", record: EpochRecord | None = None, seconds: float = 0.0) -> None:
        if context.rank == 0:
            on_event(FitEvent(kind, spec.name, message, plan.fit.epochs, record, METRIC_OF[plan.task.kind], seconds))

    teacher_data = None
    if spec.stage is Stage.mhim:
        teacher_data = from_rank_zero(context, lambda: read_teacher(storage, plan, spec))
    identity = fit_identity(plan, spec, None if teacher_data is None else sha256(teacher_data))
    checkpoints = FitCheckpoints(storage, spec.name, identity, uuid.uuid4().hex)
    finished = _as_result(from_rank_zero(context, lambda: _adopted(storage, spec.name, identity, checkpoints)), spec)
    if finished is not None:
        tell(FitEventKind.adopted, "an identical fit is already finished", finished.history[finished.best_epoch - 1])
        return finished

    feed, state = _open_fit(
        plan, spec, bags, storage, context, teacher_data, checkpoints, lambda text: tell(FitEventKind.warning, text)
    )
    within = f" and {state.step_in_epoch} of {state.setup.steps_per_epoch} steps" if state.step_in_epoch else ""
    tell(FitEventKind.resumed if state.step else FitEventKind.started, f"after epoch {state.epoch}{within}")
    every = plan.execution.checkpoint_every
    after_step = StepEnd(spec, plan.execution, checkpoints, context, lambda text: tell(FitEventKind.saved, text))
    last = plan.fit.epochs if until is None else min(until, plan.fit.epochs)
    while state.epoch < last and not should_stop(state):
        epoch_s = time.monotonic()
        with fixed_arithmetic(context.device):
            run_epoch(state, spec, feed, context, after_step, plan.execution.pack_instances)
        is_due = state.epoch == last or (every and state.epoch % every == 0)
        if is_due and state.epoch < plan.fit.epochs:
            from_rank_zero(context, lambda: checkpoints.save(state.epoch, state.to_bytes()).encode())
            after_step.saved()
        tell(FitEventKind.epoch, record=state.history[-1], seconds=time.monotonic() - epoch_s)

    if state.epoch < plan.fit.epochs and not should_stop(state):
        tell(FitEventKind.paused, f"after epoch {state.epoch}")
        return PausedFit(tuple(state.history))
    data = from_rank_zero(context, lambda: _finish(plan, spec, identity, state, storage, checkpoints))
    result = FitResult.from_bytes(data, f"the result of {spec.name}")
    tell(FitEventKind.finished, "", result.history[result.best_epoch - 1], time.monotonic() - started_s)
    return result


class _OpenFit(NamedTuple):
    """What a fit works on."""

    feed: BagFeed
    state: TrainState


def _open_fit(
    plan: TrainPlan,
    spec: FitSpec,
    bags: BagSource,
    storage: Storage,
    context: TrainContext,
    teacher_data: bytes | None,
    checkpoints: FitCheckpoints,
    warn: Callable[[str], None],
) -> _OpenFit:
    """The bags, and the state that the fit starts from or goes on with."""
    setup = make_setup(plan, spec)
    feed = BagFeed(bags, setup, context.device)
    feed.require((*spec.train, *spec.validation))
    teacher = None if teacher_data is None else load_model(teacher_data)
    initial = None
    if plan.warm_start:
        initial = load_model(from_rank_zero(context, lambda: read_initial(storage, plan, spec)))
    return _OpenFit(feed, resume_or_start(setup, teacher, initial, checkpoints, context, warn))


def run_epoch(
    state: TrainState,
    spec: FitSpec,
    feed: BagFeed,
    context: TrainContext,
    after_step: Callable[[TrainState], None] = lambda state: None,
    pack_instances: int = 0,
) -> None:
    """One pass over the training bags, validation, the choice of the best; moves `state` by one epoch.

    A state from within the epoch goes on from there. `pack_instances`: see `FitExecution`.
    """
    setup = state.setup
    learning_rate = setup.learning_rate_at(state.epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    packs = pack_instances > 0 and state.student.aggregator.packs
    own_2T = _begin(state, context)
    batches = setup.batches(state.epoch)[state.step_in_epoch :]
    shares = [share_of(batch, context.rank, context.world_size) for batch in batches]
    drawn = feed.draw_ahead(shares, state.epoch)
    for number, (batch, share) in enumerate(zip(batches, drawn, strict=True), state.step_in_epoch):
        if packs and len(batch) > context.world_size:  # the same on all ranks, which exchange other rows then
            result = packed_step(state, share, len(batch), context, pack_instances)
        else:
            result = train_step(state, share, len(batch), context)
        start = number * setup.fit.global_batch
        own_2B = own_2T[:, start : start + len(batch)][:, context.rank :: context.world_size]
        own_2B.copy_(torch.stack([result.task_B, result.consistency_B]))
        state.steps_by_workers[context.world_size] += 1
        after_step(state)
    losses_2T = own_2T.clone()
    context.all_reduce([losses_2T])
    check_losses(losses_2T, state, spec)
    check_drift(state, spec, context)

    append_recycled = setup.stage is Stage.mhim and setup.mhim.recycles_at_test
    validation = validate(
        state.student, spec.validation, feed, append_recycled, context, pack_instances if packs else 0
    )
    check_validation(validation, state, spec)
    means = [float(loss_T.sum() / len(setup.train)) for loss_T in losses_2T]
    own = EpochRecord(state.epoch + 1, means[0], means[1], validation.loss, validation.metric, learning_rate)
    # the decision is rank 0's: were another rank's numbers off by a digit, it could stop alone and the rest would hang
    record = EpochRecord(*json.loads(from_rank_zero(context, lambda: json.dumps(own).encode())))
    state.epoch += 1
    state.losses_2T = None
    state.history.append(record)
    last = setup.fit.selection is Selection.last
    if last or is_better(record, None if state.best is None else state.best.record):
        teacher = {} if state.teacher is None else _clone(state.teacher)
        state.best = Best(record, _clone(state.student), teacher)


def _begin(state: TrainState, context: TrainContext) -> Tensor:
    """The losses that this rank contributes to the epoch; those from before the fit was resumed are rank 0's."""
    if state.losses_2T is None:
        num_turns = len(state.setup.train)
        state.losses_2T = torch.zeros(2, num_turns, dtype=torch.float64, device=context.device)
    elif context.rank > 0:
        state.losses_2T.zero_()
    return state.losses_2T


def should_stop(state: TrainState) -> bool:
    """Early stopping: `patience` epochs without a better one, and at least `patience_from_epoch` done."""
    fit = state.setup.fit
    assert fit.patience is not None
    assert fit.patience_from_epoch is not None  # both were resolved in the setup
    if fit.patience == 0 or state.best is None or state.epoch < fit.patience_from_epoch:
        return False
    return state.epoch - state.best.record.epoch >= fit.patience


def _adopted(storage: Storage, fit: str, identity: str, checkpoints: FitCheckpoints) -> bytes:
    """The finished fit's result, without the checkpoints that a process killed just after finishing it left there."""
    finished = adopt(storage, fit, identity)
    if finished is not None:
        checkpoints.clear()
    return _as_bytes(finished)


def _finish(
    plan: TrainPlan, spec: FitSpec, identity: str, state: TrainState, storage: Storage, checkpoints: FitCheckpoints
) -> bytes:
    best = state.best
    assert best is not None
    card = ModelCard(
        stage=spec.stage,
        fold=spec.fold,
        seed=spec.seed,
        d_in=plan.d_in,
        task=state.setup.task,
        precision=plan.fit.precision,
        model=plan.model,
        mhim=plan.mhim if spec.stage is Stage.mhim else None,
        provenance=plan.provenance,
    )
    model = save_model(card, best.student, best.teacher)
    digest = sha256(model)
    result = FitResult(
        name=spec.name,
        stage=spec.stage,
        fold=spec.fold,
        seed=spec.seed,
        identity=identity,
        data_identity=data_identity(spec),
        model_key=model_key(spec.name, digest),
        model_sha256=digest,
        best_epoch=best.record.epoch,
        metric_name=METRIC_OF[plan.task.kind],
        metric=best.record.validation_metric,
        validation_loss=best.record.validation_loss,
        stopped_early=state.epoch < plan.fit.epochs,
        history=tuple(state.history),
    )
    description = describe(card, plan, result, state.steps_by_workers)
    storage.put(card_key(spec.name, digest), canonical_json(description))
    standing = commit_result(storage, result, model)
    checkpoints.clear()
    return standing.to_bytes()


def _clone(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _as_bytes(result: FitResult | None) -> bytes:
    return b"" if result is None else result.to_bytes()


def _as_result(data: bytes, spec: FitSpec) -> FitResult | None:
    return FitResult.from_bytes(data, f"the result of {spec.name}") if data else None
