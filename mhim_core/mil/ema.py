"""The teacher follows the student by an exponential moving average."""

import math

import torch
from torch import nn

from mhim_core.mil.model_options import AUTO, MhimOptions, StepSchedule

AUTO_MIN, AUTO_MAX = 0.99, 0.9999
AUTO_TURNOVERS = 12
"""The published 0.9997 over 40,000 steps lets the teacher turn over twelve times in a fit; auto keeps that number."""


def base_momentum(options: MhimOptions, total_steps: int) -> float:
    """The momentum m of a fit of `total_steps` optimizer steps: as set, or auto = 1 - 12/steps in [.99, .9999]."""
    if options.ema_momentum == AUTO:
        return min(max(1 - AUTO_TURNOVERS / total_steps, AUTO_MIN), AUTO_MAX)
    return float(options.ema_momentum)


def momentum_at(options: MhimOptions, step: int, total_steps: int) -> float:
    """m at an optimizer step: constant, or m_t = 1 - (1 - m)·½(1 + cos πt/T)."""
    momentum = base_momentum(options, total_steps)
    if options.ema_schedule is StepSchedule.constant:
        return momentum
    return 1 - (1 - momentum) * 0.5 * (1 + math.cos(math.pi * step / total_steps))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θt ← m·θt + (1-m)·θs over all parameters and buffers, the recycle network's queries included."""
    targets, sources = [], []
    source_of = student.state_dict(keep_vars=True)
    for name, target in teacher.state_dict(keep_vars=True).items():
        targets.append(target)
        sources.append(source_of[name])
    torch._foreach_lerp_(targets, sources, 1 - momentum)
