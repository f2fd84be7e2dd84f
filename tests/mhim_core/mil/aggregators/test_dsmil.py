"""DSMIL: two streams, one embedding per class."""

import torch

from mhim_core.mil.aggregators.dsmil import Dsmil
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import ModelOptions, Score
from mhim_core.mil.scoring import score_instances

MODEL = build_model(10, 3, ModelOptions(aggregator="dsmil", embed_dim=16), seed="s", dtype=torch.float64)
H = torch.randn(12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def aggregator() -> Dsmil:
    assert isinstance(MODEL.aggregator, Dsmil)
    return MODEL.aggregator


def test_the_logits_are_half_the_bags_and_half_the_critical_instances() -> None:
    output = aggregator()(H)
    best = aggregator().instance_logits(H, output).amax(dim=0)
    torch.testing.assert_close(2 * output.logits_C, aggregator().bag_logits(output.feature_D) + best)


def test_the_critical_instance_attends_to_its_likes() -> None:
    output = aggregator()(H)
    critical = aggregator().instance_logits(H, output).argmax(dim=0)
    doubled = torch.cat([H, H[critical[:1]]])
    attention_CN = aggregator()(doubled).attention_HN
    torch.testing.assert_close(attention_CN[0, critical[0]], attention_CN[0, -1])


def test_both_class_aware_scores_are_the_largest_logit_and_classes_do_not_vote() -> None:
    output = aggregator()(H)
    expected = aggregator().instance_logits(H, output).amax(dim=1)
    for score in (Score.margin, Score.softmax_max):
        assert torch.equal(score_instances(MODEL, H, output, score)[0], expected)
    by_attention = score_instances(MODEL, H, output, Score.attention)
    assert torch.equal(by_attention[0], output.attention_HN.amax(dim=0))


def test_the_bag_logits_join_all_classes_embeddings() -> None:
    feature_CD = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight, bias = aggregator().bag_head.weight, aggregator().bag_head.bias
    assert bias is not None
    expected = torch.einsum("ocd,cd->o", weight, feature_CD) + bias
    torch.testing.assert_close(aggregator().bag_logits(feature_CD), expected)
