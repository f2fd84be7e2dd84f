"""Projections and means against the layers written out."""

import pytest
import torch

from mhim_core.mil.projections import project

DIM, MEANS = 3, 4


def written_out(x: torch.Tensor, weight: torch.Tensor, first_only: bool) -> list[torch.Tensor]:
    query, key, value = (x @ weight.T).chunk(3, dim=1)
    padded = torch.cat([x.new_zeros(-len(x) % MEANS, DIM), x])
    mean = padded.view(MEANS, -1, DIM).mean(dim=1)
    return [query[:1], key, mean] if first_only else [query, key, value, mean]


@pytest.mark.parametrize("num", [1, 2, 4, 5, 8, 11])
@pytest.mark.parametrize("first_only", [False, True])
def test_they_are_the_layers_with_their_gradients(num: int, first_only: bool) -> None:
    generator = torch.Generator().manual_seed(num)
    x = torch.randn(num, DIM, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(3 * DIM, DIM, dtype=torch.float64, generator=generator).requires_grad_()
    result = [part for part in project(x, weight, MEANS, first_only=first_only) if part is not None]
    expected = written_out(x, weight, first_only)
    for part, other in zip(result, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-9, atol=1e-12)
    fast, slow = (
        torch.autograd.grad(sum(part.sin().sum() for part in parts), [x, weight]) for parts in (result, expected)
    )
    for gradient, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda *inputs: tuple(part for part in project(*inputs, MEANS, first_only=first_only) if part is not None),
        (x, weight),
    )
