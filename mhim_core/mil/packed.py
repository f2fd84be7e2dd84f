"""Several bags of any length in one tensor, one after another, and what every bag needs of its own in it.

Shape suffixes: see the package's docstring; in a pack N (K, R) counts the instances of all its B bags. J rows of
weights a bag: heads, branches or classes.

An operation on single instances (a projection, an activation) takes a pack as it takes a bag. One over a bag's
instances (softmax, weighted sum, ranking) goes by the B×N mask of which instance is whose. B is small beside the
features of an instance, so that the products with a block of zeros for every other bag cost little, have no loop and
are summed in the same order each time, on a GPU too.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from mhim_core.mil.draws import CPU, Draws, Keep


class Pack:
    """Which rows belong to which bag. The lengths are known on the host: nothing here waits for a device."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """`lengths`: of every bag; a bag may have no rows where they are only counted."""
        self.lengths = tuple(lengths)
        self.device = device
        self.starts = (0, *itertools.accumulate(self.lengths[:-1]))
        """The first row of every bag."""

    @cached_property
    def bag_of_rows(self) -> Int64[Tensor, "N"]:
        """The bag of every row. Of a single one nothing is copied to the device."""
        if len(self.lengths) == 1:
            return torch.zeros(self.lengths[0], dtype=torch.int64, device=self.device)
        return torch.repeat_interleave(torch.tensor(self.lengths)).to(self.device, non_blocking=True)

    @cached_property
    def is_own(self) -> Bool[Tensor, "B N"]:
        """Whether the row is the bag's."""
        return torch.arange(len(self.lengths), device=self.device)[:, None] == self.bag_of_rows

    def split(self, x_N: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
        """Each bag's rows, as views."""
        return x_N.split(self.lengths, dim)

    def rows(self, of_bags: Sequence[Tensor]) -> Int64[Tensor, "rows"]:
        """Rows of the pack: of each bag those that the bag calls 0, 1, …; given on the host or on the device."""
        shifted = [rows + start for rows, start in zip(of_bags, self.starts, strict=True)]
        return torch.cat(shifted).to(self.device, non_blocking=True)

    def first_rows(self, counts: Sequence[int]) -> Int64[Tensor, "rows"]:
        """The first `counts` rows of each bag. Of a single one nothing is copied to the device."""
        if len(counts) == 1:
            return torch.arange(counts[0], device=self.device)
        return self.rows([torch.arange(count) for count in counts])

    def softmax(self, energy_JN: Float[Tensor, "... J N"]) -> Float[Tensor, "B J N"]:
        """Each bag's softmax over its own instances, 0 elsewhere. The energies may differ by bag (B×J×N)."""
        return torch.where(self.is_own[:, None], energy_JN, -torch.inf).softmax(dim=2)

    def sums(
        self,
        weights_BJN: Float[Tensor, "B J N"],
        values_ND: Float[Tensor, "N D"],
    ) -> Float[Tensor, "B J D"]:
        """Weighted sums over each bag's instances; the weights of other bags' are 0."""
        return (weights_BJN.flatten(0, 1) @ values_ND).view(*weights_BJN.shape[:2], -1)

    def ranked(self, score_JN: Shaped[Tensor, "J N"]) -> Int64[Tensor, "J N"]:
        """Rows by score, best first, within each bag; the bags stay in their places. Ties go to the lower row."""
        order_JN = score_JN.argsort(dim=1, descending=True, stable=True)
        return order_JN.gather(1, self.bag_of_rows[order_JN].argsort(dim=1, stable=True))


def own_weights(weights_BJN: Float[Tensor, "B J N"]) -> Float[Tensor, "J N"]:
    """What `Pack.softmax` gave every instance in its own bag."""
    return weights_BJN.sum(dim=0)


class PackedDraws(Draws):
    """The bags' own randomness, for tensors whose rows are those of a pack: each bag's rows are dropped out as they
    are when it is alone. Other draws are each bag's (`of_bags`)."""

    def __init__(self, of_bags: Sequence[Draws], lengths: Sequence[int]) -> None:
        self.of_bags = tuple(of_bags)
        self._lengths = tuple(lengths)

    def stream(self, name: str) -> "PackedDraws":
        return PackedDraws([draws.stream(name) for draws in self.of_bags], self._lengths)

    def over(self, lengths: Sequence[int]) -> "PackedDraws":
        """The same draws for bags of other lengths."""
        return PackedDraws(self.of_bags, lengths)

    def keep(self, purpose: str, shape: Sequence[int], rate: float, device: torch.device = CPU) -> Keep:
        assert shape[0] == sum(self._lengths), (shape, self._lengths)
        bags = zip(self.of_bags, self._lengths, strict=True)
        keeps = [of_bag.keep(purpose, (length, *shape[1:]), rate, device) for of_bag, length in bags]
        return Keep(torch.cat([keep.is_kept for keep in keeps]), keeps[0].scale)
