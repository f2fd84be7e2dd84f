"""Filters along a sequence against torch's convolution."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mhim_core.mil.token_convolution import convolve_tokens

HEADS, WIDTH, TAPS = 2, 3, 33


@pytest.mark.parametrize("num", [1, 16, 32, 33, 100])
def test_it_is_torchs_convolution_with_its_gradients(num: int) -> None:
    generator = torch.Generator().manual_seed(num)
    x = torch.randn(num, HEADS * WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    taps = torch.randn(HEADS, TAPS, dtype=torch.float64, generator=generator).requires_grad_()
    grid = x.unflatten(1, (HEADS, WIDTH)).permute(1, 0, 2)[None]
    expected = F.conv2d(grid, taps[:, None, :, None], padding=(TAPS // 2, 0), groups=HEADS)[0]
    result = convolve_tokens(x, taps)
    torch.testing.assert_close(result, expected.transpose(0, 1).flatten(1), rtol=1e-9, atol=1e-12)
    fast = torch.autograd.grad(result.sin().sum(), [x, taps])
    slow = torch.autograd.grad(expected.sin().sum(), [x, taps])
    for gradient, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolve_tokens, (x, torch.randn(2, 3, dtype=torch.float64, requires_grad=True)))
