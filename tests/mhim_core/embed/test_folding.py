import copy

import pytest
import torch
from torch import nn

from mhim_core.embed.folding import fold_batch_norms
from mhim_core.errors import EncoderError


def network() -> nn.Module:
    """A convolution, its norm and a head, with norms that have seen data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    model(torch.rand(4, 3, 32, 32))
    return model.eval()


def test_a_folded_network_is_the_same_function_without_norms() -> None:
    model = network()
    folded = copy.deepcopy(model)
    fold_batch_norms(folded, 32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


class Reversed(nn.Module):
    """Registers the convolution first and applies it last: folding would change the function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean += torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.relu(self.norm(x))).mean((2, 3))


@pytest.mark.parametrize("model", [Reversed(), nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())])
def test_a_network_that_cannot_be_folded_faithfully_is_refused(model: nn.Module) -> None:
    with pytest.raises(EncoderError, match="not the same network"):
        fold_batch_norms(model, 8)
