"""How far a prediction is from another class: the flip radius, found by chains of adversarial steps in feature space.

Each tile's feature may move by at most ε·σ (Euclidean), σ = the features' mean standard deviation × √F. A chain goes up
the gradient g of how far another class is above the predicted one: m ← βm + (1−β)g, a step along m/‖m‖₂ of each tile,
at first across the whole ball and then ever shorter, back into the ball. At its end a Metropolis step takes or leaves
the place by its energy, loss + ‖m‖₂, and the next chain starts beside it. After HMCAM (T-PAMI 2020), in our own form:
there, steps are also scaled by a running maximum of g². The flip radius is the smallest ε at which any of `num_chains`
chains changes the class, by bisection of log ε.

It is an upper bound: a stronger attack may need less. Shapes: N instances of a bag, F their features, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mhim_core.errors import ConfigError, InputError
from mhim_core.mil.draws import Draws
from mhim_core.task import TaskKind
from mhim_core.train.inference import Voter, fixed_threads
from mhim_core.types import BagId

_BETA = 0.95
_SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class FlipOptions:
    """How hard is tried. Raises ConfigError for values out of range."""

    num_chains: int = 8
    """S: the first starts at the bag itself, the others at random places in the ball."""
    num_steps: int = 10
    """Gradient steps of a chain."""
    num_bisections: int = 12
    """Of log ε: twelve take the range of twelve octaves to a 340th of one."""
    least: float = 2.0**-10
    """The smallest ε that is told apart."""
    largest: float = 4.0
    """The ε at which the search begins; a prediction that does not change there has no radius."""
    seed: int = 2021

    def __post_init__(self) -> None:
        if min(self.num_chains, self.num_steps, self.num_bisections) < 1 or not 0 < self.least < self.largest:
            raise ConfigError(
                "num_chains, num_steps and num_bisections must be at least 1, least above 0, below largest"
            )


DEFAULTS = FlipOptions()


class Flip(NamedTuple):
    """The flip radius of one prediction."""

    radius: float
    """ε, in units of the spread of the features; inf: it did not change at the largest ε that was tried."""
    to_class: int | None
    """The class that it changes to at about that radius."""


def feature_spread(samples: Sequence[Float[Tensor, "N F"]]) -> float:
    """σ: the mean over features of their standard deviation over all tiles of these bags, times √F.

    Raises InputError where the features do not vary.
    """
    x_NF = torch.cat([sample.double() for sample in samples])
    spread = float(x_NF.std(dim=0, correction=0).mean()) * math.sqrt(x_NF.shape[1])
    if not spread > 0:
        raise InputError("the features do not vary: there is no unit for a flip radius")
    return spread


def flip_radius(
    x_NF: Float[Tensor, "N F"],
    voters: Sequence[Voter],
    spread: float,
    bag_id: BagId,
    options: FlipOptions = DEFAULTS,
) -> Flip:
    """Of a classification by the mean probability of these models; all tiles may move.

    The same bag id and seed give the same radius. Raises InputError as `check_flips`.
    """
    check_flips(voters)
    weight = voters[0].model.embed.weight
    bag = x_NF.to(weight.device, weight.dtype)
    with fixed_threads():
        predicted = int(_logits(bag, voters).argmax())
        low, high = options.least, options.largest
        flipped = _attacked(bag, voters, predicted, high * spread, bag_id, options)
        if flipped is None:
            return Flip(math.inf, None)
        for _ in range(options.num_bisections):
            middle = math.sqrt(low * high)
            found = _attacked(bag, voters, predicted, middle * spread, bag_id, options)
            if found is None:
                low = middle
            else:
                high, flipped = middle, found
    return Flip(high, flipped)


def check_flips(voters: Sequence[Voter]) -> None:
    """Raises InputError for another task than classification, for pairs, whose joined odds are computed without
    gradients, and for models with a tree of the tissue, which is made of the features that would move."""
    if any(voter.model.needs_places for voter in voters):
        raise InputError("a flip radius moves tiles' features, of which this aggregator's tree of the tissue is made")
    if any(voter.task.kind is not TaskKind.classification or voter.beside is not None for voter in voters):
        raise InputError("a flip radius is of a classification, and not of predict_with=pair")


def quantile_among(radius: float, known: Sequence[float]) -> float:
    """The share, 0 to 1, of the known radii that are larger: .95 means more fragile than 95 % of them. NaN for none."""
    if not len(known):
        return math.nan
    return float((np.asarray(known, np.float64) > radius).mean())


def _logits(x_NF: Tensor, voters: Sequence[Voter]) -> Tensor:
    """(C,) log of the mean probabilities; of one model its logits but for a constant."""
    each_MC = torch.stack([voter.model(x_NF, voter.append_recycled).logits_C for voter in voters])
    return each_MC.log_softmax(dim=1).logsumexp(dim=0)


def _attacked(
    bag: Tensor, voters: Sequence[Voter], predicted: int, limit: float, bag_id: BagId, options: FlipOptions
) -> int | None:
    """The class that one of the chains reaches in the ball of this radius; None: none changes it."""
    draws = Draws(options.seed, 0, bag_id, "flip")
    place = torch.zeros_like(bag)
    for chain in range(options.num_chains):
        if chain:  # a random start beside the kept place: the sample of the chain before
            place = _projected(place + _random(draws, f"start-{chain}", bag) * limit, limit)
        walked = _chain(bag, place, voters, predicted, limit, options)
        if walked.reached is not None:
            return walked.reached
        rise = walked.energy_after - walked.energy_before
        if math.isfinite(rise) and draws.integer(f"accept-{chain}") / 2**63 < math.exp(min(0.0, rise)):
            place = walked.place
    return None


class _Walked(NamedTuple):
    place: Tensor
    energy_before: float
    energy_after: float
    reached: int | None


def _chain(
    bag: Tensor, start: Tensor, voters: Sequence[Voter], predicted: int, limit: float, options: FlipOptions
) -> _Walked:
    place, momentum = start, torch.zeros_like(bag)
    before = energy = math.nan
    for step in range(1, options.num_steps + 1):
        place = place.detach().requires_grad_()
        with torch.enable_grad():
            logits_C = _logits(bag + place, voters)
            loss = _loss(logits_C, predicted)
            [gradient] = torch.autograd.grad(loss, place)
        if int(logits_C.argmax()) != predicted:
            return _Walked(place.detach(), before, energy, int(logits_C.argmax()))
        momentum = _BETA * momentum + (1 - _BETA) * gradient
        energy = float(loss.detach()) + float(momentum.norm())
        before = energy if step == 1 else before
        # one scale a tile, not a value: the ball is Euclidean, and a linear model's best direction is its gradient's
        direction = momentum / (momentum.norm(dim=1, keepdim=True) + _SMALLEST)
        place = _projected(place.detach() + direction * limit * (2.0 / step), limit)
    last = _logits(bag + place, voters)
    reached = int(last.argmax())
    return _Walked(place, before, energy, None if reached == predicted else reached)


def _random(draws: Draws, purpose: str, like: Tensor) -> Tensor:
    """(N, F): of each tile a uniformly random direction of length 1."""
    generator = torch.Generator().manual_seed(draws.integer(purpose))
    normal_NF = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    return normal_NF / (normal_NF.norm(dim=1, keepdim=True) + _SMALLEST)


def _loss(logits_C: Tensor, predicted: int) -> Tensor:
    """By how much the nearest other class is above the predicted one."""
    others = torch.cat([logits_C[:predicted], logits_C[predicted + 1 :]])
    return others.logsumexp(dim=0) - logits_C[predicted]


def _projected(place: Tensor, limit: float) -> Tensor:
    norm_N1 = place.norm(dim=1, keepdim=True)
    return place * torch.clamp(limit / (norm_N1 + _SMALLEST), max=1.0)
