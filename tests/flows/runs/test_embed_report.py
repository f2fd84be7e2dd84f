"""What a run of embedding says of its slides: on the terminal, and in the report's files."""

import csv
import io
import json
from pathlib import Path

import pytest

from flows.runs.embed_report import MAX_LINES, view_lines, write_report
from mhim_core.outcome import Outcome, reconcile
from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import ManifestRef
from mhim_core.types import FailureReason, SlideId, Status, StatusRow

SEEN, WARNING = "0 mm² tissue, 12 % pen", "31% of what is darker than glass (2.1 mm²) is not taken as tissue"


def row(name: str, status: Status = Status.OK, message: str = "", is_empty: bool = False) -> StatusRow:
    reason = FailureReason.OPEN if status is Status.FAILED else None
    return StatusRow(SlideId(name), status, reason, message=message, is_empty=is_empty)


def outcome_of(*rows: StatusRow) -> Outcome:
    return reconcile([row.slide_id for row in rows], rows)


@pytest.fixture
def mixed() -> Outcome:
    return outcome_of(
        row("good"),
        row("glass", Status.EMPTY, SEEN, is_empty=True),
        row("glass-before", Status.SKIPPED, is_empty=True),
        row("faint", message=WARNING),
        row("broken", Status.FAILED, "OpenSlide cannot open it"),
    )


def test_slides_without_tissue_and_those_to_look_at_are_named_with_what_was_seen(mixed: Outcome) -> None:
    assert list(view_lines(mixed)) == [
        f"  glass: no tissue: {SEEN}",
        "  glass-before: no tissue",
        f"  warning: faint: {WARNING}",
    ]


def test_nothing_to_look_at_is_no_line() -> None:
    assert list(view_lines(outcome_of(row("good"), row("broken", Status.FAILED, "no")))) == []


def test_beyond_twenty_of_a_kind_the_rest_is_counted() -> None:
    empty = [row(f"e{index:02d}", Status.EMPTY, is_empty=True) for index in range(MAX_LINES + 3)]
    notable = [row(f"w{index:02d}", message=WARNING) for index in range(MAX_LINES + 1)]
    *lines, last = view_lines(outcome_of(*empty, *notable))
    assert sum("no tissue" in line for line in lines) == sum("warning" in line for line in lines) == MAX_LINES == 20
    assert last.split()[1] == "4"


def test_the_report_lists_what_was_seen_and_what_failed(tmp_path: Path, mixed: Outcome) -> None:
    feature_set = FeatureSet(tiling={}, encoder={"id": "toy", "dim": 4}, encoder_identity={"id": "toy"})
    folder = tmp_path / write_report(LocalStorage(tmp_path), feature_set, mixed, ManifestRef(3, "ab", "key"), 7)
    assert table(folder / "seen.csv") == [
        {"slide_id": "glass", "what": "no tissue", "message": SEEN},
        {"slide_id": "glass-before", "what": "no tissue", "message": ""},
        {"slide_id": "faint", "what": "warning", "message": WARNING},
    ]
    (failed,) = table(folder / "failed.csv")
    assert (failed["slide_id"], failed["reason"], failed["message"]) == ("broken", "open", "OpenSlide cannot open it")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["empty"] == ["glass", "glass-before"]
    assert summary["counts"] == {"ok": 2, "empty": 1, "failed": 1, "skipped": 1}
    assert summary["storage_retries"] == 7
    assert (summary["num_input"], summary["manifest"]["version"]) == (5, 3)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
