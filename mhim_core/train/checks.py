"""Checks after every epoch. The functions are collective: all ranks call them, and either all raise or none."""

import hashlib
import math
from collections.abc import Sequence

import torch

from mhim_core.errors import IntegrityError, MhimError
from mhim_core.train.context import TrainContext, from_rank_zero
from mhim_core.train.plan import FitSpec
from mhim_core.train.state import TrainState
from mhim_core.train.validation import Validation

_REMEDY = "lower learning_rate, or look for extreme feature values"


def check_losses(
    loss_B: torch.Tensor, bag_ids: Sequence[str], state: TrainState, spec: FitSpec, context: TrainContext
) -> None:
    """Once per epoch, since reading a loss back in every step would stall an accelerator. Collective."""
    wrong_B = ~torch.isfinite(loss_B)
    num_wrong = wrong_B.sum().double()
    context.all_reduce([num_wrong])
    if num_wrong > 0:
        first = f", first in bag {bag_ids[int(wrong_B.nonzero()[0])]}" if wrong_B.any() else ""
        where = f"in epoch {state.epoch + 1}{first}"
        raise MhimError(f"fit {spec.name}: the loss became NaN or infinite {where}; {_REMEDY}")


def check_validation(validation: Validation, state: TrainState, spec: FitSpec) -> None:
    """Raises MhimError if the model no longer gives finite numbers; the same on every rank."""
    if not math.isfinite(validation.loss):
        where = f"after epoch {state.epoch + 1}"
        raise MhimError(f"fit {spec.name}: the validation loss is NaN or infinite {where}; {_REMEDY}")


def check_drift(state: TrainState, spec: FitSpec, context: TrainContext) -> None:
    """Student, teacher and queries must be the same bytes on every rank. Collective."""
    if context.world_size == 1:
        return
    digest = hash_models(state)
    differs = float(from_rank_zero(context, digest.encode) != digest.encode())
    num_differing = torch.tensor(differs, device=context.device)
    context.all_reduce([num_differing])
    if num_differing > 0:
        raise IntegrityError(
            f"fit {spec.name}: after epoch {state.epoch + 1} {int(num_differing)} of {context.world_size} workers hold "
            "other weights than rank 0; the workers' software or hardware differs, or one has a fault"
        )


def hash_models(state: TrainState) -> str:
    """sha256 over the bytes of student, teacher and queries."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.models().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
