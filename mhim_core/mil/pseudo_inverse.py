"""The approximate pseudo-inverse of Nyström attention, as a factor of products. Shape suffixes: see `nystrom`."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

ITERATIONS = 6


class PseudoInverse:
    """Z of Z ← ¼ Z(13I - AZ(15I - AZ(7I - AZ))), six times, of row-stochastic matrices A; what it is multiplied with.

    It starts at Aᵀ/s, s = (largest row sum · largest column sum): two numbers over all heads of the bag, with gradient.
    So AZ starts at the symmetric Y = AAᵀ/s and stays a polynomial of it. All of them commute: Y ← ¼ Y(13I - Y(15I -
    Y(7I - Y))) needs two products instead of four, and Z = Aᵀ/s · ∏ ¼(13I - Y(15I - Y(7I - Y))) is applied to the
    few columns or rows that it is multiplied with, never written.
    """

    def __init__(self, a_HMM: Float[Tensor, "H M M"]) -> None:
        magnitude_HMM = a_HMM.abs()
        scale = 1 / (magnitude_HMM.sum(dim=2).max() * magnitude_HMM.sum(dim=1).max())
        self._start_HMM = a_HMM.transpose(1, 2) * scale
        y_HMM = a_HMM @ self._start_HMM
        powers = _Powers.apply(y_HMM)
        self._iterates = [y_HMM, *powers[ITERATIONS - 1 :]]
        self._squares = powers[: ITERATIONS - 1]

    def before(self, right_HMK: Float[Tensor, "H M K"]) -> Float[Tensor, "H M K"]:
        """Z·right."""
        return self._start_HMM @ self._apply(right_HMK.transpose(1, 2)).transpose(1, 2)

    def after(self, left_HKM: Float[Tensor, "H K M"]) -> Float[Tensor, "H K M"]:
        """left·Z."""
        return self._apply(left_HKM @ self._start_HMM)

    def _apply(self, x_HKM: Tensor) -> Tensor:
        # rows times matrices: of few rows these are several times faster than matrices times columns
        for step, y_HMM in enumerate(self._iterates):
            once_HKM = x_HKM @ y_HMM
            rest_HKM = 7 * x_HKM - once_HKM
            last = step == ITERATIONS - 1  # nothing else needs the square of the last
            rest_HKM = (rest_HKM @ y_HMM) @ y_HMM if last else rest_HKM @ self._squares[step]
            x_HKM = 0.25 * (13 * x_HKM - 15 * once_HKM + rest_HKM)
        return x_HKM


class _Powers(torch.autograd.Function):
    """Y² of each iteration but the last, then Y of each but the first.

    Only the symmetric part of a gradient matters, as Y itself is symmetric: where a product's two factors are the same
    or commute, one product of the backward pass and its transpose stand for two.
    """

    @staticmethod
    def forward(ctx: Any, y_HMM: Tensor) -> tuple[Tensor, ...]:
        iterates, squares = [y_HMM], []
        for _ in range(ITERATIONS - 1):
            y_HMM = iterates[-1]
            square_HMM = y_HMM @ y_HMM
            linear_HMM = torch.sub(13 * y_HMM, square_HMM, alpha=15)
            iterates.append(torch.baddbmm(linear_HMM, square_HMM, 7 * y_HMM - square_HMM, beta=0.25, alpha=0.25))
            squares.append(square_HMM)
        ctx.save_for_backward(*iterates[:-1], *squares)
        return *squares, *iterates[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        iterates, squares = ctx.saved_tensors[: ITERATIONS - 1], ctx.saved_tensors[ITERATIONS - 1 :]
        of_squares, of_iterates = gradients[: ITERATIONS - 1], gradients[ITERATIONS - 1 :]
        gradient_HMM = torch.zeros_like(iterates[0])
        for step in reversed(range(ITERATIONS - 1)):
            y_HMM, square_HMM = iterates[step], squares[step]
            gradient_HMM += of_iterates[step]
            gradient_HMM = (gradient_HMM + gradient_HMM.transpose(1, 2)).mul_(0.125)
            product_HMM = square_HMM @ gradient_HMM
            half_HMM = torch.baddbmm(product_HMM, gradient_HMM, y_HMM, beta=-1, alpha=3.5)
            half_HMM.add_(of_squares[step], alpha=0.5).add_(gradient_HMM, alpha=-7.5)
            linear_HMM = torch.add(7 * product_HMM, gradient_HMM, alpha=13)
            gradient_HMM = linear_HMM.baddbmm_(half_HMM + half_HMM.transpose(1, 2), y_HMM, alpha=2)
        return gradient_HMM
