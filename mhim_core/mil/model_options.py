"""What a user may choose about the model and about MHIM. Standard library only: `mhim --help` reads this."""

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from mhim_core.errors import ConfigError
from mhim_core.mil.own_options import check_task, own_options, settle_own_options, with_own_options
from mhim_core.mil.registry import AGGREGATOR_NAMES, MINING_AGGREGATORS, newest_plugin, options_classes
from mhim_core.task import Task

# the members of an enum are named as a user types them, so that name and value are one word


class Activation(StrEnum):
    """An element-wise non-linearity; gelu is the exact erf form."""

    gelu = "gelu"
    relu = "relu"
    tanh = "tanh"


class StepSchedule(StrEnum):
    """How a quantity changes over the optimizer steps of a fit."""

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
    """Which weights the student takes from the stage-1 model."""

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

OwnOptions = TypeVar("OwnOptions")


@dataclass(frozen=True, kw_only=True)
@with_own_options
class ModelOptions:
    """The architecture of student and teacher alike.

    The aggregators' own options (`own_options`) are fields as well. Those of TransMIL and CLAM stand here since
    version 0.1 stated them for every aggregator.
    """

    aggregator: str = field(default="abmil", metadata={"choices": AGGREGATOR_NAMES})
    """The model that turns a bag into a prediction: one of these (mean and max only with method=plain), or a name that
    your own aggregator_file registers."""
    plugin_sha256: str | None = None
    """The sha256 that aggregator_file must have; none: any. It is filled in as part of the model's options."""
    embed_dim: int = 512
    """Number D of features of an embedded instance; a multiple of 8 for transmil."""
    embed_activation: Activation = Activation.gelu
    """Non-linearity after the embedding layer: gelu, relu or tanh."""
    attention_activation: Activation = Activation.relu
    """Non-linearity inside ABMIL's attention: gelu, relu or tanh; ignored where gated."""
    gated: bool = False
    """Use gated attention (tanh times sigmoid) in ABMIL; false: plain attention."""
    dropout: float = 0.25
    """Dropout on embedded features in training, 0 to below 1; 0 disables it."""
    transmil_dropout: float = 0.1
    """Dropout after each attention layer of transmil in training, 0 to below 1; 0 disables it."""
    clam_instance_weight: float = 0.3
    """Weight of CLAM's instance clustering loss in its task loss, 0 to below 1; 0 disables it."""
    clam_num_sampled: int = 8
    """Number of most attended and of least attended instances of a bag that enter CLAM's clustering loss."""
    clam_subtyping: bool = False
    """Also train the instance classifiers of the other classes in CLAM, with the most attended instances as
    negatives."""

    def __post_init__(self) -> None:
        self._settle_plugin()
        settle_own_options(self, self.aggregator)
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

    def own(self, kind: type[OwnOptions]) -> OwnOptions:
        """The own options of this model's aggregator: `kind` is the class that its decorator names."""
        return own_options(self, kind)

    def check_task(self, task: Task) -> None:
        """Raises ConfigError if this aggregator, or one of its own options, does not go with the task."""
        check_task(self, self.aggregator, task)

    @property
    def needs_places(self) -> bool:
        """Whether bags must have their tiles' coordinates: what the aggregator's own options say of it."""
        for kind, aggregators in options_classes().items():
            if self.aggregator in aggregators:
                return bool(getattr(own_options(self, kind), "needs_places", False))
        return False

    def require_mining(self) -> None:
        """Raises ConfigError if masked hard instance mining cannot work with this aggregator.

        What a plug-in can do shows only when it is tried: see `probe.check_plugin`.
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
    """Share of a bag's instances, those with the highest teacher scores, that is hidden from the student; 0 disables
    it."""
    high_mask_subsample: float = 1.0
    """Share of the highest-scored candidates that is hidden, out of proportionally more of them; 1 disables it."""
    high_mask_schedule: StepSchedule = StepSchedule.constant
    """constant, or cosine: from high_mask_ratio down to 0 over the fit."""
    random_mask_ratio: float = 0.1
    """Share of the remaining instances set aside and condensed into recycled tokens; 0 disables recycling."""
    recycle_queries: int = 5
    """Number k of global queries, and so of recycled tokens."""
    recycle_momentum: float = 0.9999
    """Momentum of the global queries' moving average per step; 1 freezes them."""
    recycle_dropout: float = 0.1
    """Dropout inside the recycle network, on its attention and its output; 0 disables it."""
    temperature: float = 0.1
    """Softmax temperature of the teacher's embedding in the consistency loss."""
    consistency_weight: float = 0.05
    """Weight of the consistency loss; 0 disables it."""
    ema_momentum: str = AUTO
    """Momentum of the teacher per step, 0 to 1 (1 freezes it), or auto: 1 - 12/steps, within [.99, .9999]."""
    ema_schedule: StepSchedule = StepSchedule.constant
    """constant, or cosine: the momentum rises to 1 over the fit."""
    score: Score = Score.margin
    """The teacher's instance score: margin (free of ties), softmax_max (as published) or attention."""
    teacher_mode: TeacherMode = TeacherMode.eval
    """eval: no dropout in the teacher; train: with dropout, as in the published code."""
    student_init: StudentInit = StudentInit.fresh
    """What the student starts from: fresh weights, the embedding layer of the stage-1 model (embed) or all of it."""
    recycle_at_test: RecycleAtTest = RecycleAtTest.auto
    """Append recycled tokens at inference: on, off, or auto (on if random_mask_ratio is at least 0.5)."""
    token_order: TokenOrder = TokenOrder.shuffled
    """Order of the instances that are left after random masking: shuffled (published) or sorted; matters only for
    transmil."""
    v1_random_mask_ratio: float = 0.0
    """Share of all instances hidden at random, redrawn every step (ICCV 2023); 0 disables it."""
    v1_low_mask_ratio: float = 0.0
    """Share of all instances, those with the lowest scores, that is hidden (ICCV 2023); 0 disables it."""
    full_view_weight: float = field(default=0.5, metadata={"neutral": 0.0})
    """Weight of the unmasked bag's task loss in the student's loss, 0 to below 1, which keeps the student from
    forgetting what is always masked; 0 disables it, as the papers do."""

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
        if isinstance(self.ema_momentum, int | float):  # as Python's callers write it
            object.__setattr__(self, "ema_momentum", str(self.ema_momentum))
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
