"""What the bags of a step add up to over all ranks: gradients, the mean of the recycled tokens, an aggregator's notes.

Floating-point sums depend on their order, and a library's all-reduce has one for each number of ranks. Here one bag is
added after the other in the order of the global batch, whichever rank holds it: the sum is, bit for bit, that of one
worker, which adds every bag's gradient to those before it.

Shape suffixes: W ranks, R rows of a rank, P elements of a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mhim_core.mil.model import MilModel
from mhim_core.train.context import TrainContext

MAX_BUFFER_BYTES = 256 * 2**20
"""Of a rank's gradients that wait for the exchange; a larger share is exchanged in several parts."""

_NOTHING = -0.0
"""What is added where there is nothing to add: it leaves every number as it is, a zero's sign included."""


class StepSums(NamedTuple):
    """What a step sums up beside the gradients."""

    mean_token_kD: Tensor | None
    """The mean of T over the bags that recycled anything, the queries themselves if none did; None: nothing ever is."""
    notes: Tensor | None = None
    """The sum of `Aggregator.take_notes`; None: the aggregator takes none."""


class BagSums:
    """The sums of one step over its global batch. Collective: every rank makes one, with an empty share too.

    A single worker's gradients are summed by autograd where they are. With several, each bag's are a row of numbers:
    the rows travel so that every rank gets one part of all, adds it up in the batch's order, and passes the sum on.
    That is the traffic of an all-reduce, once for each bag of a rank's share.
    """

    def __init__(self, student: MilModel, context: TrainContext, num_bags: int) -> None:
        """`num_bags`: the size of the global batch, of which rank r holds the bags r, r + W, r + 2 W, …"""
        self._student, self._context = student, context
        self._parameters = list(student.parameters())
        self._queries_kD = None if student.recycle is None else student.recycle.queries
        self._tokens: list[Tensor] = []
        self._no_notes = student.aggregator.no_notes()
        self._notes = self._no_notes
        self._rows: list[Tensor] = []
        self._sum_C: Tensor | None = None
        self._num_left = num_bags
        self._rounds_left = -(-num_bags // context.world_size)
        bytes_each = sum(parameter.numel() * parameter.element_size() for parameter in self._parameters)
        self._most_rows = max(1, MAX_BUFFER_BYTES // max(1, bytes_each))

    def add(self, tokens_kD: Tensor | None, notes: Tensor | None = None) -> None:
        """After a bag's backward pass, with what was recycled of it and noted about it."""
        if self._context.world_size == 1:
            self._num_left -= 1
            if self._num_left:
                self.separate()
            if tokens_kD is not None:
                self._tokens.append(tokens_kD.detach())
            self._note(notes)
            return
        self._rows.append(self._row([] if tokens_kD is None else [tokens_kD.detach()], notes))
        for parameter in self._parameters:
            parameter.grad = None
        if len(self._rows) == self._most_rows:
            self._exchange()

    def add_share(self, tokens: Sequence[Tensor], notes: Sequence[Tensor] = ()) -> None:
        """Instead of `add`, once: after the backward passes of this rank's share, of whose gradients the sum alone is
        known, with what was recycled of and noted about each bag. To the exchange a share is then what a bag is:
        `num_bags` = W."""
        if self._context.world_size == 1:
            self._tokens += tokens
            for of_bag in notes:
                self._note(of_bag)
            return
        self._rows.append(self._row(tokens, torch.stack(list(notes)).sum(dim=0) if notes else None))
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def finish(self) -> StepSums:
        """Every parameter's gradient is the sum over the global batch; returns what else was summed.

        A parameter that had no gradient from any bag keeps none, so that Adam leaves it untouched, weight decay
        included.
        """
        if self._context.world_size == 1:
            return StepSums(self._mean_token(self._packed(self._tokens)), self._notes)
        while self._rounds_left:
            self._exchange()
        assert self._sum_C is not None
        sum_P = self._context.all_gather(self._sum_C).flatten()
        sizes = [parameter.numel() for parameter in self._parameters]
        parts = [*sizes, len(sizes), self._num_packed, 0 if self._no_notes is None else self._no_notes.numel()]
        *gradients, flags, packed, notes = sum_P[: sum(parts)].split(parts)
        # one read-back per step, with several ranks only
        for parameter, gradient, num in zip(self._parameters, gradients, flags.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if num > 0 else None
        return StepSums(self._mean_token(packed), None if self._no_notes is None else notes.view_as(self._no_notes))

    def separate(self) -> None:
        """Give every gradient memory of its own, before another bag's is added to it in place.

        Autograd may hand out views of one tensor, as for `torch.stack(biases).sum(0)`: what is added to one of them
        would then be added to all.
        """
        memories: set[int] = set()
        for parameter in self._parameters:
            if parameter.grad is not None:
                memory = parameter.grad.untyped_storage().data_ptr()
                if memory in memories:
                    parameter.grad = parameter.grad.clone()
                memories.add(memory)

    @property
    def _num_packed(self) -> int:
        """Elements of the tokens' sum and, at its end, of how many bags it is."""
        return 0 if self._queries_kD is None else self._queries_kD.numel() + 1

    @torch.no_grad()
    def _row(self, tokens: Sequence[Tensor], notes: Tensor | None = None) -> Tensor:
        """A bag's gradients, flags of those that it has, its tokens and their number, its notes; filled up to W equal
        parts."""
        like = self._parameters[0]
        flags = [float(parameter.grad is not None) for parameter in self._parameters]
        pieces = [
            torch.full_like(parameter, _NOTHING).flatten() if parameter.grad is None else parameter.grad.flatten()
            for parameter in self._parameters
        ]
        packed = self._packed(tokens)
        pieces += [like.new_tensor(flags)] + ([] if packed is None else [packed])
        if self._no_notes is not None:
            pieces.append((self._no_notes if notes is None else notes).flatten())
        num_more = -sum(map(len, pieces)) % self._context.world_size
        return torch.cat([*pieces, like.new_zeros(num_more)])

    @torch.no_grad()
    def _exchange(self) -> None:
        """Add the bags that wait to the sums, in the batch's order; as many rounds on every rank."""
        num_rounds = min(self._rounds_left, self._most_rows)
        self._rounds_left -= num_rounds
        if len(self._rows) < num_rounds:  # this rank has no bag in the last round
            assert all(parameter.grad is None for parameter in self._parameters)
            self._rows += [self._row([])] * (num_rounds - len(self._rows))
        num_ranks = self._context.world_size
        rows_WRC = torch.stack(self._rows).unflatten(1, (num_ranks, -1)).transpose(0, 1).contiguous()
        self._rows = []
        received_WRC = self._context.transpose(rows_WRC)
        for row_C in received_WRC.transpose(0, 1).flatten(0, 1):
            self._sum_C = row_C.clone() if self._sum_C is None else self._sum_C.add_(row_C)

    def _note(self, notes: Tensor | None) -> None:
        if notes is not None:
            self._notes = notes if self._notes is None else self._notes + notes

    def _packed(self, tokens: Sequence[Tensor]) -> Tensor | None:
        """The sum of the bags' tokens, flat, and at its end of how many bags it is; None where nothing is recycled."""
        if self._queries_kD is None:
            return None
        packed = self._queries_kD.new_zeros(self._num_packed)
        for tokens_kD in tokens:
            packed[:-1] += tokens_kD.flatten()
        packed[-1] = len(tokens)
        return packed

    def _mean_token(self, packed: Tensor | None) -> Tensor | None:
        if packed is None or self._queries_kD is None:
            return None  # nothing is ever recycled
        mean_kD = (packed[:-1] / packed[-1].clamp(min=1)).view_as(self._queries_kD)
        return torch.where(packed[-1] > 0, mean_kD, self._queries_kD)
