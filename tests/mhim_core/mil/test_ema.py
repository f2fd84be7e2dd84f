"""The teacher's moving average."""

import pytest
import torch

from mhim_core.mil.ema import base_momentum, follow, momentum_at
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions, StepSchedule


def model(seed: str) -> MilModel:
    return build_model(10, 2, ModelOptions(embed_dim=16), MhimOptions(), seed=seed, dtype=torch.float64)


def test_a_teacher_equal_to_its_student_stays_put_bit_for_bit() -> None:
    teacher, student = model("a"), model("a")
    follow(teacher, student, 0.997)
    for name, tensor in student.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor)


def test_every_weight_moves_the_queries_included() -> None:
    teacher, student = model("a"), model("b")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    follow(teacher, student, 0.9)
    assert "recycle.queries" in before
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, 0.9 * before[name] + 0.1 * student.state_dict()[name])


def test_momentum_zero_copies_and_one_freezes() -> None:
    teacher, student = model("a"), model("b")
    follow(teacher, student, 1.0)
    assert torch.equal(teacher.embed.weight, model("a").embed.weight)
    follow(teacher, student, 0.0)
    torch.testing.assert_close(teacher.embed.weight, student.embed.weight, rtol=0, atol=1e-16)


def test_auto_turns_the_teacher_over_twelve_times_within_bounds() -> None:
    assert base_momentum(MhimOptions(), 40_000) == pytest.approx(0.9997)
    assert base_momentum(MhimOptions(), 4_000) == pytest.approx(0.997)
    assert base_momentum(MhimOptions(), 10) == 0.99
    assert base_momentum(MhimOptions(), 10**7) == 0.9999
    assert base_momentum(MhimOptions(ema_momentum="0.5"), 10) == 0.5


def test_the_cosine_schedule_rises_to_one() -> None:
    options = MhimOptions(ema_momentum="0.9", ema_schedule=StepSchedule.cosine)
    assert momentum_at(options, 0, 100) == pytest.approx(0.9)
    assert momentum_at(options, 50, 100) == pytest.approx(0.95)
    assert momentum_at(options, 100, 100) == 1.0
