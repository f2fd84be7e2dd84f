"""The worklist is searched, filtered, sorted and paged where its rows are."""

import time

import pytest

from mhim_core.errors import ConfigError
from mhim_core.task import TaskKind
from mhim_core.view.worklist import RowStatus, Worklist, WorklistQuery, WorklistRow, outcome_of


def row(number: int, **changes: object) -> WorklistRow:
    probability = number % 10 / 10
    values: dict[str, object] = {
        "slide_id": f"s{number:05d}",
        "patient_id": f"P-{number // 2:05d}",
        "site": ("north", "south")[number % 2],
        "label": ("normal", "tumour")[number % 3 == 0],
        "predicted": ("normal", "tumour")[probability > 0.5],
        "values": (1 - probability, probability),
        "spread": (0.1, 0.1),
        "error": probability,
        "num_tiles": number,
    }
    return WorklistRow(**values | changes)  # type: ignore[arg-type]


def ids(worklist: Worklist, **asked: object) -> list[str]:
    return [found.slide_id for found in worklist.page(WorklistQuery(**asked)).rows]  # type: ignore[arg-type]


@pytest.fixture
def worklist() -> Worklist:
    rows = [row(number) for number in range(40)]
    rows.append(WorklistRow(slide_id="z-broken", status=RowStatus.failed, reason="open", message="no slide"))
    return Worklist(rows, TaskKind.classification)


def test_words_of_a_search_must_all_occur_in_slide_or_patient_whatever_their_case(worklist: Worklist) -> None:
    assert ids(worklist, text="p-00003") == ["s00006", "s00007"]
    assert ids(worklist, text="P-00003 S00007") == ["s00007"]
    assert ids(worklist, text="p-00003 s00008") == []


def test_filters_join(worklist: Worklist) -> None:
    found = worklist.page(WorklistQuery(label="tumour", site="south", outcome="wrong"))
    assert found.rows
    assert all((r.label, r.site, outcome_of(r)) == ("tumour", "south", "wrong") for r in found.rows)
    assert ids(worklist, status="failed") == ["z-broken"]
    assert ids(worklist, only=frozenset({"s00001", "z-broken"})) == ["s00001", "z-broken"]


@pytest.mark.parametrize("descending", [False, True])
def test_rows_without_the_value_that_is_sorted_by_come_last(worklist: Worklist, descending: bool) -> None:
    found = worklist.page(WorklistQuery(sort="error", descending=descending)).rows
    assert found[-1].slide_id == "z-broken"
    errors = [r.error for r in found[:-1]]
    assert errors == sorted(errors, reverse=descending)


def test_pages_are_disjoint_and_complete_and_one_behind_the_end_is_the_last(worklist: Worklist) -> None:
    pages = [ids(worklist, offset=offset, limit=15) for offset in (0, 15, 30)]
    assert [len(page) for page in pages] == [15, 15, 11]
    assert len({slide_id for page in pages for slide_id in page}) == 41
    assert worklist.page(WorklistQuery(offset=400, limit=15)).offset == 30


def test_a_patient_has_the_mean_of_its_slides(worklist: Worklist) -> None:
    (patient,) = worklist.page(WorklistQuery(by_patient=True, text="P-00003")).rows
    assert patient.slide_ids == ("s00006", "s00007")
    assert patient.values == pytest.approx((0.35, 0.65))
    assert patient.predicted == "tumour"
    assert patient.label is None  # its slides have two
    assert patient.num_tiles == 13


def test_facets_count_the_whole_list(worklist: Worklist) -> None:
    facets = worklist.facets
    assert facets.labels == {"normal": 26, "tumour": 14}
    assert facets.statuses == {"failed": 1, "ok": 40}
    assert sum(facets.outcomes.values()) == facets.num_slides == 41
    assert facets.outcomes["open"] == 1


@pytest.mark.parametrize("wrong", [{"sort": "__class__"}, {"limit": 0}, {"limit": 501}, {"offset": -1}])
def test_a_query_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        WorklistQuery(**wrong)  # type: ignore[arg-type]


def test_ten_thousand_slides_are_queried_within_a_blink() -> None:
    worklist = Worklist([row(number) for number in range(10_000)], TaskKind.classification)
    start = time.process_time()
    found = worklist.page(WorklistQuery(text="s0", outcome="wrong", sort="error", descending=True, offset=900))
    assert time.process_time() - start < 0.5  # 0.03 s on a quiet machine
    assert len(found.rows) == 100
