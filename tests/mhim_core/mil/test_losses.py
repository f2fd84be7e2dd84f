"""The losses of one bag."""

import math

import pytest
import torch

from mhim_core.mil.losses import classification_loss, consistency_loss


def feature(seed: int) -> torch.Tensor:
    return torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_an_undecided_model_has_the_log_of_the_number_of_classes() -> None:
    assert float(classification_loss(torch.zeros(4), torch.tensor(2))) == pytest.approx(math.log(4))


def test_the_consistency_loss_is_smallest_where_the_student_is_the_scaled_teacher() -> None:
    teacher = feature(0)
    student = (teacher / 0.1).clone().requires_grad_()
    loss = consistency_loss(teacher, student, 0.1)
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(gradient.abs().max()) < 1e-12
    assert float(consistency_loss(teacher, feature(1), 0.1)) > float(loss.detach())


def test_no_gradient_flows_into_the_teacher() -> None:
    teacher, student = feature(0).requires_grad_(), feature(1).requires_grad_()
    consistency_loss(teacher, student, 0.1).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_class_rows_are_averaged() -> None:
    teacher, student = torch.stack([feature(0), feature(1)]), torch.stack([feature(2), feature(3)])
    rows = [consistency_loss(t, s, 0.1) for t, s in zip(teacher, student, strict=True)]
    torch.testing.assert_close(consistency_loss(teacher, student, 0.1), (rows[0] + rows[1]) / 2)
