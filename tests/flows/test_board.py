"""The board of claims: its cells are kept and resumed, its pages are what its file gives, losses and gaps are shown."""

import argparse
import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from mhim_core.errors import ConfigError, ConflictError
from mhim_core.mil.model_options import ModelOptions
from mhim_core.task import ClassTarget
from mhim_core.train.fit_options import FitOptions, Selection
from mhim_core.train.plan import LabelledBag
from mhim_core.types import BagId

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The board's own modules by name; benchmarks are scripts beside one another, and no package."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        names = ("board", "board_cells", "board_markdown", "board_methods", "board_rows", "board_sets", "intervals")
        yield {name: importlib.import_module(name) for name in names}
    folder = str(ROOT / "benchmarks")
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]


class ToyDraw(NamedTuple):
    """What `planted_sets.DrawnSet` is, of a few bags of three features."""

    source: Any
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    test: Mapping[str, tuple[LabelledBag, ...]]
    evidence: Mapping[BagId, np.ndarray]


class ToyBags(NamedTuple):
    """Bags of six instances; a loud one is large in the first feature, a quiet one in the second."""

    width: int = 3

    def draw(self, seed: int) -> ToyDraw:
        random = np.random.default_rng(seed)
        bags: dict[BagId, torch.Tensor] = {}
        evidence: dict[BagId, np.ndarray] = {}

        def make(part: str, num: int) -> tuple[LabelledBag, ...]:
            made = []
            for _ in range(num):
                kinds = np.zeros(6, dtype=int)
                kinds[0] = 1 if part in ("both", "loud") else 0
                kinds[1:3] = 2 if part in ("both", "quiet") else 0
                x = random.normal(size=(6, self.width))
                x[kinds == 1, 0] += 2
                x[kinds == 2, 1] += 1
                bag_id = BagId(f"{part}-{len(bags)}")
                bags[bag_id], evidence[bag_id] = torch.tensor(x, dtype=torch.float32), kinds
                made.append(LabelledBag(bag_id, ClassTarget(int(part != "negative"))))
            return tuple(made)

        train, validation = make("negative", 3) + make("both", 3), make("negative", 2) + make("both", 2)
        test = {part: make(part, 3) for part in ("negative", "both", "quiet", "loud")}
        return ToyDraw(ToySource(bags, self.width), train, validation, test, evidence)


class ToySource(NamedTuple):
    bags: dict[BagId, torch.Tensor]
    dim: int

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(x) for bag_id, x in self.bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self.bags[bag_id].clone()


def toy_jobs(modules: dict[str, ModuleType], out: Path, epochs: int = 1, until: float = math.inf) -> list[Any]:
    """Both controls and ABMIL alone and under two recipes, one seed."""
    toy = modules["board_sets"].DrawnSet(
        name="toy",
        title="Toy",
        group="toys",
        bags=ToyBags(),
        model=ModelOptions(embed_dim=8),
        fit=FitOptions(epochs=epochs, selection=Selection.last),
        min_seeds=1,
        num_seeds=1,
    )
    method = modules["board_methods"].Method
    methods = [method("simlp"), method("max"), *(method("abmil", name) for name in ("plain", "mhim", "mhim-v1"))]
    jobs: list[Any] = modules["board_cells"].order_jobs([toy], methods, out, {"toy": "none"}, until)
    return jobs


def figures(cells: list[Any]) -> dict[str, dict[str, dict[str, float]]]:
    return {cell.method: cell.auroc for cell in cells}


def test_cells_of_a_run_that_was_killed_half_way_are_kept_and_the_rest_follow(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, board_cells = modules["board"], modules["board_cells"]
    whole = list(board.run_jobs(toy_jobs(modules, tmp_path / "whole"), 1))
    assert [cell.method for cell in whole] == ["simlp", "max", "abmil/plain", "abmil/mhim", "abmil/mhim-v1"]
    assert set(whole[3].auroc) == {"plain", "student", "teacher", "pair"}
    assert whole[3].auroc["plain"] == whole[2].auroc["plain"]  # the plain model is the recipe's stage 1
    assert whole[4].auroc["plain"] != whole[2].auroc["plain"]  # but that of another architecture

    fit_cell = board_cells.fit_cell

    def killed(job: Any, method: Any, bags: Any) -> Any:
        if method.name == "abmil/mhim":
            raise KeyboardInterrupt
        return fit_cell(job, method, bags)

    out = tmp_path / "killed"
    monkeypatch.setattr(board_cells, "fit_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        list(board.run_jobs(toy_jobs(modules, out), 1))
    kept = {path: path.read_bytes() for path in (out / "cells").rglob("*.json")}
    assert len(kept) == 3
    monkeypatch.setattr(board_cells, "fit_cell", fit_cell)
    rest = list(board.run_jobs(toy_jobs(modules, out), 1))
    assert [cell.method for cell in rest] == ["abmil/mhim", "abmil/mhim-v1"]
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert figures(board_cells.read_cells(out)) == figures(whole)
    assert not list((out / "models").rglob("*.safetensors"))
    assert list(board.run_jobs(toy_jobs(modules, out), 1)) == []
    with pytest.raises(ConflictError):
        list(board.run_jobs(toy_jobs(modules, out, epochs=2), 1))


def test_no_cell_is_begun_after_the_time_is_up(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    assert list(modules["board"].run_jobs(toy_jobs(modules, tmp_path, until=0.0), 1)) == []
    assert not (tmp_path / "cells").exists()


def test_only_takes_an_aggregator_or_one_recipe_and_refuses_what_names_nothing(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    def chosen(*only: str) -> list[str]:
        jobs = modules["board"].chosen_jobs(toy_jobs(modules, tmp_path), only)
        return [method.name for job in jobs for method in job.methods]

    assert chosen("toy:abmil") == ["abmil/plain", "abmil/mhim", "abmil/mhim-v1"]
    assert chosen("*:abmil/mhim", "toy:max") == ["max", "abmil/mhim"]
    assert len(chosen()) == 5
    for word in ("toy:abmi", "toys:abmil", "toy"):
        with pytest.raises(ConfigError):
            chosen(word)


def test_the_file_of_cells_takes_new_ones_and_leaves_out_those_of_other_options(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = modules["board"]
    (simlp, max_pool, *_) = toy_jobs(modules, tmp_path / "out")
    sets, methods = [simlp.bags], [simlp.methods[0], max_pool.methods[0]]

    def gather(out: Path | None) -> Any:
        return board.gather(argparse.Namespace(docs=tmp_path, out=out), sets, methods)

    list(board.run_jobs([simlp], 1))
    board.write(tmp_path, gather(tmp_path / "out"))
    list(board.run_jobs([max_pool._replace(out=tmp_path / "more")], 1))
    merged = gather(tmp_path / "more")
    assert [cell.method for cell in merged.cells] == ["max", "simlp"]
    assert board.Board.from_plain(json.loads(board.dump(merged))) == merged
    board.write(tmp_path, merged)
    assert gather(None) == merged
    sets[0] = dataclasses.replace(simlp.bags, fit=FitOptions(epochs=2, selection=Selection.last))
    capsys.readouterr()
    assert gather(None).cells == ()
    assert capsys.readouterr().err.count("toy:") == 2


def made_cell(modules: dict[str, ModuleType], method: str, seed: int, **auroc: float) -> Any:
    scores = {model: {"all": value} for model, value in auroc.items()}
    return modules["board_cells"].Cell("a", method, seed, 0, "i", "d", scores, {}, {}, 2.0, f"2026-01-0{seed % 9 + 1}")


def made_board(modules: dict[str, ModuleType], *, with_max: bool = True) -> Any:
    """One set: a recipe that loses, one that has two seeds of three, and one with no cell at all."""
    rows, method = modules["board_rows"], modules["board_methods"].Method
    first = modules["board_sets"].FIRST_SEED
    facts = rows.SetFacts("a", "A", "g", ("all",), 3, 3, 1, 0.0, "D 8", "d", False)
    cells = []
    for number in range(3):
        seed, shift = first + number, number / 100
        cells += [made_cell(modules, "simlp", seed, plain=0.6 + shift)]
        cells += [made_cell(modules, "max", seed, plain=0.7 + shift)] if with_max else []
        cells += [made_cell(modules, "abmil/plain", seed, plain=0.9 + shift)]
        losing = {"plain": 0.9 + shift, "student": 0.5 + 2 * shift, "teacher": 0.5, "pair": 0.92 + shift * 1.1}
        cells += [made_cell(modules, "abmil/mhim", seed, **losing)]
    cells += [made_cell(modules, "abmil/mhim-v1", first + number, **losing) for number in range(2)]
    methods = [method("simlp"), method("max"), *(method("abmil", name) for name in ("plain", "mhim", "mhim-v1"))]
    return rows.Board((facts,), (*methods, method("dsmil", "plain")), tuple(cells))


def test_a_loss_is_a_row_like_a_gain_with_command_seeds_interval_and_date(modules: dict[str, ModuleType]) -> None:
    board = made_board(modules)
    results = modules["board_rows"].rows_of(board)
    student = results.row("a", "abmil/mhim", "student")
    assert student.minus_plain["all"].mean == pytest.approx(-0.39)
    assert student.minus_plain["all"].high < 0
    assert student.control == "max"
    assert student.minus_control.mean == pytest.approx(-0.19)
    assert student.seeds == 3
    assert student.date == "2026-01-04"
    assert "--only a:abmil/mhim --seeds 3" in student.command
    assert results.row("a", "abmil/mhim", "pair").minus_student["all"].low > 0
    page = modules["board_markdown"].render_markdown(board, results)
    (line,) = [line for line in page.splitlines() if line.startswith("| abmil/mhim |") and "a:abmil/mhim" in line]
    assert "**−.390 [" in line
    assert "2026-01-04" in line
    assert "3 × 1" in line
    assert "**+" in next(
        line for line in page.splitlines() if line.startswith("| abmil/mhim, pair |") and "a:abmil" in line
    )


def test_what_is_missing_is_named_with_what_is_there_of_it(modules: dict[str, ModuleType]) -> None:
    results = modules["board_rows"].rows_of(made_board(modules))
    assert {(gap.method, gap.reason[:11]) for gap in results.gaps} == {
        ("abmil/mhim-v1", "2 of 3 cell"),
        ("dsmil/plain", "0 of 3 cell"),
    }
    assert results.row("a", "abmil/mhim-v1", "student") is None
    page = modules["board_markdown"].render_markdown(made_board(modules), results)
    missing = page[page.index("## Missing") :]
    assert "dsmil/plain" in missing
    assert "abmil/mhim-v1" in missing


def test_no_row_enters_without_both_controls(modules: dict[str, ModuleType]) -> None:
    results = modules["board_rows"].rows_of(made_board(modules, with_max=False))
    assert results.rows == ()
    assert len(results.gaps) == 6


def test_the_interval_over_folds_is_wider_than_that_over_independent_pairs(modules: dict[str, ModuleType]) -> None:
    paired_interval = modules["intervals"].paired_interval
    ours = [0.7, 0.8, 0.75, 0.9, 0.6]
    independent, folds = paired_interval(ours, [0.0] * 5), paired_interval(ours, [0.0] * 5, 0.25)
    assert independent.high - independent.mean == pytest.approx(0.1388, abs=1e-4)  # 2.776·s/√5, s = .1118
    assert (folds.high - folds.mean) / (independent.high - independent.mean) == pytest.approx(1.5)  # √(1 + 5/4)


def test_every_mining_aggregator_is_on_the_board_under_every_recipe(modules: dict[str, ModuleType]) -> None:
    from flows.config.recipes import RECIPES
    from mhim_core.mil.registry import MINING_AGGREGATORS

    names = set(modules["board_methods"].board_methods())
    assert names == {"simlp", "max"} | {
        f"{aggregator}/{recipe}" for aggregator in MINING_AGGREGATORS for recipe in ("plain", *RECIPES)
    }


def test_the_first_control_is_an_mlp_on_the_mean_of_the_instances(modules: dict[str, ModuleType]) -> None:
    source = modules["board_methods"].MeanBags(ToySource({BagId("a"): torch.tensor([[1.0, 3.0], [3.0, 5.0]])}, 2))
    assert source.lengths() == {"a": 1}
    assert source.read(BagId("a")).tolist() == [[2.0, 4.0]]


def test_the_committed_pages_are_what_the_committed_cells_give(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    board = modules["board"].Board.from_plain(json.loads((DOCS / "board.json").read_text()))
    modules["board"].write(tmp_path, board)
    for name in ("board.json", "board.md", "board.html"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (DOCS / name).read_text(encoding="utf-8"), name


def test_no_committed_row_is_without_command_seeds_interval_and_date(modules: dict[str, ModuleType]) -> None:
    board = modules["board"].Board.from_plain(json.loads((DOCS / "board.json").read_text()))
    results = modules["board_rows"].rows_of(board)
    assert results.rows
    least = {facts.name: facts.min_seeds for facts in board.sets}
    for row in results.rows:
        intervals = [*row.auroc.values(), *row.minus_plain.values()]
        intervals += [*row.minus_student.values(), *([row.minus_control] if row.minus_control is not None else [])]
        assert all(math.isfinite(number) for own in intervals for number in own), row
        assert row.seeds >= least[row.set]
        assert row.date
        assert f"--only {row.set}:{row.method} --seeds {row.seeds}" in row.command
    rows, gaps = {(row.set, row.method) for row in results.rows}, {(gap.set, gap.method) for gap in results.gaps}
    assert rows | gaps == {(facts.name, method.name) for facts in board.sets for method in board.methods}
    assert not rows & gaps


def test_recipes_change_nothing_but_model_and_mhim(modules: dict[str, ModuleType]) -> None:
    method = modules["board_methods"].Method("abmil", "mhim-v1")
    base = ModelOptions(embed_dim=8, dropout=0.5)
    assert dataclasses.replace(method.model(base), embed_activation=base.embed_activation) == base
    assert method.model(base).embed_activation == "relu"
    assert method.mhim().v1_random_mask_ratio == 0.5
