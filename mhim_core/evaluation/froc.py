"""The free-response ROC of found foci: how many are found at so many false alarms a slide (Bunch et al. 1978).

As in CAMELYON16 (Ehteshami Bejnordi et al. 2017): a focus is found once by whatever finding lies in it, further
findings in it count neither way, every other finding is a false positive, and the score is the mean sensitivity at
1/4, 1/2, 1, 2, 4 and 8 false positives a slide, all slides counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.metrics.arrays import Floats

RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a slide."""


class Finding(NamedTuple):
    """A place that is said to be diseased."""

    score: float
    focus: int | None
    """The number of the focus on its slide that it lies in; None: in none."""


class FoundSlide(NamedTuple):
    """One slide's findings, and how many foci it has."""

    findings: tuple[Finding, ...]
    num_foci: int


class Froc(NamedTuple):
    """(R,) sensitivities at RATES, and their mean."""

    sensitivity: Floats
    mean: float


def froc(slides: Sequence[FoundSlide]) -> Froc:
    """Findings of one score are taken together. Raises ValueError where no slide has a focus."""
    num_foci = sum(slide.num_foci for slide in slides)
    if not num_foci:
        raise ValueError("no slide has a focus")
    flat = sorted(
        ((finding.score, number, finding.focus) for number, slide in enumerate(slides) for finding in slide.findings),
        key=lambda item: -item[0],
    )
    found: set[tuple[int, int]] = set()
    num_false, best = 0, np.zeros(len(RATES))
    for place, (score, number, focus) in enumerate(flat):
        if focus is None:
            num_false += 1
        else:
            found.add((number, focus))
        if place + 1 < len(flat) and flat[place + 1][0] == score:
            continue
        reached = np.array(RATES) * len(slides) >= num_false
        best[reached] = np.maximum(best[reached], len(found) / num_foci)
    return Froc(best, float(best.mean()))
