"""Checks of a fit under way. All ranks call them alike, and either all raise or none."""

import hashlib
import json
import math

import torch

from mhim_core.errors import DivergedError, IntegrityError
from mhim_core.train.context import TrainContext, from_rank_zero
from mhim_core.train.plan import FitSpec
from mhim_core.train.state import TrainState
from mhim_core.train.validation import Validation

_REMEDY = "lower learning_rate, or look for extreme feature values"


def check_losses(losses_2T: torch.Tensor, state: TrainState, spec: FitSpec) -> None:
    """Of the epoch under way, with the losses of all ranks (2 × T turns).

    Only where they are needed, since reading a loss back in every step would stall an accelerator.
    """
    wrong_T = ~torch.isfinite(losses_2T).all(dim=0)
    if not wrong_T.any():
        return
    turns = [turn for batch in state.setup.batches(state.epoch) for turn in batch]
    first = turns[int(wrong_T.nonzero()[0])].bag.bag_id
    where = f"in epoch {state.epoch + 1}, first in bag {first}"
    raise DivergedError(f"fit {spec.name}: the loss became NaN or infinite {where}; {_REMEDY}")


def check_validation(validation: Validation, state: TrainState, spec: FitSpec) -> None:
    """Raises DivergedError if the model no longer gives finite numbers; the same on every rank."""
    if not math.isfinite(validation.loss):
        where = f"after epoch {state.epoch + 1}"
        raise DivergedError(f"fit {spec.name}: the validation loss is NaN or infinite {where}; {_REMEDY}")


def check_drift(state: TrainState, spec: FitSpec, context: TrainContext) -> None:
    """Student, teacher and queries must be the same bytes on every rank. Collective."""
    if context.world_size == 1:
        return
    digests = tensor_digests(state)
    names = list(digests)
    theirs = json.loads(from_rank_zero(context, lambda: json.dumps(digests).encode()))
    differs = torch.tensor([float(theirs.get(name) != digests[name]) for name in names], device=context.device)
    is_off = differs.any().float()[None]
    context.all_reduce([differs, is_off])
    if is_off > 0:
        drifted = [name for name, num in zip(names, differs.tolist(), strict=True) if num > 0]
        more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
        raise IntegrityError(
            f"fit {spec.name}: after step {state.step} (epoch {state.epoch + 1}) {int(is_off)} of {context.world_size} "
            f"workers hold other weights than rank 0, in {', '.join(drifted[:3])}{more}; the workers' software or "
            "hardware differs, or one has a fault"
        )


def tensor_digests(state: TrainState) -> dict[str, str]:
    """By name the sha256 of every weight and buffer of student and teacher, the queries among them."""
    return {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in sorted(state.models().items())
    }
