"""The losses of one bag."""

import math

import pytest
import torch

from mhim_core.metrics.outputs import survival_curve
from mhim_core.mil.losses import (
    classification_loss,
    consistency_loss,
    regression_loss,
    survival_loss,
)

EVENT, CENSORED = torch.tensor(False), torch.tensor(True)


def feature(seed: int) -> torch.Tensor:
    return torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_an_undecided_model_has_the_log_of_the_number_of_classes() -> None:
    assert float(classification_loss(torch.zeros(4), torch.tensor(2))) == pytest.approx(math.log(4))


def test_the_regression_loss_is_the_squared_distance_to_the_standardised_target() -> None:
    output = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    loss = regression_loss(output, torch.tensor(-0.5, dtype=torch.float64))
    assert float(loss.detach()) == 4
    (gradient,) = torch.autograd.grad(loss, output)
    assert gradient.tolist() == [4]


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


def test_survival_losses_are_probabilities_of_what_was_seen() -> None:
    logits = feature(3)[:4]
    curve = torch.from_numpy(survival_curve(logits.numpy()))
    before = torch.cat([torch.ones(1, dtype=torch.float64), curve[:-1]])
    for bin_index in range(4):
        time_bin = torch.tensor(bin_index)
        died, outlived = survival_loss(logits, time_bin, EVENT).exp(), survival_loss(logits, time_bin, CENSORED).exp()
        torch.testing.assert_close(1 / died, before[bin_index] - curve[bin_index])
        torch.testing.assert_close(1 / outlived, curve[bin_index])


def test_a_censored_bag_is_an_event_in_any_later_bin_or_none() -> None:
    logits = feature(4)[:4]
    later = [torch.exp(-survival_loss(logits, torch.tensor(bin_index), EVENT)) for bin_index in (2, 3)]
    never = torch.from_numpy(survival_curve(logits.numpy()))[-1]
    seen = torch.exp(-survival_loss(logits, torch.tensor(1), CENSORED))
    torch.testing.assert_close(torch.stack(later).sum() + never, seen)


@pytest.mark.parametrize("size", [-1e4, 1e4])
@pytest.mark.parametrize("censored", [EVENT, CENSORED])
def test_a_survival_model_that_is_sure_has_finite_losses_and_gradients(size: float, censored: torch.Tensor) -> None:
    logits = torch.full((4,), size, requires_grad=True)
    loss = survival_loss(logits, torch.tensor(2), censored)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert float(gradient[3]) == 0
