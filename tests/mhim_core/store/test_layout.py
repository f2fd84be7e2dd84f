"""Keys: nothing named by a user can leave its folder."""

import pytest

from mhim_core.errors import ConfigError
from mhim_core.store import layout
from mhim_core.types import SlideId

FP = "a" * 64


@pytest.mark.parametrize(
    "slide_id", ["../x", "a/b", "", ".hidden", "a" * 129, "a\0b", "é", "a b", "\u202eabc", "=cmd()"]
)
def test_ids_that_are_not_plain_names_are_refused(slide_id: str) -> None:
    with pytest.raises(ConfigError):
        layout.commit_key(FP, SlideId(slide_id), FP)


def test_commit_keys_are_taken_apart_as_they_were_made() -> None:
    key = layout.commit_key(FP, SlideId("case-1.a"), "b" * 64)
    assert layout.parse_commit_key(key) == ("case-1.a", "b" * 64)
    assert layout.parse_commit_key(layout.manifest_key(FP, 1)) is None
    assert layout.parse_commit_key(key.removesuffix(".json")) is None


def test_versions_and_attempts_sort_as_numbers() -> None:
    assert layout.manifest_key(FP, 9) < layout.manifest_key(FP, 10)
    first, later = (layout.attempt_key(FP, SlideId("s"), FP, number) for number in (9, 10))
    assert first < later


def test_what_is_no_fingerprint_makes_no_key() -> None:
    with pytest.raises(ConfigError):
        layout.features_key("../..", SlideId("s"), FP)
