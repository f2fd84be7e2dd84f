"""Published checkpoint names."""

import pytest
import torch

from mhim_core.errors import InputError
from mhim_core.mil.model import build_model
from mhim_core.mil.options import MhimOptions, ModelOptions
from mhim_core.mil.published import from_published, to_published


@pytest.mark.parametrize("mhim", [None, MhimOptions()])
def test_to_and_from_published_names_is_the_identity(mhim: MhimOptions | None) -> None:
    state = build_model(10, 3, ModelOptions(embed_dim=16), mhim, seed="s").state_dict()
    back = from_published(to_published(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_missing_and_unknown_tensors_are_named() -> None:
    published = to_published(build_model(10, 3, ModelOptions(embed_dim=16), seed="s").state_dict())
    published["layer1.norm.weight"] = published.pop("predictor.bias")
    with pytest.raises(InputError, match=r"layer1\.norm\.weight.*predictor\.bias"):
        from_published(published)


def test_a_gated_model_has_no_published_names() -> None:
    with pytest.raises(InputError, match="gate"):
        to_published(build_model(10, 3, ModelOptions(gated=True), seed="s").state_dict())
