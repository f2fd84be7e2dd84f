"""mhim hardness run=runs/first: hard slides, suspect labels, and what sampling by type would do, before it is done.

Inputs: a finished classification run that holds bags out, its features, and its slides for thumbnails. Outputs, in out=
(or the run's `hardness/`): `bags`, `tiles` and `effects` as .parquet and .csv (`mhim_core/hardness/table.py` says what
is in them), `features.parquet`, `hardness.json`, `hardness.html`. Cost: one pass over all bags, each through the models
of all folds and seeds, then distances between all pairs of bags; no Ray. Exit code: 0, 2, 6.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cluster.storage import open_storage
from flows.config.files import write_resolved
from flows.config.hardness import HardnessConfig, MapKind, parse_weights
from flows.engine.result import FlowResult
from flows.runs.evaluation import bag_unit
from flows.runs.fits import FoldFits, model_digests, model_names, results_of
from flows.runs.folder import Run, read_run
from flows.runs.hardness_points import read_points
from flows.runs.hardness_rows import HEADS, bag_rows, mean_draws, tile_rows, typed_folds
from flows.runs.hardness_sampling import BAGS, FEATURES, FOLDER, SUMMARY
from mhim_core.errors import InputError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint, sha256
from mhim_core.hardness.hardness_type import HardnessType
from mhim_core.hardness.plane import principal_plane, umap_plane
from mhim_core.hardness.resampling import PROPOSED, Effect, effects_of
from mhim_core.hardness.spaces import judge_in_spaces
from mhim_core.hardness.table import (
    VERSION,
    BagFeatures,
    bags_schema,
    effects_schema,
    encode_features,
    encode_rows,
    tiles_schema,
)
from mhim_core.metrics.arrays import Floats
from mhim_core.records import parse_object
from mhim_core.storage import Storage
from mhim_core.tables import write_csv
from mhim_core.task import TaskKind

TILES, EFFECTS, PAGE = "tiles.parquet", "effects.parquet", "hardness.html"


def run(config: HardnessConfig) -> FlowResult:
    """Raises InputError (2) where the run is not finished, no classification, or holds nothing out."""
    trained_run = read_run(config.run, store=config.store, predict_with=config.chosen.predict_with)
    place = _Place.of(config, trained_run)
    _check(trained_run)
    fits = results_of(trained_run)
    wanted = _identity(config, trained_run, fits)
    if place.holds(wanted):
        print(f"hardness: {place.locate(PAGE)}")
        return FlowResult(outputs=place.outputs(), recomputed=False)
    found = examine(config, trained_run, fits)
    write(config, trained_run, place, found, wanted)
    _print(found, trained_run)
    print(f"hardness: {place.locate(PAGE)}")
    return FlowResult(outputs=place.outputs())


class Examined(NamedTuple):
    """Everything that is written."""

    bags: list[dict[str, Any]]
    tiles: list[dict[str, Any]]
    effects: list[Effect]
    draws: dict[str, list[dict[str, Any]]]
    """By weights: slides and draws in an epoch by class and type, over the folds' training parts (the mean)."""
    features: BagFeatures
    map_kind: str


def examine(config: HardnessConfig, trained_run: Run, fits: Sequence[FoldFits]) -> Examined:
    """Raises InputError where a fold has too few bags for that many neighbours."""
    points = read_points(trained_run, fits, config.tiles_per_slide)
    spaces = [fit.space for fit in points.spaces]
    judged = judge_in_spaces(spaces, points.label_N, points.patients, config.neighbours)
    plane = umap_plane if config.map is MapKind.umap else _pca
    folds = typed_folds(trained_run, points, config.neighbours)
    weightings = [
        parse_weights(text) for text in ([config.sampling_by_hardness] if config.sampling_by_hardness else PROPOSED)
    ]
    return Examined(
        bags=bag_rows(trained_run, points, judged, config.neighbours, plane(points.mean_ND, config.neighbours)),
        tiles=tile_rows(trained_run, points, config.neighbours, plane),
        effects=[
            effect
            for head in HEADS
            for effect in effects_of(
                folds[head], head, weightings, trained_run.classes, config.bootstrap_replicates, trained_run.seeds[0]
            )
        ],
        draws={str(weights): mean_draws(folds[HEADS[0]], weights, trained_run.classes) for weights in weightings},
        features=BagFeatures(
            [bag.bag_id for bag in trained_run.bags],
            points.patients,
            [trained_run.classes[label] for label in points.label_N],
            points.mean_ND,
        ),
        map_kind=config.map.value,
    )


def write(config: HardnessConfig, trained_run: Run, place: "_Place", found: Examined, wanted: str) -> None:
    """Tables, page, and the summary last: it says that the rest is there."""
    from flows.prediction.thumbnails import thumbnails
    from mhim_core.report.hardness_page import HardnessPage, render_hardness

    place.storage.delete(place.prefix + SUMMARY)
    tables = {
        BAGS: encode_rows(found.bags, bags_schema()),
        TILES: encode_rows(found.tiles, tiles_schema()),
        EFFECTS: encode_rows([effect._asdict() for effect in found.effects], effects_schema()),
        FEATURES: encode_features(found.features),
    }
    for name, data in tables.items():
        place.storage.put(place.prefix + name, data)
    rows = {BAGS: found.bags, TILES: found.tiles, EFFECTS: [effect._asdict() for effect in found.effects]}
    for name, schema in ((BAGS, bags_schema()), (TILES, tiles_schema()), (EFFECTS, effects_schema())):
        place.storage.put(place.prefix + name.replace(".parquet", ".csv"), write_csv(rows[name], schema.names))
    summary = _summary(config, trained_run, found) | {
        "of": wanted,
        "tables": {name: sha256(data) for name, data in tables.items()},
    }
    shown = [row for row in found.bags if row["rank"] is not None][: config.max_thumbnails]
    uris = {str(slide.slide_id): trained_run.slide_uri(slide) for slide in trained_run.slides}
    pictures = dict(thumbnails((row["bag_id"], uris[row["slide_ids"].split(" ")[0]]) for row in shown))
    page = HardnessPage(
        cohort=trained_run.record["cohort_name"],
        summary=summary,
        bags=found.bags,
        tiles=found.tiles,
        effects=found.effects,
        draws=found.draws,
        pictures=pictures,
    )
    place.storage.put(place.prefix + PAGE, render_hardness(page).encode())
    write_resolved(place.storage, config, "hardness", place.prefix.rstrip("/"))
    place.storage.put(place.prefix + SUMMARY, canonical_json(summary))


class _Place(NamedTuple):
    storage: Storage
    prefix: str

    @classmethod
    def of(cls, config: HardnessConfig, trained_run: Run) -> "_Place":
        return cls(open_storage(config.out), "") if config.out else cls(trained_run.storage, f"{FOLDER}/")

    def locate(self, name: str) -> str:
        return self.storage.locate(self.prefix + name)

    def outputs(self) -> dict[str, str]:
        return {"page": self.locate(PAGE), "bags": self.locate(BAGS), "summary": self.locate(SUMMARY)}

    def holds(self, wanted: str) -> bool:
        """Whether everything of this identity is there."""
        try:
            summary = parse_object(self.storage.get(self.prefix + SUMMARY), self.locate(SUMMARY))
        except NotFoundError:
            return False
        present = {entry.key for entry in self.storage.list(self.prefix.rstrip("/"))}
        return summary.get("of") == wanted and {self.prefix + name for name in (PAGE, *summary["tables"])} <= present


def _check(trained_run: Run) -> None:
    if trained_run.task.kind is not TaskKind.classification:
        raise InputError(f"{trained_run.storage.uri} is a {trained_run.task.kind}; types of neighbours need classes")
    if not any(split.test for split in trained_run.splits):
        raise InputError(
            f"{trained_run.storage.uri} holds no slide out (scheme=final trains on every patient), and no slide may "
            "judge itself; use a run with scheme=folds"
        )


def _identity(config: HardnessConfig, trained_run: Run, fits: Sequence[FoldFits]) -> str:
    return fingerprint(
        {
            "version": VERSION,
            "models": model_digests(fits),
            "reported": model_names(trained_run)[0],
            "run": trained_run.record["fingerprint"],
            "neighbours": config.neighbours,
            "weights": config.sampling_by_hardness,
            "tiles": config.tiles_per_slide,
            "map": config.map.value,
            "replicates": config.bootstrap_replicates,
            "thumbnails": config.max_thumbnails,
        }
    )


def _pca(x_ND: Floats, k: int) -> Floats:
    return principal_plane(x_ND)


def _summary(config: HardnessConfig, trained_run: Run, found: Examined) -> dict[str, Any]:
    pin = trained_run.record["manifest"]
    judged = [row for row in found.bags if row["rank"] is not None]
    return {
        "version": VERSION,
        "run": trained_run.record["fingerprint"],
        "model": model_names(trained_run)[0],
        "unit": bag_unit(trained_run).value,
        "classes": list(trained_run.classes),
        "feature_set": trained_run.identity["feature_set"],
        "manifest_sha256": pin["sha256"],
        "neighbours": config.neighbours,
        "map": found.map_kind,
        "num_bags": len(found.bags),
        "num_not_held_out": len(found.bags) - len(judged),
        "types": _counted(judged, "type", trained_run.classes),
        "feature_types": _counted(found.bags, "feature_type", trained_run.classes),
        "tile_types": _counted(found.tiles, "type", trained_run.classes),
        "suspects": [row["bag_id"] for row in judged if row["is_suspect"]],
        "hard": [row["bag_id"] for row in judged if row["type"] in _HARD],
        "draws": found.draws,
        "effects": found.effects,
    }


_HARD = (HardnessType.borderline, HardnessType.rare)


def _counted(rows: Sequence[Mapping[str, Any]], column: str, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    return {
        name: {kind.value: sum(row["label"] == name and row[column] == kind for row in rows) for kind in HardnessType}
        for name in classes
    }


def _print(found: Examined, trained_run: Run) -> None:
    judged = [row for row in found.bags if row["rank"] is not None]
    print(f"{len(judged)} held-out bags by type, by the models that held them out:")
    for name, counts in _counted(judged, "type", trained_run.classes).items():
        print(f"  {name}: " + ", ".join(f"{num} {kind}" for kind, num in counts.items()))
    if left := len(found.bags) - len(judged):
        print(f"{left} bags were held out by no model and have no type")
    suspects = [row for row in judged if row["is_suspect"]]
    print(f"{len(suspects)} suspect labels (outlier, and another class confidently predicted):")
    for row in suspects[:_NUM_PRINTED]:
        print(
            f"  {row['bag_id']}: labelled {row['label']}, predicted {row['predicted']}, "
            f"suspicion {row['suspicion']:.2f}"
        )
    if len(suspects) > _NUM_PRINTED:
        print(f"  and {len(suspects) - _NUM_PRINTED} more")
    for line in _effect_lines(found.effects):
        print(line)


_NUM_PRINTED = 10


def _effect_lines(effects: Sequence[Effect]) -> Iterator[str]:
    yield "AUROC of a logistic regression with weights by type, minus that without:"
    for effect in effects:
        if effect.metric == "auroc":
            figure = "not possible: " + effect.reason
            if effect.difference is not None:
                interval = "" if effect.low is None else f" [{effect.low:+.3f}, {effect.high:+.3f}]"
                figure = f"{effect.difference:+.3f}{interval}"
            yield f"  {effect.weights} ({effect.head}): {figure}"
