"""What MHIM mined: which tiles of a bag the student did not see in an epoch, computed again, since nobody stored it.

The random numbers are exact, being keyed by (seed, epoch, bag). The scores are those of whichever teacher is handed
over: that of the very step (`replay`), or one that was kept, the stage-1 model or the one beside the chosen student.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.layout import Layout
from mhim_core.mil.masking import high_ratio_at, mask_instances, split_recycled
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MhimOptions
from mhim_core.train.inference import fixed_threads
from mhim_core.train.step import view_as_teacher
from mhim_core.types import BagId


class TileFate(IntEnum):
    """What became of a tile in one step."""

    entered = 0
    """It entered the student's aggregator."""
    recycled = 1
    """Set aside at random, and condensed into the recycled tokens."""
    high = 2
    """Masked: among the teacher's highest scores."""
    low = 3
    """Masked: among the lowest (ICCV 2023)."""
    random = 4
    """Masked at random (ICCV 2023)."""
    not_drawn = 5
    """Not in the subsample of a large bag."""


class Turn(NamedTuple):
    """When a bag is trained on: all that its masks depend on beside the teacher."""

    seed: int
    epoch: int
    """0-based, as the random numbers are keyed."""
    draw_id: BagId
    step: int
    """The optimizer step, counted over the fit."""
    total_steps: int
    max_instances: int
    """Of a bag in training; 0: all."""


class MinedBag(NamedTuple):
    """One bag in one step. N tiles."""

    fate_N: np.ndarray
    """uint8 (N,), of `TileFate`."""
    score_N: np.ndarray
    """float32 (N,): the teacher's score, its mean over heads; NaN for tiles that were not drawn."""
    high_ratio: float


@torch.no_grad()
def mine_bag(
    teacher: MilModel,
    features_NF: np.ndarray,
    options: MhimOptions,
    turn: Turn,
    class_index: int | None,
    layout: Layout | None = None,
) -> MinedBag:
    """The masks of `train_step` for this bag, by the same functions and the same random numbers.

    `class_index`: the bag's label, which the attention of some aggregators scores by (`score_instances`); None: of a
    task without classes. `layout`: of the whole bag, where the teacher asks for it.
    """
    draws = Draws(turn.seed, turn.epoch, turn.draw_id)
    num = len(features_NF)
    drawn_K = torch.arange(num)
    if 0 < turn.max_instances < num:
        drawn_K = draws.sample("subsample", num, turn.max_instances).sort().values
    x_KF = torch.from_numpy(np.ascontiguousarray(features_NF)).index_select(0, drawn_K)
    x_KF = x_KF.to(teacher.embed.weight.dtype)
    high_ratio = high_ratio_at(options, turn.step, turn.total_steps)
    with fixed_threads():
        drawn_layout = None if layout is None else layout.select(drawn_K)
        label_index = None if class_index is None else torch.tensor(class_index)
        view = view_as_teacher(teacher, x_KF, options, draws, label_index, drawn_layout)
        masks = mask_instances(view.score_HN, high_ratio, options, draws)
        split = split_recycled(masks.kept, options.random_mask_ratio, draws, options.token_order)
    fate_K = np.full(len(drawn_K), TileFate.entered, np.uint8)
    masked = set(masks.masked.tolist())
    for rows, fate in ((masks.random, TileFate.random), (masks.low, TileFate.low), (masks.high, TileFate.high)):
        fate_K[[row for row in rows.tolist() if row in masked]] = fate
    fate_K[split.rows[split.num_entering :].numpy()] = TileFate.recycled
    fate_N = np.full(num, TileFate.not_drawn, np.uint8)
    score_N = np.full(num, np.nan, np.float32)
    fate_N[drawn_K.numpy()] = fate_K
    score_N[drawn_K.numpy()] = view.score_HN.mean(dim=0).float().numpy()
    return MinedBag(fate_N, score_N, high_ratio)
