"""The two simplest baselines."""

import torch

from mhim_core.mil.aggregators.pooling import MaxPool, MeanPool
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import ModelOptions

OPTIONS = ModelOptions(embed_dim=16)
H = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))


def test_the_mean_is_untouched_by_doubling_the_bag() -> None:
    pool = MeanPool(2, OPTIONS)
    torch.testing.assert_close(pool(torch.cat([H, H])).feature_D, pool(H).feature_D)
    torch.testing.assert_close(pool(H).feature_D, H.mean(dim=0))


def test_the_maximum_is_untouched_by_smaller_instances() -> None:
    pool = MaxPool(2, OPTIONS)
    output = pool(torch.cat([H, H - 1]))
    assert torch.equal(output.feature_D, pool(H).feature_D)
    assert float(output.attention_HN[0, 9:].sum()) == 0


def test_the_maximums_attention_counts_the_features_an_instance_gave() -> None:
    shares = [int((H.argmax(dim=0) == index).sum()) / 16 for index in range(9)]
    assert MaxPool(2, OPTIONS)(H).attention_HN[0].tolist() == shares


def test_the_registry_knows_them() -> None:
    for name, kind in (("mean", MeanPool), ("max", MaxPool)):
        assert type(build_model(10, 2, ModelOptions(aggregator=name), seed="s").aggregator) is kind
