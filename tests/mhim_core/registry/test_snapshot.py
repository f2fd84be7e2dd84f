"""What counts as new: who, what, which bytes; not where files lie, how rows are ordered or when files were touched."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhim_core.cohort.rows import CohortRow
from mhim_core.errors import IntegrityError
from mhim_core.features import SourceIdentity
from mhim_core.registry.differences import Differences, differences
from mhim_core.registry.snapshot import Snapshot, keep_snapshot, read_snapshot, snapshot
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import LocalStorage
from mhim_core.types import SlideId

ROW = CohortRow("s1", "/x/s1.svs", "p1", "tumour", site="a")  # type: ignore[arg-type]
BYTES: Any = {"s1": SourceIdentity(10, "bytes"), "s2": SourceIdentity(11, "others")}
OTHER = ROW._replace(slide_id="s2", patient_id="p2", label="normal")  # type: ignore[arg-type]


def of(*rows: CohortRow, contents: Any = BYTES, policy: SlidePolicy = SlidePolicy()) -> Snapshot:  # noqa: B008
    return snapshot(rows, contents, policy)


def test_order_place_and_line_are_no_news() -> None:
    moved = ROW._replace(uri="s3://elsewhere/s1.svs", row=7, fold=3, split="train")
    assert of(ROW, OTHER).fingerprint == of(OTHER, moved).fingerprint


@pytest.mark.parametrize(
    "change", [{"label": "normal"}, {"patient_id": "p9"}, {"site": "b"}, {"mpp": 0.5}, {"sha256": "0" * 64}]
)
def test_what_a_row_says_of_its_slide_is_news(change: dict[str, Any]) -> None:
    assert differences(of(ROW, OTHER), of(ROW._replace(**change), OTHER)) == (0, 1, 0, False)


def test_other_bytes_under_the_same_id_are_news_and_a_file_that_appears_too() -> None:
    assert differences(of(ROW), of(ROW, contents={"s1": SourceIdentity(10, "rescanned")})).changed == 1
    assert differences(of(ROW, contents={}), of(ROW)).changed == 1


def test_other_regions_are_news_and_so_is_letting_slides_in_without() -> None:
    base = of(ROW, OTHER)
    assert snapshot((ROW, OTHER), BYTES, SlidePolicy(), {}) == base, "where none are used, all is as it was"
    first, second = (snapshot((ROW, OTHER), BYTES, SlidePolicy(), {SlideId("s1"): digest}) for digest in "ab")
    assert differences(base, first) == differences(first, second) == (0, 1, 0, False)
    assert snapshot((ROW, OTHER), BYTES, SlidePolicy(), {}, takes_unannotated=True).fingerprint != base.fingerprint


def test_slides_without_a_target_are_in_no_snapshot() -> None:
    assert of(ROW, OTHER._replace(label=None)) == of(ROW)
    timed = OTHER._replace(label=None, time=3.0)
    assert of(ROW, timed) == of(ROW), "a time without an event is no target"
    assert set(of(ROW, timed._replace(event=False)).slides) == {"s1", "s2"}


def test_a_relaxed_policy_is_worth_another_look_but_no_other_training() -> None:
    strict, lax = of(ROW), of(ROW, policy=SlidePolicy(default_mpp=0.5))
    assert strict.fingerprint != lax.fingerprint
    assert differences(strict, lax).words == "other policies of admission"
    assert strict.of({"s1": 1}) == lax.of({"s1": 1})  # type: ignore[dict-item]
    assert strict.of({}) != strict.of({"s1": 1})  # type: ignore[dict-item]


slide_sets = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz"))


@given(slide_sets, slide_sets)
def test_differences_add_up(before: Any, now: Any) -> None:
    changes = differences(Snapshot(slides=before, policy={}), Snapshot(slides=now, policy={}))
    assert len(before) + changes.new - changes.gone == len(now)
    assert (changes.words == "") == (before == now)
    assert differences(None, Snapshot(slides=now, policy={})).new == len(now)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((5, 0, 0), "5 new slides"), ((1, 2, 0), "1 new slide, 2 changed"), ((0, 0, 1), "1 gone slide"), ((0, 0, 0), "")],
)
def test_differences_in_words(numbers: tuple[int, int, int], words: str) -> None:
    assert Differences(*numbers).words == words


def test_snapshots_are_kept_by_their_fingerprint(tmp_path: Path) -> None:
    records, kept = LocalStorage(tmp_path), of(ROW, OTHER)
    keep_snapshot(records, "lung", kept)
    keep_snapshot(records, "lung", kept)
    assert read_snapshot(records, "lung", kept.fingerprint) == kept
    assert read_snapshot(records, "lung", of(ROW).fingerprint) is None
    (entry,) = records.list("flows/data/lung")
    records.put(entry.key, of(ROW).to_bytes())
    with pytest.raises(IntegrityError, match="not the snapshot that its name says"):
        read_snapshot(records, "lung", kept.fingerprint)
