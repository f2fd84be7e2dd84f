"""The approximate pseudo-inverse of Nyström attention, as a factor of products. Shape suffixes: see `nystrom`."""

import torch
from jaxtyping import Float
from torch import Tensor

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
        self._a_HMM, self._start_HMM = a_HMM, a_HMM.transpose(1, 2) * scale
        y_HMM = a_HMM @ self._start_HMM
        self._powers: list[tuple[Tensor, Tensor | None]] = []
        """Y of each iteration, and Y²; of the last, whose square nothing else needs, None."""
        for _ in range(ITERATIONS - 1):
            square_HMM = y_HMM @ y_HMM
            self._powers.append((y_HMM, square_HMM))
            linear_HMM = 13 * y_HMM - 15 * square_HMM
            y_HMM = torch.baddbmm(linear_HMM, square_HMM, 7 * y_HMM - square_HMM, beta=0.25, alpha=0.25)
        self._powers.append((y_HMM, None))

    def before(self, right_HMK: Float[Tensor, "H M K"]) -> Float[Tensor, "H M K"]:
        """Z·right."""
        return self._start_HMM @ self._apply(right_HMK)

    def after(self, left_HKM: Float[Tensor, "H K M"]) -> Float[Tensor, "H K M"]:
        """left·Z."""
        return self._apply(self._start_HMM.transpose(1, 2) @ left_HKM.transpose(1, 2)).transpose(1, 2)

    def _apply(self, x_HMK: Tensor) -> Tensor:
        for y_HMM, square_HMM in self._powers:
            once_HMK = y_HMM @ x_HMK
            rest_HMK = 7 * x_HMK - once_HMK
            rest_HMK = y_HMM @ (y_HMM @ rest_HMK) if square_HMM is None else square_HMM @ rest_HMK
            x_HMK = 0.25 * (13 * x_HMK - 15 * once_HMK + rest_HMK)
        return x_HMK
