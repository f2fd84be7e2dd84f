"""Positions on a grid against torch's convolution and its gradients."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mhim_core.mil.token_grid import encode_positions


def by_convolution(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    instances, width = x[1:], kernel.shape[-1]
    side = math.ceil(math.sqrt(len(instances)))
    cells = torch.cat([instances, instances[: side**2 - len(instances)]])
    if side < width:
        cells, side = F.pad(cells, (0, 0, 0, width**2 - side**2)), width
    grid = cells.T.view(1, -1, side, side)
    encoded = F.conv2d(grid, kernel, bias, padding=width // 2, groups=len(kernel)).flatten(2)[0].T
    return torch.cat([x[:1], instances + encoded[: len(instances)]])


def arguments(num: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num)
    shapes = [(num + 1, 3), (3, 1, width, width), (3,)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("num", [1, 2, 5, 10, 36, 49, 60, 81])
def test_it_is_torchs_convolution_with_its_gradients(num: int) -> None:
    tensors = arguments(num, 7)
    result, expected = encode_positions(*tensors), by_convolution(*tensors)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    fast, slow = (torch.autograd.grad(x.sin().sum(), tensors) for x in (result, expected))
    for gradient, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(encode_positions, arguments(7, 3))
