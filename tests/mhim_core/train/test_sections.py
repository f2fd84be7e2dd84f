"""Records of options compare across versions."""

from dataclasses import dataclass, field

import pytest

from mhim_core.errors import IntegrityError
from mhim_core.train import sections
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.sections import flat_options, known_options


@dataclass(frozen=True, kw_only=True)
class LaterFit(FitOptions):
    """With an option that a later version added."""

    added: float = field(default=0.5, metadata={"neutral": 0.0})


def test_a_section_states_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"method": "plain", "fit": {"epochs": 2}}
    assert flat_options(record) == {"method": "plain", "epochs": 2}
    monkeypatch.setattr(sections, "SECTIONS", {"fit": LaterFit})
    assert flat_options(record) == {"method": "plain", "epochs": 2, "added": 0.0}
    assert flat_options(record | {"fit": {"added": 1.0}})["added"] == 1.0
    assert "added" not in flat_options({"method": "plain"}), "a section that is not there states nothing"


def test_options_of_a_newer_version_are_kept_to_be_named_or_refused() -> None:
    record = {"fit": {"epochs": 2, "added": 0.5}}
    assert flat_options(record)["added"] == 0.5
    with pytest.raises(IntegrityError, match=r"lung@1f.*added=0\.5"):
        known_options(record, "lung@1f")
