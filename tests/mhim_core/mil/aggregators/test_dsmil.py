"""DSMIL: two streams, one embedding per class."""

import torch

from mhim_core.fingerprint import fingerprint, to_plain
from mhim_core.mil.aggregators.dsmil import Dsmil
from mhim_core.mil.aggregators.dsmil_options import DsmilQuery
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


def test_the_form_of_2020_has_linear_queries_unscaled_products_and_instances_as_values() -> None:
    options = ModelOptions(aggregator="dsmil", embed_dim=16, dsmil_query=DsmilQuery.linear)
    linear = build_model(10, 3, options, seed="s", dtype=torch.float64).requires_grad_(False).aggregator
    assert isinstance(linear, Dsmil)
    instance_NC, query_NQ = linear.instance_head(H), H @ linear.get_parameter("query.weight").T
    logits, attention = [], []
    for c in range(3):
        top = int(instance_NC[:, c].argmax())
        attention.append((query_NQ @ query_NQ[top]).softmax(dim=0))
        bag = linear.head.weight[c] @ (attention[-1] @ H) + linear.head.bias[c]
        logits.append(0.5 * bag + 0.5 * instance_NC[top, c])
    output = linear(H)
    torch.testing.assert_close(output.logits_C, torch.stack(logits))
    torch.testing.assert_close(output.attention_HN, torch.stack(attention))
    bag_logits = linear.bag_logits(output.feature_D)
    torch.testing.assert_close(2 * output.logits_C, bag_logits + instance_NC.amax(dim=0))


def test_the_default_form_is_the_one_without_the_option() -> None:
    """Its record is that of 0.1."""
    plain, linear = ModelOptions(aggregator="dsmil"), ModelOptions(aggregator="dsmil", dsmil_query=DsmilQuery.linear)
    assert "dsmil_query" not in to_plain(plain)
    assert to_plain(linear) == to_plain(plain) | {"dsmil_query": "linear"}
    assert fingerprint(linear) != fingerprint(plain)
