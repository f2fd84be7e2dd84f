"""Published checkpoint names."""

import pytest
import torch

from mhim_core.errors import InputError
from mhim_core.mil.formats.mhim_mil import from_published, to_published
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions


def weights(mhim: MhimOptions | None = None, **model: str | bool) -> dict[str, torch.Tensor]:
    options = ModelOptions(embed_dim=16, **model)  # type: ignore[arg-type]
    return build_model(10, 3, options, mhim, seed="s").state_dict()


@pytest.mark.parametrize("aggregator", ["abmil", "transmil", "dsmil"])
@pytest.mark.parametrize("mhim", [None, MhimOptions()])
def test_to_and_from_published_names_is_the_identity(aggregator: str, mhim: MhimOptions | None) -> None:
    state = weights(mhim, aggregator=aggregator)
    published = to_published(state)
    back = from_published(published)
    assert set(back) == set(state)
    assert len(published) == len(state) + (mhim is not None)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("aggregator", ["abmil", "transmil", "dsmil"])
def test_missing_and_unknown_tensors_are_named(aggregator: str) -> None:
    published = to_published(weights(aggregator=aggregator))
    published["merger.weight"] = published.pop("predictor.bias")
    with pytest.raises(InputError, match=rf"{aggregator}.*merger\.weight.*predictor\.bias"):
        from_published(published)


def test_half_a_recycle_network_is_refused() -> None:
    published = to_published(weights(MhimOptions()))
    del published["merge.attn.to_q.weight"]
    with pytest.raises(InputError, match=r"missing tensors \['merge\.attn\.to_q\.weight'\]"):
        from_published(published)


@pytest.mark.parametrize("model", [{"gated": True}, {"aggregator": "clam-sb"}, {"aggregator": "mean"}])
def test_models_that_were_never_published_have_no_names(model: dict[str, str | bool]) -> None:
    with pytest.raises(InputError, match="not the weights of a published model"):
        to_published(weights(**model))


def test_two_sets_of_queries_under_the_two_names_are_refused() -> None:
    published = to_published(weights(MhimOptions()))
    published["merge.global_q"] = published["merge.global_q"] + 1
    with pytest.raises(InputError, match=r"merge\.global_q is not the same as merge\.global_q_mm"):
        from_published(published)
