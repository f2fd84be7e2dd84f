"""The teacher's scores."""

import pytest
import torch

from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import ModelOptions, Score
from mhim_core.mil.scoring import margin, max_softmax, score_instances


def logits(num: int, num_classes: int) -> torch.Tensor:
    return torch.randn(num, num_classes, dtype=torch.float64, generator=torch.Generator().manual_seed(num_classes))


def test_the_margin_ranks_as_the_largest_softmax_does() -> None:
    for num_classes in (2, 3, 7):
        logits_NC = logits(100, num_classes)
        assert torch.equal(margin(logits_NC).argsort(), max_softmax(logits_NC).argsort())


def test_the_margin_of_two_classes_is_the_absolute_difference() -> None:
    logits_NC = logits(100, 2)
    assert torch.equal(margin(logits_NC), (logits_NC[:, 1] - logits_NC[:, 0]).abs())


def test_the_margin_does_not_tie_where_the_softmax_saturates() -> None:
    logits_NC = torch.stack([torch.zeros(1000), torch.linspace(1e-12, 1e-8, 1000)], dim=1)
    assert max_softmax(logits_NC).unique().numel() == 1
    assert margin(logits_NC).unique().numel() == 1000


def test_each_score_has_its_shape_and_attention_is_the_models_own() -> None:
    model = build_model(10, 3, ModelOptions(embed_dim=16), seed="s")
    h = model.embed_instances(torch.randn(12, 10))
    output = model.aggregator(h)
    for score in Score:
        assert score_instances(model, h, output, score).shape == (1, 12)
    assert torch.equal(score_instances(model, h, output, Score.attention), output.attention_HN)


@pytest.mark.parametrize("aggregator", ["abmil", "transmil", "dsmil", "clam-sb"])
@pytest.mark.parametrize("score", [Score.margin, Score.softmax_max])
def test_one_output_scores_by_the_size_of_the_evidence(aggregator: str, score: Score) -> None:
    model = build_model(10, 1, ModelOptions(embed_dim=16, aggregator=aggregator), seed="s").requires_grad_(False)
    h = model.embed_instances(torch.randn(200, 10))
    output = model.aggregator(h)
    evidence = model.aggregator.instance_logits(h, output)
    assert evidence.shape == (200, 1)
    assert evidence.min() < 0 < evidence.max()
    assert torch.equal(score_instances(model, h, output, score), evidence.T.abs())


def test_survival_scores_as_classification_over_its_time_bins() -> None:
    """Nothing in the score knows which: C logits are C logits."""
    logits_NC = logits(50, 4)
    assert torch.equal(margin(logits_NC).argsort(), max_softmax(logits_NC).argsort())
    assert torch.isfinite(margin(logits_NC)).all()


def test_the_heads_bias_does_not_enter_the_score() -> None:
    model = build_model(10, 3, ModelOptions(embed_dim=16), seed="s")
    h = model.embed_instances(torch.randn(12, 10))
    before = score_instances(model, h, model.aggregator(h), Score.margin)
    with torch.no_grad():
        model.aggregator.head.bias += torch.tensor([5.0, -3.0, 0.0])
    assert torch.equal(before, score_instances(model, h, model.aggregator(h), Score.margin))
