"""How the instances of a bag lie to each other: the orders in which they are walked, and their tree (MamMIL).

Shape suffixes: see the package's docstring; P = 4 orders. No method waits for the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mhim_core.bags import Beside
from mhim_core.mil.tissue_tree import NUM_ORDERS, TREE_NAME, tissue_tree


class Layout(NamedTuple):
    """Of one bag. A subset inherits it: a student walks its teacher's paths and steps over what it is not shown."""

    rank_PN: Int64[Tensor, "P N"]
    """Each instance's place in each order: as stored, depth-first pre-order and post-order, breadth-first."""
    parent_N: Int64[Tensor, "N"]
    """The row of each instance's parent; -1: a root."""

    @classmethod
    def path(cls, num: int, device: torch.device) -> "Layout":
        """The rows one after another: a tree without a branch, whose post-order is the way back."""
        rows = torch.arange(num, device=device)
        return cls(torch.stack([rows, rows, rows.flip(0), rows]), rows - 1)

    @classmethod
    def of_arrays(cls, arrays: Sequence[np.ndarray]) -> "Layout":
        """Of a bag's slides, one after another, from what `TREE_BESIDE` made of each: no edge joins two slides."""
        ranks, parents, start = [], [], 0
        for array in arrays:
            columns = torch.from_numpy(array.astype(np.int64)).T
            ranks.append(columns[:NUM_ORDERS] + start)
            parents.append(torch.where(columns[NUM_ORDERS] < 0, -1, columns[NUM_ORDERS] + start))
            start += len(array)
        return cls(torch.cat(ranks, dim=1), torch.cat(parents))

    @property
    def num(self) -> int:
        """N."""
        return len(self.parent_N)

    def to(self, device: torch.device) -> "Layout":
        """The same there."""
        return Layout(self.rank_PN.to(device, non_blocking=True), self.parent_N.to(device, non_blocking=True))

    def orders(self) -> Int64[Tensor, "P N"]:
        """The rows in each order."""
        return self.rank_PN.argsort(dim=1)

    def select(self, rows_K: Int64[Tensor, "K"]) -> "Layout":
        """Of these rows, each at most once, in any order: every order without the others, every row below its nearest
        ancestor among them. A row that has none is a root."""
        num, device = self.num, rows_K.device
        new = torch.full((num + 1,), -1, device=device)
        new[rows_K] = torch.arange(len(rows_K), device=device)
        up = torch.cat([self.parent_N, self.parent_N.new_full((1,), -1)])
        up = torch.where(up < 0, num, up)  # row `num` stands above every root
        is_end = new >= 0
        is_end[num] = True
        nearest = torch.where(is_end, torch.arange(num + 1, device=device), up)
        for _ in range(num.bit_length()):
            nearest = nearest[nearest]
        return Layout(self.rank_PN[:, rows_K].argsort(dim=1).argsort(dim=1), new[nearest[up[rows_K]]])

    def with_tokens(self, num_tokens: int) -> "Layout":
        """With rows behind that lie nowhere: last in every order, and without neighbours."""
        last = torch.arange(self.num, self.num + num_tokens, device=self.parent_N.device)
        none = torch.full_like(last, -1)
        return Layout(torch.cat([self.rank_PN, last.expand(NUM_ORDERS, -1)], 1), torch.cat([self.parent_N, none]))


def tree_array(features: np.ndarray, coords_l0_px: np.ndarray) -> np.ndarray:
    """A slide's tree as int32 (N, 5): the places in the four orders, the parent."""
    tree = tissue_tree(features, coords_l0_px)
    return np.ascontiguousarray(np.concatenate([tree.rank_PN, tree.parent_N[None]]).T)


TREE_BESIDE = Beside(TREE_NAME, NUM_ORDERS + 1, tree_array)
"""What is kept of a slide beside its features for aggregators that ask for places."""
