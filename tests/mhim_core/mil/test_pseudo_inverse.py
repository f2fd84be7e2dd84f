"""The factored pseudo-inverse against the iteration written out."""

import torch

from mhim_core.mil.pseudo_inverse import ITERATIONS, PseudoInverse


def invert(a_HMM: torch.Tensor) -> torch.Tensor:
    """Z ← ¼ Z(13I - AZ(15I - AZ(7I - AZ))), six times, from Aᵀ/(largest row sum · largest column sum)."""
    z_HMM = a_HMM.transpose(1, 2) / (a_HMM.abs().sum(dim=2).max() * a_HMM.abs().sum(dim=1).max())
    identity = torch.eye(a_HMM.shape[1], dtype=a_HMM.dtype)
    for _ in range(ITERATIONS):
        az = a_HMM @ z_HMM
        z_HMM = 0.25 * z_HMM @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az)))
    return z_HMM


def matrices(sharpness: float = 3.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    energy = torch.randn(3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (sharpness * energy).softmax(dim=2).to(dtype)


def test_products_and_gradients_are_those_of_the_iteration() -> None:
    generator = torch.Generator().manual_seed(1)
    right = torch.randn(3, 12, 5, dtype=torch.float64, generator=generator)
    left = torch.randn(3, 1, 12, dtype=torch.float64, generator=generator)
    for sharpness in (0.1, 1.0, 5.0):
        a = matrices(sharpness).requires_grad_()
        inverse, z = PseudoInverse(a), invert(a)
        fast, slow = [inverse.before(right), inverse.after(left)], [z @ right, left @ z]
        for result, expected in zip(fast, slow, strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
        # one after the other, and of both together
        for power in (1, 2):
            (gradient,) = torch.autograd.grad(sum(x.pow(power).sum() for x in fast), a, retain_graph=True)
            (expected,) = torch.autograd.grad(sum(x.pow(power).sum() for x in slow), a, retain_graph=True)
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_what_is_multiplied_takes_its_gradient_too() -> None:
    a, right = matrices(), torch.randn(3, 12, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: PseudoInverse(a).before(x), right)
    assert torch.autograd.gradcheck(lambda x: PseudoInverse(a).after(x.transpose(1, 2)), right)


def test_in_float32_its_error_is_bounded() -> None:
    """Of the largest number. The written-out iteration, which multiplies by A each time, is at 4e-7."""
    for sharpness in (0.3, 1.0, 3.0, 8.0):
        exact, identity = invert(matrices(sharpness)), torch.eye(12).expand(3, 12, 12)
        inverse = PseudoInverse(matrices(sharpness, torch.float32)).before(identity)
        assert float((inverse - exact).abs().max() / exact.abs().max()) < 1e-4


def test_well_conditioned_matrices_are_inverted() -> None:
    energy = torch.randn(3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = (energy + 6 * torch.eye(12)).softmax(dim=2)
    torch.testing.assert_close(PseudoInverse(a).before(a), torch.eye(12).double().expand(3, 12, 12), rtol=0, atol=1e-6)


def test_it_starts_from_two_numbers_over_all_heads() -> None:
    energy = torch.randn(2, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near_uniform, peaked = (0.1 * energy[0]).softmax(dim=2), (5 * energy[1]).softmax(dim=2)
    identity = torch.eye(12).double()[None]
    alone = PseudoInverse(near_uniform).before(identity)
    beside = PseudoInverse(torch.cat([near_uniform, peaked])).before(identity.expand(2, 12, 12))[:1]
    assert float((alone - beside).abs().max()) > 1e-6
