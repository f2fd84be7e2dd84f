"""The cohort as it is now, with what a prefix adds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.lifecycle.discover import Features, contents_of, with_prefix
from flows.runs.cohort import CohortInput, load_cohort
from mhim_core.errors import CohortError
from mhim_core.registry.snapshot import snapshot
from mhim_core.slides.spec import SlidePolicy


@pytest.fixture
def table(tmp_path: Path, write_table: Callable[..., Path]) -> CohortInput:
    for name in ("a", "b"):
        (tmp_path / f"{name}.svs").write_bytes(name.encode() * 100)
    return load_cohort(str(write_table([{"slide_id": "a", "path": "a.svs", "patient_id": "p", "label": "x"}])))


def test_files_of_a_prefix_join_without_labels_and_those_of_the_table_stay_what_they_are(
    table: CohortInput, tmp_path: Path
) -> None:
    (tmp_path / "readme.txt").write_text("no slide")
    joined = with_prefix(table, str(tmp_path))
    assert [(row.slide_id, row.label) for row in joined.cohort.rows] == [("a", "x"), ("b", None)]
    assert set(joined.hints) == {"a", "b"}
    contents = contents_of(joined, Features({}))
    before, now = (snapshot(cohort.cohort.rows, contents, SlidePolicy()) for cohort in (table, joined))
    assert now == before, "what has no label is no news"


def test_a_file_of_a_prefix_that_would_share_an_id_is_refused(table: CohortInput, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.svs").write_bytes(b"another")
    with pytest.raises(CohortError, match="a"):
        with_prefix(table, str(tmp_path))
    (tmp_path / "more/a.svs").rename(tmp_path / f"more/{'é' * 40}.svs")
    with pytest.raises(CohortError, match="slides_prefix"):
        with_prefix(table, str(tmp_path))
    (tmp_path / f"more/{'é' * 40}.svs").rename(tmp_path / "more/b (1).svs")
    assert with_prefix(table, str(tmp_path)).cohort.rows[-1].slide_id == "b_x20__x28_1_x29_"
