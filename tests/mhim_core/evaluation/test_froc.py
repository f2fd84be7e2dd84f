"""FROC on findings whose sensitivities can be counted by hand."""

import numpy as np
import pytest

from mhim_core.evaluation.froc import RATES, Finding, FoundSlide, froc


def test_sensitivity_at_every_rate_by_hand() -> None:
    first = FoundSlide((Finding(0.9, 0), Finding(0.8, None), Finding(0.7, 1), Finding(0.6, 0)), 3)
    second = FoundSlide((Finding(0.95, None), Finding(0.65, 0), Finding(0.1, None)), 1)
    found = froc((first, second))
    # false positives a slide: 0.5 (0.95), then 0.9 finds one, 1.0 (0.8), 0.7 and 0.65 find two more, 1.5 (0.1)
    assert found.sensitivity.tolist() == [0, 1 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4]
    assert found.mean == pytest.approx(np.mean(found.sensitivity))


def test_perfect_and_empty_findings_and_slides_without_foci() -> None:
    healthy = FoundSlide((), 0)
    assert froc((FoundSlide((Finding(1.0, 0),), 1), healthy)).mean == 1
    assert froc((FoundSlide((), 2), healthy)).mean == 0
    with pytest.raises(ValueError, match="no slide"):
        froc((healthy,))


def test_findings_of_one_score_cannot_be_told_apart() -> None:
    tied = tuple(Finding(0.5, focus) for focus in (0, *[None] * 9))
    assert froc((FoundSlide(tied, 1),)).mean == 0, "nine false alarms come with the focus"
    assert RATES[-1] == 8
