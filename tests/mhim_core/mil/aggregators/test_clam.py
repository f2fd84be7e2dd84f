"""CLAM: its branches, its clusters and what they add to the task loss."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mhim_core.mil.aggregator import BagOutput
from mhim_core.mil.aggregators.clam import ClamMb, ClamSb
from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import ModelOptions
from mhim_core.types import BagId

BAG_LOSS = torch.tensor(2.0, dtype=torch.float64)
DRAWS = Draws(0, 0, BagId("a"))


def make(weight: float = 0.3, num_sampled: int = 8, name: str = "clam-sb", subtyping: bool = False) -> ClamSb:
    options = ModelOptions(
        aggregator=name,
        embed_dim=16,
        dropout=0.0,
        clam_instance_weight=weight,
        clam_num_sampled=num_sampled,
        clam_subtyping=subtyping,
    )
    aggregator = (ClamMb if name == "clam-mb" else ClamSb)(3, options).double()
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


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("name", ["clam-sb", "clam-mb"])
def test_subtyping_tells_the_other_classes_that_what_is_attended_is_not_theirs(name: str, label: int) -> None:
    aggregator, h = make(name=name, subtyping=True), instances(40)
    output = aggregator(h, DRAWS)
    losses = []
    for index, head in enumerate(aggregator.instance_heads):
        order = output.attention_HN[index if name == "clam-mb" else 0].argsort(descending=True)
        own = index == label
        rows = torch.cat([order[:8], order[-8:]]) if own else order[:8]
        targets = torch.tensor([1] * 8 + [0] * 8 if own else [0] * 8)
        losses.append(F.cross_entropy(head(h[rows]), targets))
    expected = 0.7 * BAG_LOSS + 0.3 * sum(losses) / 3
    torch.testing.assert_close(loss(aggregator, output, label), expected)


def test_each_branch_makes_its_classes_logit_from_its_own_attention() -> None:
    aggregator, h = make(name="clam-mb"), instances(9)
    output = aggregator(h)
    assert output.attention_HN.shape == (3, 9)
    for index in range(3):
        feature = output.attention_HN[index] @ h
        torch.testing.assert_close(output.feature_D[index], feature)
        torch.testing.assert_close(output.logits_C[index], aggregator.head(feature)[index])
    evidence = aggregator.instance_logits(h, output).sum(dim=0)
    torch.testing.assert_close(evidence + aggregator.head.bias, output.logits_C)
    torch.testing.assert_close(aggregator.attention_score(output)[0], output.attention_HN.amax(dim=0))


def test_with_one_output_the_branches_are_one() -> None:
    options = ModelOptions(aggregator="clam-mb", embed_dim=16, dropout=0.0)
    many, single = ClamMb(1, options), ClamSb(1, options)
    single.load_state_dict(many.state_dict())
    h = instances(7).float()
    for draws in (None, DRAWS):
        torch.testing.assert_close(many(h, draws).logits_C, single(h, draws).logits_C)


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
