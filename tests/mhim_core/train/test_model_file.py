"""Model files."""

import pytest
import torch

from mhim_core.errors import IntegrityError
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions, RecycleAtTest
from mhim_core.task import FittedTask, TaskKind
from mhim_core.train.card import ModelCard
from mhim_core.train.fit_options import Precision
from mhim_core.train.model_file import load_model, predict_bag, save_model
from mhim_core.train.plan import Stage

CARD = ModelCard(
    stage=Stage.mhim,
    fold=1,
    seed=2021,
    d_in=10,
    task=FittedTask(kind=TaskKind.classification, classes=("no", "yes")),
    precision=Precision.float32,
    model=ModelOptions(embed_dim=16, gated=True, embed_activation=Activation.relu),
    mhim=MhimOptions(random_mask_ratio=0.5, recycle_at_test=RecycleAtTest.on),
    provenance={"encoder": "e", "manifest": "m"},
)


def saved() -> bytes:
    student, teacher = (build_model(10, 2, CARD.model, CARD.mhim, seed=seed) for seed in "ab")
    return save_model(CARD, student.state_dict(), teacher.state_dict())


def test_a_model_file_says_what_it_is_and_holds_both_models() -> None:
    loaded = load_model(saved())
    assert loaded.card == CARD
    assert loaded.teacher is not None
    x = torch.randn(7, 10)
    assert torch.equal(loaded.student(x).logits_C, build_model(10, 2, CARD.model, CARD.mhim, seed="a")(x).logits_C)
    assert torch.equal(loaded.teacher(x).logits_C, build_model(10, 2, CARD.model, CARD.mhim, seed="b")(x).logits_C)


def test_equal_models_give_equal_bytes() -> None:
    assert saved() == saved()


@pytest.mark.parametrize("damage", ["empty", "pickle", "truncated", "renamed", "schema"])
def test_what_is_not_a_model_file_is_refused(damage: str) -> None:
    data = saved()
    damaged = {
        "empty": b"",
        "pickle": b"\x80\x04cos\nsystem\n.",
        "truncated": data[:-100],
        "renamed": data.replace(b"student/embed.weight", b"student/ambed.weight"),
        "schema": data.replace(rb"schema\":1", rb"schema\":9"),
    }[damage]
    assert damaged != data
    with pytest.raises(IntegrityError):
        load_model(damaged)


def test_probabilities_sum_to_one_and_attention_covers_the_instances() -> None:
    model = load_model(saved()).student
    for append in (False, True):
        prediction = predict_bag(model, torch.randn(9, 10, dtype=torch.float64), append)
        assert float(prediction.logits_C.softmax(dim=0).sum()) == pytest.approx(1)
        assert prediction.attention_N.shape == (9,)
    assert float(prediction.attention_N.sum()) < 1
