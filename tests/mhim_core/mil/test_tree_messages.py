"""Messages along a tree's edges, against a loop over neighbours."""

import pytest
import torch

from mhim_core.mil import tree_messages
from mhim_core.mil.tree_messages import receive

PARENTS = torch.tensor([-1, 0, 0, 2, 2, 2, -1, 6, -1])


def by_loop(h_ND: torch.Tensor, sharpness: torch.Tensor) -> torch.Tensor:
    rows = []
    for row in range(len(h_ND)):
        neighbours = [other for other in range(len(h_ND)) if PARENTS[other] == row or PARENTS[row] == other]
        message = h_ND[neighbours].relu() + 1e-7
        rows.append(((sharpness * message).softmax(dim=0) * message).sum(dim=0) if neighbours else h_ND[row] * 0)
    return torch.stack(rows)


@pytest.mark.parametrize("values_at_once", [2**21, 20])
def test_a_row_receives_the_softmax_of_its_parent_and_children(
    values_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_messages, "VALUES_AT_ONCE", values_at_once)
    generator = torch.Generator().manual_seed(0)
    h_ND = (5 * torch.randn(9, 7, dtype=torch.float64, generator=generator)).requires_grad_()
    sharpness = torch.tensor([1.7], dtype=torch.float64, requires_grad=True)
    actual, expected = receive(h_ND, PARENTS, sharpness), by_loop(h_ND, sharpness)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert torch.count_nonzero(actual[8]) == 0, "alone"
    weight = torch.randn(actual.shape, dtype=torch.float64, generator=generator)
    gradients = [torch.autograd.grad((result * weight).sum(), [h_ND, sharpness]) for result in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def test_energies_far_apart_stay_finite() -> None:
    h_ND = torch.full((9, 3), 200.0)
    h_ND[2] = 1e4
    h_ND = h_ND.requires_grad_()
    received = receive(h_ND, PARENTS, torch.tensor([8.0]))
    assert torch.isfinite(received).all()
    assert torch.isfinite(torch.autograd.grad(received.sum(), h_ND)[0]).all()
