"""mhim hardness, and training by what it found: what is written, what enters a fold's weights, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mhim_core.hardness.table import bags_schema, tiles_schema

Rows = list[dict[str, str]]
QUICK = ("method=plain", "epochs=1", "embed_dim=8", "folds=3")
LOOK = ("neighbours=5", "tiles_per_slide=2", "bootstrap_replicates=20", "max_thumbnails=1", "map=pca")


class Cohort:
    """Eighteen slides of as many patients, two classes, with features that were made up; runs on them."""

    def __init__(self, folder: Path, mhim: Any, rows: Rows, table: Path, store: str) -> None:
        self.folder, self.mhim, self.rows, self.table, self.store = folder, mhim, rows, table, store

    def words(self, out: str, *words: str) -> list[str]:
        given = {word.partition("=")[0] for word in words}
        quick = [word for word in QUICK if word.partition("=")[0] not in given]
        start = [] if "cohort" in given else [f"cohort={self.table}"]
        return ["train", *start, self.store, f"out={self.folder / out}", *quick, *words]

    def train(self, out: str, *words: str) -> Path:
        ended = self.mhim(*self.words(out, *words))
        assert ended.code == 0, ended
        return self.folder / out

    def look(self, run: Path, *words: str) -> Any:
        return self.mhim("hardness", f"run={run}", *LOOK, *words)


@pytest.fixture
def cohort(
    tmp_path: Path,
    mhim: Any,
    cohort_rows: Callable[..., Rows],
    write_table: Callable[..., Path],
    made_store: Callable[..., str],
    train_here: None,
) -> Cohort:
    rows = cohort_rows(neg=9, pos=9)
    return Cohort(tmp_path, mhim, rows, write_table(rows), made_store([row["slide_id"] for row in rows]))


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of a second; one test looks at them."""
    monkeypatch.setattr("mhim_core.report.hardness_page.render_hardness", lambda page: "")


def weights_of(run: Path) -> dict[str, dict[str, float]]:
    (path,) = run.glob("sampling-*.json")
    weights: dict[str, dict[str, float]] = json.loads(path.read_text())
    return weights


def identity_of(run: Path) -> dict[str, Any]:
    identity: dict[str, Any] = json.loads((run / "run.json").read_text())["identity"]
    return identity


def test_every_bag_is_typed_by_the_model_that_held_it_out(cohort: Cohort) -> None:
    run = cohort.train("run")
    ended = cohort.look(run)
    assert ended.code == 0, ended
    bags = pq.read_table(run / "hardness/bags.parquet")
    assert bags.schema.equals(bags_schema())
    rows = bags.to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, 19))
    parts = {row["slide_id"]: row for row in pq.read_table(next(run.glob("cohort-*.parquet"))).to_pylist()}
    for row in rows:
        own = parts[row["bag_id"]]
        assert own["parts"][own["folds"].index(row["fold"])] == "test"
        assert len(row["nearest"].split(" ")) == 4
        assert row["bag_id"] not in row["nearest"].split(" ")
        assert row["suspicion"] == pytest.approx((1 - row["probability"] + 1 - row["num_same"] / 4) / 2)
    tiles = pq.read_table(run / "hardness/tiles.parquet")
    assert tiles.schema.equals(tiles_schema())
    assert len(tiles) == 36
    summary = json.loads((run / "hardness/hardness.json").read_text())
    assert sum(sum(counts.values()) for counts in summary["types"].values()) == 18
    assert {effect["head"] for effect in summary["effects"]} == {"mean tile features", "bag embeddings"}
    page = (run / "hardness/hardness.html").read_text()
    assert all(row["bag_id"] in page for row in rows if row["is_suspect"])
    assert "<script" not in page
    assert cohort.look(run).out.count("\n") == 1, "it finds everything done"


@pytest.mark.thorough
def test_probabilities_are_those_of_the_run_s_own_evaluation(cohort: Cohort, no_page: None) -> None:
    run = cohort.train("run")
    cohort.look(run, f"out={cohort.folder / 'elsewhere'}")
    cohort.mhim("evaluate", f"run={run}", "bootstrap_replicates=0")
    evaluated = {row["slide_id"]: row for row in pq.read_table(run / "evaluation/predictions.parquet").to_pylist()}
    for row in pq.read_table(cohort.folder / "elsewhere/bags.parquet").to_pylist():
        assert row["probability"] == pytest.approx(evaluated[row["bag_id"]][f"probability_{row['label']}"], abs=1e-12)


@pytest.mark.thorough
def test_training_draws_by_type_and_the_labels_of_a_test_part_have_no_say(
    cohort: Cohort, write_table: Any, no_page: None
) -> None:
    run = cohort.train("run")
    cohort.look(run)
    keys = ("sampling_by_hardness=outlier:0.5,rare:2", f"hardness={run}")
    first = cohort.train("first", *keys)
    assert identity_of(first)["sampling"]["types"] == "features"
    assert "sampling" not in identity_of(run)
    weights = weights_of(first)
    assert {weight for own in weights.values() for weight in own.values()} <= {0.5, 1.0, 2.0}

    cohort_of = pq.read_table(next(first.glob("cohort-*.parquet"))).to_pylist()
    for fold, own in weights.items():
        train = {r["slide_id"] for r in cohort_of if r["parts"][r["folds"].index(int(fold))] == "train"}
        assert own.keys() == train

    # other labels of fold 0's test part, the same folds: the weights of fold 0 stay, those of others need not
    part = {r["slide_id"] for r in cohort_of if r["parts"][r["folds"].index(0)] == "test"}
    fold_of = {r["slide_id"]: f for r in cohort_of for f, p in zip(r["folds"], r["parts"], strict=True) if p == "test"}
    other = {"neg": "pos", "pos": "neg"}
    rows = [
        row | {"fold": fold_of[row["slide_id"]]} | ({"label": other[row["label"]]} if row["slide_id"] in part else {})
        for row in cohort.rows
    ]
    plain_rows = [row | {"fold": fold_of[row["slide_id"]]} for row in cohort.rows]
    drawn = []
    for name, table in (("as-is", plain_rows), ("turned", rows)):
        again = cohort.train(f"{name}-run", f"cohort={write_table(table, f'{name}.csv')}")
        assert cohort.look(again).code == 0
        after = cohort.train(
            f"{name}-drawn", f"cohort={cohort.folder / f'{name}.csv'}", keys[0], f"hardness={again}/hardness"
        )
        drawn.append(weights_of(after))
    assert drawn[0]["0"] == drawn[1]["0"]


def test_a_run_keeps_its_weights_when_the_table_is_gone_and_refuses_others(
    cohort: Cohort, refused: Any, no_page: None
) -> None:
    run = cohort.train("run")
    cohort.look(run)
    keys = ("sampling_by_hardness=rare:2", f"hardness={run}")
    first = cohort.train("first", *keys)
    (run / "hardness/hardness.json").unlink()
    assert cohort.mhim(*cohort.words("first", *keys)).code == 0
    assert "hardness" in refused(*cohort.words("second", *keys))
    said = refused(*cohort.words("first"), code=5)
    assert "sampling_by_hardness" in said
    assert weights_of(first)


def test_types_by_models_that_have_seen_a_test_part_are_refused(
    cohort: Cohort, refused: Any, write_table: Callable[..., Path], no_page: None
) -> None:
    """They are taken where the table's run knows none of the test patients, as of a fixed test part."""
    run = cohort.train("run")
    cohort.look(run)
    keys = ("sampling_by_hardness=rare:2", "hardness_types=model")
    assert "test part" in refused(*cohort.words("leaking", *keys, f"hardness={run}"))
    assert not (cohort.folder / "leaking").exists()

    test = {"neg7", "neg8", "pos7", "pos8"}
    inner = write_table([row for row in cohort.rows if row["slide_id"] not in test], "inner.csv")
    inner_run = cohort.train("inner", f"cohort={inner}", "folds=2")
    assert cohort.look(inner_run).code == 0
    validation = {"neg6", "pos6"}
    part_of = dict.fromkeys(test, "test") | dict.fromkeys(validation, "val")
    outer = write_table([row | {"split": part_of.get(row["slide_id"], "train")} for row in cohort.rows], "outer.csv")
    first = cohort.train("first", f"cohort={outer}", *keys, f"hardness={inner_run}")
    types = {row["bag_id"]: row["type"] for row in pq.read_table(inner_run / "hardness/bags.parquet").to_pylist()}
    ((_, weights),) = weights_of(first).items()
    assert len(weights) == 12
    assert weights == {bag: 2.0 if types[bag] == "rare" else 1.0 for bag in weights}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("sampling_by_hardness=rare:2",), "hardness="),
        (("hardness=somewhere",), "sampling_by_hardness="),
        (("sampling_by_hardness=hard:2", "hardness=somewhere"), "hard:2"),
        (("sampling_by_hardness=safe:1", "hardness=somewhere"), "changes nothing"),
        (("sampling_by_hardness=rare:2", "hardness=somewhere", "balanced_sampling=true"), "balanced_sampling"),
        (("sampling_by_hardness=rare:2", "hardness=somewhere"), "hardness.json"),
    ],
)
def test_keys_that_say_nothing_clear_are_refused(
    cohort: Cohort, refused: Any, words: tuple[str, ...], names: str
) -> None:
    assert names in refused(*cohort.words("run", *words))


@pytest.mark.thorough
def test_a_table_of_other_labels_patients_or_slides_is_refused(
    cohort: Cohort, refused: Any, write_table: Callable[..., Path], no_page: None
) -> None:
    run = cohort.train("run")
    cohort.look(run)
    keys = ("sampling_by_hardness=rare:2", f"hardness={run}")
    turned = [row | {"label": "pos"} if row["slide_id"] == "neg0" else row for row in cohort.rows]
    said = refused(*cohort.words("a", f"cohort={write_table(turned, 'turned.csv')}", *keys))
    assert "neg0" in said
    moved = [row | {"patient_id": "p-neg1"} if row["slide_id"] == "neg0" else row for row in cohort.rows]
    assert "neg0" in refused(*cohort.words("b", f"cohort={write_table(moved, 'moved.csv')}", *keys))
    fewer = write_table(cohort.rows[1:], "fewer.csv")
    small = cohort.train("small", f"cohort={fewer}")
    cohort.look(small)
    assert "neg0" in refused(*cohort.words("c", keys[0], f"hardness={small}"))


def test_what_has_no_classes_or_holds_nothing_out_is_refused(cohort: Cohort, refused: Any) -> None:
    final = cohort.train("final", "scheme=final")
    assert "scheme=folds" in refused("hardness", f"run={final}")
    assert "neighbours" in refused("hardness", f"run={final}", "neighbours=4")
