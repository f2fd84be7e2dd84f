"""TransMIL: its grid of positions, its order, its evidence."""

import pytest
import torch

from mhim_core.mil.aggregators.transmil import PositionEncoding, Transmil
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import ModelOptions

OPTIONS = ModelOptions(aggregator="transmil", embed_dim=16)


def make() -> Transmil:
    aggregator = build_model(10, 3, OPTIONS, seed="s", dtype=torch.float64).aggregator
    assert isinstance(aggregator, Transmil)
    return aggregator


def instances(num: int, dim: int = 16) -> torch.Tensor:
    return torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(num))


def shifting(kernel: int, down: int, right: int) -> PositionEncoding:
    """All weights zero but one tap of one convolution: each cell takes its neighbour's value."""
    positions = PositionEncoding(4).double().requires_grad_(False)
    for parameter in positions.parameters():
        parameter.zero_()
    convolution = {7: positions.conv7, 5: positions.conv5, 3: positions.conv3}[kernel]
    convolution.weight[:, 0, kernel // 2 + down, kernel // 2 + right] = 1
    return positions


def encoded(positions: PositionEncoding, x: torch.Tensor) -> torch.Tensor:
    """Of the instances, behind a CLS token."""
    cls_token = torch.full_like(x[:1], 7.0)
    result = positions(torch.cat([cls_token, x]))
    assert torch.equal(result[:1], cls_token)
    return result[1:]


@pytest.mark.parametrize("kernel", [7, 5, 3])
def test_instances_lie_row_major_on_the_smallest_square(kernel: int) -> None:
    x = instances(60, 4)  # 8 × 8, the last four cells repeat the first four instances
    cells = torch.cat([x, x[:4]])
    right, below = (encoded(shifting(kernel, *by), x) - x for by in ((0, 1), (1, 0)))
    for cell in range(60):
        torch.testing.assert_close(right[cell], torch.zeros_like(x[0]) if cell % 8 == 7 else cells[cell + 1])
        torch.testing.assert_close(below[cell], torch.zeros_like(x[0]) if cell >= 56 else cells[cell + 8])


@pytest.mark.parametrize("num", [1, 2, 5, 10, 36])
def test_a_small_square_is_filled_first_and_then_extended_by_zeros(num: int) -> None:
    x = instances(num, 4)
    side = next(side for side in range(1, 8) if side**2 >= num)
    cells = torch.cat([x, x[: side**2 - num], torch.zeros(49 - side**2, 4, dtype=x.dtype)])
    below = encoded(shifting(3, 1, 0), x) - x
    torch.testing.assert_close(below, cells[7 : 7 + num])


def test_without_weights_the_positions_change_nothing() -> None:
    positions = PositionEncoding(4).double().requires_grad_(False)
    for parameter in positions.parameters():
        parameter.zero_()
    assert torch.equal(encoded(positions, instances(50, 4)), instances(50, 4))


def test_the_order_of_instances_matters() -> None:
    aggregator, h = make(), instances(30)
    logits_C, reversed_ = aggregator(h).logits_C.detach(), aggregator(h.flip(0)).logits_C.detach()
    assert float((logits_C - reversed_).abs().max()) > 1e-6


def test_the_bag_embedding_is_layer_normed() -> None:
    feature = make()(instances(30)).feature_D.detach()
    assert abs(float(feature.mean())) < 1e-12
    assert float(feature.var(unbiased=False)) == pytest.approx(1, abs=1e-3)


def test_evidence_is_what_attention_brings_to_the_cls_token() -> None:
    """Summed over instances: the first layer's output at CLS less its own share, convolution and repeated bias."""
    aggregator, h = make(), instances(30)
    attention = aggregator.layer1.attention
    with torch.no_grad():
        attention.res_conv.weight.zero_()
        output = aggregator(h)
        evidence = aggregator.instance_logits(h, output).sum(dim=0)
        first = attention(aggregator.layer1.norm(torch.cat([aggregator.cls_token, h])))
        cls_value = attention.value_weight_HED @ aggregator.layer1.norm(aggregator.cls_token)[0]
        own = attention.to_out((first.first_row_HT[:, :1] * cls_value).flatten())
        bias = 30 * attention.to_out.bias
        expected = (first.tokens_QD[0] - own + bias) @ aggregator.head.weight.T
    torch.testing.assert_close(evidence, expected)


def test_attention_sums_to_about_one() -> None:
    """Landmarks and CLS take a share, and the inverse is approximate."""
    sums = make()(instances(500)).attention_HN.sum(dim=1)
    assert sums.shape == (8,)
    assert float(sums.max()) <= 1 + 1e-2
    assert float(sums.min()) > 0.5
