"""How `mhim train` asks for its workers."""

import pytest

from flows.train import grow_interval_s
from mhim_core.train.fit_options import FitExecution


@pytest.mark.parametrize("minutes", [0.0, 1.0, 10.0, 60.0])
def test_a_group_of_workers_has_saved_before_it_grows(minutes: float) -> None:
    # the fit begins a while after its group, whose start counts
    assert grow_interval_s(FitExecution(checkpoint_every_min=minutes)) >= 60 * max(10.0, minutes) + 300
