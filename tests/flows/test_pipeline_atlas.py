"""Real slides whose resolution is missing or too coarse: three runs, each embedding what the one before refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STATED = {"BS27_HE_10x", "lung-squamous-cell-carcinoma_HE3_10x"}
"""Slides that state their resolution."""
ESTIMATED = {"erosion_HE_10x"}
"""States none; the second table says 1.01 µm/px."""
COARSE = {"tubularadenoma-flat_HE_10x", "tubularadenoma-flat_HE2_10x"}
"""State none; the second table says 2.02 µm/px."""


@pytest.fixture
def write_atlas(shared_data: Path, tmp_path: Path) -> Callable[[str], Path]:
    """write_atlas("atlas10x.csv") → that table, cut down to these five slides."""

    def write(name: str) -> Path:
        folder = shared_data / "slides"
        with (folder / name).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["slide_id"] in STATED | ESTIMATED | COARSE]
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row | {"path": str(folder / row["path"])} for row in rows)
        return path

    return write


@pytest.mark.thorough
def test_each_relaxation_embeds_only_what_was_refused_and_no_slide_twice(
    write_atlas: Callable[[str], Path], tmp_path: Path, run_here: Callable[..., Any], features_of: Callable[..., Any]
) -> None:
    store = tmp_path / "store"
    words = ("embed", "encoder=hed-texture", f"store={store}", "target_mpp=1.0", "local_cpus=2")
    first, second = write_atlas("atlas10x.csv"), write_atlas("atlas10x_mpp.csv")

    silent = run_here(*words, f"cohort={first}")
    assert silent.code == 4
    assert "5 slides: 2 ok, 0 empty, 3 failed (no_mpp 3), 0 skipped" in silent.out
    after_first = features_of(store)
    assert len(after_first) == len(STATED)

    ended = run_here(*words, f"cohort={second}")
    assert ended.code == 4
    assert "5 slides: 1 ok, 0 empty, 2 failed (upsample 2), 2 skipped" in ended.out
    after_second = features_of(store)
    assert after_first.items() < after_second.items()

    relaxed = run_here(*words, f"cohort={second}", "max_upsample=2.1")
    assert relaxed.code == 0
    assert "5 slides: 2 ok, 0 empty, 0 failed, 3 skipped" in relaxed.out
    assert after_second.items() < features_of(store).items()

    commits = [json.loads(path.read_text()) for path in store.glob("commits/*/*/*.json")]
    upsample_of = {record["slide_id"]: record["upsample"] for record in commits}
    assert len(commits) == len(features_of(store)) == 5
    assert {slide_id for slide_id, factor in upsample_of.items() if factor > 2} == COARSE
    assert {slide_id for slide_id, factor in upsample_of.items() if factor < 1.1} == STATED | ESTIMATED
    attempts = [path.parts[-3] for path in store.glob("attempts/*/*/*/*.json")]
    assert sorted(attempts) == sorted([*ESTIMATED, *COARSE, *COARSE])
