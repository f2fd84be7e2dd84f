"""What the hard-instance benchmark fits: the comparison of the default run, and the groups of the sweep."""

import dataclasses
from typing import Any, NamedTuple

from hard_bags import SALIENT, Regime
from hard_fits import BASELINE, EPOCHS, Variant

from mhim_core.mil.model_options import MhimOptions, RecycleAtTest, Score, StepSchedule, StudentInit, TeacherMode


def _mhim(name: str, **options: Any) -> Variant:
    """The defaults but for `options`."""
    return Variant(name, dataclasses.replace(MhimOptions(), **options))


STUDENT = _mhim("mhim")
PAPERS = _mhim("mhim, one view", full_view_weight=0.0)
LONGER = Variant("baseline-equal-epochs", epochs=2 * EPOCHS)
RANDOM = tuple(
    _mhim(
        f"random-mask={ratio}".replace("=0", "="),
        high_mask_ratio=0.0,
        random_mask_ratio=0.0,
        v1_random_mask_ratio=ratio,
        consistency_weight=0.0,
        full_view_weight=0.0,
    )
    for ratio in (0.5, 0.8, 0.9, 0.95)
)
"""Random masking alone: a share of the instances is hidden, anew in every step, and nothing else is done."""
RECYCLED = tuple(
    _mhim(
        f"random-recycled={ratio}".replace("=0", "="),
        high_mask_ratio=0.0,
        random_mask_ratio=ratio,
        full_view_weight=0.0,
    )
    for ratio in (0.1, 0.2, 0.5, 0.8)
)
"""MHIM without its high-score mask: what is masked at random is recycled. Worse than RANDOM under plain inference."""
V2 = _mhim("mhim-v2", random_mask_ratio=0.8, consistency_weight=0.5, ema_momentum="0.9997", full_view_weight=0.0)
OPTIONS = (
    PAPERS,
    V2,
    _mhim("random_mask_ratio=0", random_mask_ratio=0.0),
    _mhim("random_mask_ratio=.2", random_mask_ratio=0.2),
    _mhim("random_mask_ratio=.8", random_mask_ratio=0.8),
    _mhim("alpha=0", consistency_weight=0.0),
    _mhim("alpha=.1", consistency_weight=0.1),
    _mhim("alpha=.5", consistency_weight=0.5),
    _mhim("m=.9997", ema_momentum="0.9997"),
    _mhim("beta_h=.01", high_mask_ratio=0.01),
    _mhim("beta_h=.05", high_mask_ratio=0.05),
    _mhim("k=1", recycle_queries=1),
    _mhim("teacher_mode=train", teacher_mode=TeacherMode.train),
    _mhim("score=softmax_max", score=Score.softmax_max),
    _mhim("student_init=embed", student_init=StudentInit.embed),
    _mhim(
        "mhim-v1",
        random_mask_ratio=0.0,
        high_mask_ratio=0.01,
        high_mask_subsample=0.5,
        high_mask_schedule=StepSchedule.cosine,
        v1_random_mask_ratio=0.5,
        score=Score.attention,
        student_init=StudentInit.embed,
        consistency_weight=0.1,
        ema_momentum="0.9999",
        full_view_weight=0.0,
    ),
    _mhim(
        "published-code",
        random_mask_ratio=0.2,
        consistency_weight=0.5,
        ema_momentum="0.9997",
        score=Score.softmax_max,
        teacher_mode=TeacherMode.train,
        recycle_at_test=RecycleAtTest.off,
        full_view_weight=0.0,
    ),
)
"""One option changed at a time, and the named recipes of the papers."""


class Group(NamedTuple):
    """Variants that share bags, aggregator and stage-1 baseline."""

    name: str
    regime_name: str
    regime: Regime
    aggregator: str
    variants: tuple[Variant, ...]
    max_seeds: int = 1_000
    """Slow groups run on fewer seeds."""


HARD = Regime()


def comparison(aggregator: str) -> Group:
    """The default run."""
    return Group(aggregator, "hard", HARD, aggregator, (BASELINE, LONGER, *RANDOM, STUDENT))


def sweep_groups() -> tuple[Group, ...]:
    """Options with ABMIL, the other aggregators, and three regimes in which no gain is expected."""
    few = (BASELINE, STUDENT)
    return (
        Group("abmil, options", "hard", HARD, "abmil", (*comparison("abmil").variants, *OPTIONS, *RECYCLED)),
        Group(
            "beta_h below the salient share",
            "hard",
            HARD,
            "abmil",
            (BASELINE, _mhim("beta_h=.005", high_mask_ratio=0.005)),
        ),
        Group("no subtle instances in training", "no-subtle", Regime(positive=SALIENT), "abmil", few),
        Group("subtle signal dominant (8 instead of 2.5)", "dominant", Regime(subtle_shift=8.0), "abmil", few),
        Group("dsmil", "hard", HARD, "dsmil", (BASELINE, LONGER, STUDENT, V2), max_seeds=5),
        Group("transmil", "hard", HARD, "transmil", (BASELINE, LONGER, STUDENT, V2), max_seeds=3),
    )
