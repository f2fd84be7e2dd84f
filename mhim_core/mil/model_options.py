"""What a user may choose about the model and about MHIM. Standard library only: `mhim --help` reads this."""

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum

from mhim_core.errors import ConfigError
from mhim_core.mil.registry import AGGREGATOR_NAMES, MINING_AGGREGATORS, newest_plugin

# the members of an enum are named as a user types them, so that name and value are one word


class Activation(StrEnum):
    """An element-wise non-linearity; gelu is the exact erf form."""

    gelu = "gelu"
    relu = "relu"
    tanh = "tanh"


class Schedule(StrEnum):
    """How a quantity moves over the optimizer steps of a fit."""

    constant = "constant"
    cosine = "cosine"


class Score(StrEnum):
    """How the teacher ranks instances: margin and softmax_max are class-aware, attention is the ICCV 2023 score."""

    margin = "margin"
    softmax_max = "softmax_max"
    attention = "attention"


class TeacherMode(StrEnum):
    """Whether dropout acts in the teacher: eval is the papers' algorithm, train the published code."""

    eval = "eval"
    train = "train"


class StudentInit(StrEnum):
    """What the student takes from the stage-1 model."""

    fresh = "fresh"
    embed = "embed"
    all = "all"


class TokenOrder(StrEnum):
    """In which order the student's instances enter the aggregator; the recycled tokens always come last."""

    shuffled = "shuffled"
    sorted = "sorted"


class RecycleAtTest(StrEnum):
    """Whether inference appends the recycled tokens; auto: where random_mask_ratio is at least 0.5."""

    auto = "auto"
    on = "on"
    off = "off"


TRANSMIL_HEADS = 8
AUTO = "auto"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The architecture of student and teacher alike."""

    aggregator: str = field(default="abmil", metadata={"choices": AGGREGATOR_NAMES})
    """How a bag becomes a prediction: one of these (mean and max for method=plain alone), or the name that your own
    aggregator_file registers."""
    plugin_sha256: str | None = None
    """The sha256 that the aggregator_file must have; none: whichever is given. Filled in, it is part of the model."""
    embed_dim: int = 512
    """Features D of an embedded instance; a multiple of 8 for transmil."""
    embed_activation: Activation = Activation.gelu
    """Non-linearity after the embedding layer: gelu, relu or tanh."""
    attention_activation: Activation = Activation.relu
    """Non-linearity inside ABMIL's attention: gelu, relu or tanh; ignored where gated."""
    gated: bool = False
    """Gated attention (tanh times sigmoid) instead of the plain one."""
    dropout: float = 0.25
    """Share of embedded features dropped in training, 0 to below 1; 0 disables it."""
    transmil_dropout: float = 0.1
    """Share of values dropped behind each attention layer of transmil in training, 0 to below 1; 0 disables it."""
    clam_instance_weight: float = 0.3
    """Share of CLAM's instance clustering loss in its task loss, 0 to below 1; 0 disables it."""
    clam_num_sampled: int = 8
    """Most and least attended instances of a bag, this many each, that CLAM's clustering loss looks at."""
    clam_subtyping: bool = False
    """Also teach the other classes' instance classifiers of CLAM that what a bag attends to is none of theirs."""

    def __post_init__(self) -> None:
        self._settle_plugin()
        if self.embed_dim < 1:
            raise ConfigError(f"embed_dim={self.embed_dim} must be at least 1")
        if self.aggregator == "transmil" and self.embed_dim % TRANSMIL_HEADS:
            raise ConfigError(
                f"embed_dim={self.embed_dim} must be a multiple of {TRANSMIL_HEADS}, the heads of aggregator=transmil"
            )
        for name in ("dropout", "transmil_dropout", "clam_instance_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        if self.clam_num_sampled < 1:
            raise ConfigError(
                f"clam_num_sampled={self.clam_num_sampled} must be at least 1; clam_instance_weight=0 disables the loss"
            )

    def _settle_plugin(self) -> None:
        """A plug-in's name alone means the file loaded last; with a sha256 it is data, which needs no loaded file."""
        if self.aggregator in AGGREGATOR_NAMES:
            if self.plugin_sha256 is not None:
                raise ConfigError(f"plugin_sha256 is for plug-ins, and aggregator={self.aggregator} is built in")
        elif self.plugin_sha256 is None:
            newest = newest_plugin(self.aggregator)
            if newest is None:
                raise ConfigError(
                    f"aggregator={self.aggregator!r} is unknown; choose one of {', '.join(AGGREGATOR_NAMES)}, "
                    "or give the file that registers it with aggregator_file="
                )
            object.__setattr__(self, "plugin_sha256", newest)
        elif not _SHA256.fullmatch(self.plugin_sha256):
            raise ConfigError(f"plugin_sha256={self.plugin_sha256!r} must be 64 lower-case hexadecimal digits")

    def require_mining(self) -> None:
        """Raises ConfigError if masked hard instance mining cannot work with this aggregator.

        What a plug-in can do shows only when it is tried: see `plugged.check_plugin`.
        """
        if self.plugin_sha256 is None and self.aggregator not in MINING_AGGREGATORS:
            raise ConfigError(
                f"method=mhim needs an aggregator that weighs single instances, which aggregator={self.aggregator} "
                f"does not; choose one of {', '.join(MINING_AGGREGATORS)}, or method=plain"
            )


@dataclass(frozen=True, kw_only=True)
class MhimOptions:
    """Masked hard instance mining, stage 2 (IJCV 2025, with ICCV 2023's masks as options)."""

    high_mask_ratio: float = 0.03
    """Share of a bag's instances with the highest teacher scores hidden from the student; 0 disables it."""
    high_mask_subsample: float = 1.0
    """Share of the high-score candidates that is hidden, drawn from proportionally more of them; 1 disables it."""
    high_mask_schedule: Schedule = Schedule.constant
    """constant, or cosine from high_mask_ratio to 0 over the fit."""
    random_mask_ratio: float = 0.1
    """Share of the remaining instances set aside and condensed into recycled tokens; 0 disables recycling."""
    recycle_queries: int = 5
    """Number k of global queries, hence of recycled tokens."""
    recycle_momentum: float = 0.9999
    """Momentum of the global queries' moving average per step; 1 freezes them."""
    recycle_dropout: float = 0.1
    """Dropout inside the recycle network, on its attention and its output; 0 disables it."""
    temperature: float = 0.1
    """Softmax temperature of the teacher's embedding in the consistency loss."""
    consistency_weight: float = 0.05
    """Weight of the consistency loss; 0 disables it."""
    ema_momentum: str = AUTO
    """Momentum of the teacher per step, a number from 0 to 1 (1 freezes it), or auto: 1 - 12/steps in [.99, .9999]."""
    ema_schedule: Schedule = Schedule.constant
    """constant, or cosine: the momentum rises to 1 over the fit."""
    score: Score = Score.margin
    """Teacher's instance score: margin (tie-free), softmax_max (the published numbers) or attention."""
    teacher_mode: TeacherMode = TeacherMode.eval
    """eval: no dropout in the teacher; train: dropout acts, as in the published code."""
    student_init: StudentInit = StudentInit.fresh
    """What the student takes from the stage-1 model: nothing (fresh), its embedding layer (embed) or all."""
    recycle_at_test: RecycleAtTest = RecycleAtTest.auto
    """Append recycled tokens at inference: on, off, or auto (on where random_mask_ratio is at least 0.5)."""
    token_order: TokenOrder = TokenOrder.shuffled
    """Order of the instances that random masking leaves: shuffled (published) or sorted; matters to transmil alone."""
    v1_random_mask_ratio: float = 0.0
    """Share of all instances hidden at random, redrawn every step (ICCV 2023); 0 disables it."""
    v1_low_mask_ratio: float = 0.0
    """Share of all instances with the lowest scores hidden (ICCV 2023); 0 disables it."""
    full_view_weight: float = field(default=0.0, metadata={"neutral": 0.0})
    """Share of the whole bag's task loss in the student's loss, 0 to below 1: it keeps the student from forgetting what
    is always masked; 0 disables it."""

    def __post_init__(self) -> None:
        for name in ("high_mask_ratio", "v1_random_mask_ratio", "v1_low_mask_ratio", "recycle_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        for name in ("random_mask_ratio", "recycle_dropout", "full_view_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        if not 0 < self.high_mask_subsample <= 1:
            raise ConfigError(f"high_mask_subsample={self.high_mask_subsample} must be above 0 and at most 1")
        if self.recycle_queries < 1:
            raise ConfigError(
                f"recycle_queries={self.recycle_queries} must be at least 1; random_mask_ratio=0 disables recycling"
            )
        if self.recycle_at_test is RecycleAtTest.on and not self.recycles:
            raise ConfigError("recycle_at_test=on needs recycled tokens, and random_mask_ratio=0 disables them")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature} must be a number above 0")
        if not 0 <= self.consistency_weight < math.inf:
            raise ConfigError(f"consistency_weight={self.consistency_weight} must be a number and not negative")
        if self.ema_momentum != AUTO:
            try:
                valid = 0 <= float(self.ema_momentum) <= 1
            except ValueError:
                valid = False
            if not valid:
                raise ConfigError(f"ema_momentum={self.ema_momentum!r} must be auto or a number between 0 and 1")

    @property
    def recycles(self) -> bool:
        """Whether the model has a recycle network at all."""
        return self.random_mask_ratio > 0

    @property
    def recycles_at_test(self) -> bool:
        """`recycle_at_test` with auto resolved."""
        if self.recycle_at_test is RecycleAtTest.auto:
            return self.random_mask_ratio >= 0.5
        return self.recycles and self.recycle_at_test is RecycleAtTest.on
