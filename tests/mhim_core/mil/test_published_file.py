"""Published checkpoints as files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mhim_core.errors import InputError
from mhim_core.mil.formats.mhim_mil import to_published
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions
from mhim_core.mil.published_file import load_published, save_published

AGGREGATORS = ["abmil", "transmil", "dsmil"]


def weights(
    aggregator: str = "abmil", mhim: MhimOptions | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    options = ModelOptions(aggregator=aggregator, embed_dim=16)
    return build_model(10, 3, options, mhim, seed=aggregator, dtype=dtype).state_dict()


def file(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def assert_same(actual: dict[str, torch.Tensor] | None, expected: dict[str, torch.Tensor]) -> None:
    assert actual is not None
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("mhim", [None, MhimOptions(recycle_queries=3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_written_and_read_is_the_same_bit_for_bit(
    aggregator: str, mhim: MhimOptions | None, dtype: torch.dtype
) -> None:
    student, teacher = weights(aggregator, mhim, dtype), weights(aggregator, mhim, dtype)
    teacher = {name: tensor + 1 for name, tensor in teacher.items()}
    data = save_published(student, teacher)
    loaded = load_published(data)
    assert_same(loaded.student, student)
    assert_same(loaded.teacher, teacher)
    assert loaded.options == ModelOptions(aggregator=aggregator, embed_dim=16)
    assert (loaded.d_in, loaded.num_outputs, loaded.dtype) == (10, 3, dtype)
    assert loaded.recycle_queries == (None if mhim is None else 3)
    assert save_published(loaded.student, loaded.teacher) == data


@pytest.mark.parametrize("wrap", ["bare", "model", "student", "state_dict", "module."])
def test_the_wrappings_of_training_scripts_are_undone(wrap: str) -> None:
    published = to_published(weights(mhim=MhimOptions()))
    content: dict[str, Any] = {wrap: published, "epoch": 7, "teacher": None, "k": [1, 2]}
    if wrap == "bare":
        content = dict(published)
    elif wrap == "module.":
        content = {f"module.{name}": tensor for name, tensor in published.items()}
    loaded = load_published(file(content))
    assert_same(loaded.student, weights(mhim=MhimOptions()))
    assert loaded.teacher is None


def test_what_the_teachers_recycle_network_lacks_is_the_students() -> None:
    student, teacher = weights(mhim=MhimOptions()), weights()
    teacher = {name: tensor + 1 for name, tensor in teacher.items()}
    loaded = load_published(file({"model": to_published(student), "teacher": to_published(teacher)}))
    assert_same(loaded.teacher, student | teacher)


def test_activations_are_as_the_reader_says() -> None:
    v1 = ModelOptions(embed_activation=Activation.relu, attention_activation=Activation.tanh)
    loaded = load_published(save_published(weights()), v1)
    assert loaded.options == ModelOptions(
        embed_dim=16, embed_activation=Activation.relu, attention_activation=Activation.tanh
    )


def test_half_precision_becomes_float32_of_the_same_values() -> None:
    halves = {name: tensor.half() for name, tensor in to_published(weights()).items()}
    loaded = load_published(file(halves))
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.student["embed.weight"], halves["feature.0.weight"].float())


class Anything:
    """What a pickle may hold besides tensors."""


def _mixed() -> dict[str, torch.Tensor]:
    published = to_published(weights())
    return published | {"predictor.bias": published["predictor.bias"].double()}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a checkpoint of tensors"),
        (b"not a checkpoint", "not a checkpoint of tensors"),
        (file(torch.zeros(3)), "holds a Tensor, not a state dict"),
        (file({"epoch": 3, "best": {}}), r"no state dict.*found epoch, best"),
        (file({}), "no state dict.*found nothing"),
        (file({"weights": torch.zeros(3)}), r"unknown tensors \['weights'\]"),
        (file(_mixed()), r"of \['torch\.float32', 'torch\.float64'\]"),
        (
            file(to_published(weights()) | {"predictor.weight": torch.zeros(3, 15)}),
            r"the model of the checkpoint is no abmil of D=16, C=3 .*aggregator\.head\.weight \(3, 15\) instead of",
        ),
        (
            file({"model": to_published(weights()), "teacher": to_published(weights("dsmil"))}),
            r"the teacher of the checkpoint is no abmil .*aggregator\.bag_head\.bias",
        ),
    ],
)
def test_what_is_no_published_model_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_published(data)


@pytest.mark.fault(38)
def test_code_in_a_pickle_is_not_run() -> None:
    with pytest.raises(InputError, match="a pickle can run code; save the state dict alone"):
        load_published(file({"model": to_published(weights()), "arguments": Anything()}))


def test_golden_weights_in_a_file_give_the_golden_embedding(golden_path: Path) -> None:
    arrays = dict(np.load(golden_path))
    config = json.loads(str(arrays["config"]))

    def published(role: str) -> dict[str, torch.Tensor]:
        names = [name for name in arrays if name.startswith(f"{role}/")]
        return {name.removeprefix(f"{role}/"): torch.from_numpy(arrays[name]) for name in names}

    content = {role: {f"module.{name}": t for name, t in published(role).items()} for role in ("student", "teacher")}
    as_said = ModelOptions(
        embed_activation=Activation(config["act"]), attention_activation=Activation(config["da_act"])
    )
    loaded = load_published(file(content), as_said)
    assert (loaded.d_in, loaded.num_outputs) == (config["input_dim"], config["n_classes"])
    assert loaded.recycle_queries == config["merge_k"]
    assert loaded.teacher is not None
    model = MilModel(loaded.d_in, loaded.num_outputs, loaded.options, MhimOptions(recycle_queries=config["merge_k"]))
    model.load_state_dict(loaded.teacher)
    feature = model.double().requires_grad_(False)(torch.from_numpy(arrays["x"])).feature_D
    expected = torch.from_numpy(arrays["teacher_bag_feature"])
    assert float((feature - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    back = torch.load(io.BytesIO(save_published(loaded.student, loaded.teacher)), weights_only=True)
    for role, key in (("student", "model"), ("teacher", "teacher")):
        assert_same(back[key], published(role))
