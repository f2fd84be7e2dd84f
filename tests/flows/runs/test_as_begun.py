"""A default that moved: what nobody gave goes on as it was begun; what somebody gave, or another value, does not."""

from typing import Any

import pytest

from flows.config.commands import TrainConfig
from flows.config.flat import from_keys
from flows.config.lifecycle import PipelineConfig
from flows.config.words import parse
from flows.runs.as_begun import EARLIER, as_begun, earlier_defaults
from mhim_core.mil.model_options import MhimOptions

WORDS = ("cohort=c.csv", "store=s", "out=o")


def record(**mhim: Any) -> dict[str, Any]:
    """A run's, as far as it is looked at; a key that is not in it is neutral."""
    return {"identity": {"method": "mhim", "mhim": mhim, "fit": {"epochs": 3}}}


def given(*words: str) -> TrainConfig:
    return parse(TrainConfig, [*WORDS, *words], command="train")


def test_a_run_of_an_earlier_default_goes_on_with_it_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    config = as_begun(given("epochs=3"), record(high_mask_ratio=0.03))
    assert config.mhim.full_view_weight == 0.0
    assert config.fit.epochs == 3
    assert "full_view_weight=0," in capsys.readouterr().out
    assert as_begun(config, record(high_mask_ratio=0.03)) == config


@pytest.mark.parametrize(
    ("words", "present"),
    [
        ((), None),
        (("full_view_weight=0.5",), record()),
        (("method=plain",), record()),
        (("recipe=mhim-v2",), record()),
        ((), record(full_view_weight=0.5)),
        ((), record(full_view_weight=0.25)),
    ],
    ids=["new", "given", "plain", "papers", "today's", "neither's"],
)
def test_nothing_else_is_changed(
    words: tuple[str, ...], present: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = given(*words)
    assert as_begun(config, present) is config
    assert not capsys.readouterr().out


def test_a_config_made_in_python_is_taken_as_given_and_every_default_moved() -> None:
    assert as_begun(from_keys(TrainConfig, cohort="c", store="s", out="o"), record()).mhim == MhimOptions()
    pipeline = parse(PipelineConfig, WORDS, command="pipeline")
    assert earlier_defaults(pipeline) == dict(EARLIER)
    assert not earlier_defaults(from_keys(PipelineConfig, cohort="c", store="s", out="o"))
