"""Numbers as a reader sees them: small and large ones stay readable, none is made up."""

import pytest

from mhim_core.metrics import Estimate, Metric
from mhim_core.report.numbers import (
    format_amount,
    format_difference,
    format_estimate,
    format_metric,
    format_number,
    format_p,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00012345, "0.0001234"), (12.3456, "12.35"), (12345.6, "12346"), (-3.5, "−3.5"), (0, "0"), (None, "–")],
)
def test_amounts_keep_their_size(value, text):
    assert format_amount(value) == text


def test_zero_has_no_sign():
    assert format_number(-0.0001) == "0.000"
    assert format_number(-0.1234) == "−0.123"
    assert format_difference(0.0) == "0"
    assert (format_difference(1.5), format_difference(-1.5), format_difference(None)) == ("+1.5", "−1.5", "–")


def test_a_metric_in_the_users_unit_is_an_amount_and_others_have_three_digits():
    assert [format_metric(value, "mae") for value in (12345.6, 54.0, 0.5, None)] == ["12346", "54.00", "0.5000", "–"]
    assert format_metric(0.91234, "auroc") == "0.912"
    assert format_estimate(Estimate(1234.5, 1000.2, 2000.9), "rmse") == "1234 [1000, 2001]"
    assert format_estimate(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert format_estimate(Metric(None, "why")) == "–"


def test_a_tiny_p_is_not_zero():
    assert [format_p(value) for value in (1e-9, 0.034567, 1.0, None)] == ["< 0.0001", "0.035", "1", "–"]
