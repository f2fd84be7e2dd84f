"""CLAM-SB: its clusters and what they add to the task loss."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mhim_core.mil.aggregator import BagOutput
from mhim_core.mil.clam import ClamSb
from mhim_core.mil.draws import Draws
from mhim_core.mil.options import ModelOptions
from mhim_core.types import BagId

BAG_LOSS = torch.tensor(2.0, dtype=torch.float64)
DRAWS = Draws(0, 0, BagId("a"))


def make(weight: float = 0.3, num_sampled: int = 8) -> ClamSb:
    options = ModelOptions(
        aggregator="clam-sb", embed_dim=16, dropout=0.0, clam_instance_weight=weight, clam_num_sampled=num_sampled
    )
    aggregator = ClamSb(3, options).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in aggregator.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / 4)
    return aggregator


def instances(num: int) -> torch.Tensor:
    return torch.randn(num, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(num))


def loss(aggregator: ClamSb, output: BagOutput, label: int) -> torch.Tensor:
    return aggregator.task_loss(BAG_LOSS, output, torch.tensor(label))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_bags_class_tells_the_most_from_the_least_attended(label: int) -> None:
    aggregator, h = make(), instances(40)
    output = aggregator(h, DRAWS)
    order = output.attention_HN[0].argsort(descending=True)
    head = aggregator.instance_heads[label]
    most, least = head(h[order[:8]]), head(h[order[-8:]])
    targets = torch.tensor([1] * 8 + [0] * 8)
    expected = 0.7 * BAG_LOSS + 0.3 * F.cross_entropy(torch.cat([most, least]), targets)
    torch.testing.assert_close(loss(aggregator, output, label), expected)


@pytest.mark.parametrize(("num", "sampled"), [(2, 2), (7, 6), (15, 14), (16, 16), (17, 16)])
def test_no_instance_of_a_small_bag_is_on_both_ends(num: int, sampled: int) -> None:
    output = make()(instances(num), DRAWS)
    assert output.auxiliary is not None
    assert output.auxiliary.shape == (3, sampled, 2)
    assert len(output.auxiliary[0].unique(dim=0)) == sampled


def test_a_bag_of_one_instance_has_the_bags_loss_alone() -> None:
    aggregator = make()
    assert torch.equal(loss(aggregator, aggregator(instances(1), DRAWS), 1), BAG_LOSS)


def test_weight_zero_and_inference_leave_the_bags_loss() -> None:
    assert torch.equal(loss(make(0.0), make(0.0)(instances(20), DRAWS), 1), BAG_LOSS)
    output = make()(instances(20))
    assert output.auxiliary is None
    assert torch.equal(loss(make(), output, 1), BAG_LOSS)


def test_without_a_class_there_is_the_bags_loss_alone() -> None:
    """Survival and regression."""
    aggregator = make()
    assert torch.equal(aggregator.task_loss(BAG_LOSS, aggregator(instances(20), DRAWS), None), BAG_LOSS)


def test_the_clusters_teach_the_embedding_but_not_the_attention() -> None:
    aggregator, h = make(), instances(40).requires_grad_()
    only_clusters = loss(aggregator, aggregator(h, DRAWS), 1)
    only_clusters.backward()
    assert h.grad is not None
    assert int((h.grad.abs().sum(dim=1) > 0).sum()) == 16
    assert aggregator.hidden.weight.grad is None
    assert aggregator.energy.weight.grad is None
