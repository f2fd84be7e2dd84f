"""How often a training draws each bag, by the types of an earlier `mhim hardness`: settled once, kept in the run.

What may enter a fold's types: of the table, `hardness_types=features` takes the mean tile features of that fold's
training bags, and types them among themselves by their own labels. With `model`, a type is what models that held the
bag out say in the midst of all other bags of that run, so no patient of that run may be in this fold's test part; one
in its validation part has a say in which epoch is chosen anyway, and is told.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cluster.storage import open_storage
from flows.config.hardness import SamplingKeys, TypesFrom
from mhim_core.cohort.splits import Split
from mhim_core.cohort.tasks import BagMembers, bags_in
from mhim_core.errors import InputError, IntegrityError, NotFoundError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.hardness.hardness_type import HardnessType, TypeWeights
from mhim_core.hardness.table import decode_bags, decode_features
from mhim_core.records import parse_json, parse_object
from mhim_core.storage import Storage
from mhim_core.store.manifest import Manifest
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.types import BagId

SUMMARY, BAGS, FEATURES = "hardness.json", "bags.parquet", "features.parquet"
FOLDER = "hardness"
"""In the run that is looked at."""
SECTION = "sampling"
"""Of a run's identity."""


class Sampling(NamedTuple):
    """A run's weights."""

    identity: dict[str, Any]
    """What it adds to the run's identity: plain JSON."""
    weights: Mapping[int, Mapping[BagId, float]]
    """By fold, of its training bags."""
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """Where the run keeps them."""
        return sampling_key(self.identity)

    def to_bytes(self) -> bytes:
        return canonical_json({str(fold): dict(weights) for fold, weights in self.weights.items()})


def sampling_key(identity: Mapping[str, Any]) -> str:
    """In the run's folder."""
    return f"sampling-{identity['weights'][:16]}.json"


def settle_sampling(
    keys: SamplingKeys,
    bags: Sequence[BagMembers],
    splits: Sequence[Split],
    task: Task,
    manifest: Manifest,
    unit: str,
) -> Sampling | None:
    """The weights that the keys ask for, from the table that they name; None: every bag once an epoch.

    Raises InputError where table and training do not match, or where a test part would have a say in the weights.
    """
    if not keys.sampling_by_hardness:
        return None
    if task.kind is not TaskKind.classification:
        raise InputError(f"sampling_by_hardness= needs classes, and the task is {task.kind}")
    table = _Table.open(keys.hardness)
    table.check(bags, task, manifest, unit)
    of_fold = _types_by_features if keys.hardness_types is TypesFrom.features else _types_by_models
    weights, notes = {}, []
    for split in splits:
        train = bags_in(bags, split.train)
        types = of_fold(table, train, split, bags)
        notes.append(f"fold {split.fold}: drawn by type: {_say(types, keys.weights)}")
        weights[split.fold] = {bag.bag_id: keys.weights.of(kind) for bag, kind in zip(train, types, strict=True)}
    if keys.hardness_types is TypesFrom.model:
        notes += _validation_notes(table, splits, bags)
    sampling = Sampling({}, weights, tuple(notes))
    identity = {
        "by_hardness": str(keys.weights),
        "types": keys.hardness_types.value,
        "weights": sha256(sampling.to_bytes()),
    }
    return sampling._replace(identity=identity)


def pinned_sampling(storage: Storage, record: Mapping[str, Any] | None, keys: SamplingKeys) -> Sampling | None:
    """The weights with which a run of these very keys was created, which needs the table no more; None: there are none.

    Raises IntegrityError where they are gone or changed.
    """
    if record is None or SECTION not in record["identity"]:
        return None
    given = {"sampling_by_hardness": keys.sampling_by_hardness, "hardness": keys.hardness}
    if any(record["config"].get(name) != value for name, value in given.items()):
        return None
    identity = record["identity"][SECTION]
    if identity["types"] != keys.hardness_types.value:
        return None
    return read_sampling(storage, identity)


def read_sampling(storage: Storage, identity: Mapping[str, Any]) -> Sampling:
    """Raises IntegrityError where the run's weights are gone or changed."""
    where = storage.locate(sampling_key(identity))
    try:
        data = storage.get(sampling_key(identity))
    except NotFoundError as error:
        raise IntegrityError(f"{where}, how often the run draws each bag, is gone: {error}") from error
    if sha256(data) != identity["weights"]:
        raise IntegrityError(f"{where} is not what run.json names")
    weights = {int(fold): {BagId(bag): weight for bag, weight in own.items()} for fold, own in parse_json(data).items()}
    return Sampling(dict(identity), weights, ())


class _Table(NamedTuple):
    """The output of `mhim hardness`, verified."""

    uri: str
    storage: Storage
    prefix: str
    summary: dict[str, Any]
    labels: dict[str, str]
    patients: dict[str, str]
    rows: dict[str, Any]
    """By bag: its mean tile features."""

    @classmethod
    def open(cls, uri: str) -> "_Table":
        """Raises InputError where there is none, IntegrityError where it is damaged."""
        storage = open_storage(uri)
        for prefix in ("", f"{FOLDER}/"):
            try:
                data = storage.get(prefix + SUMMARY)
            except NotFoundError:
                continue
            summary = parse_object(data, storage.locate(prefix + SUMMARY))
            features = decode_features(_verified(storage, prefix, FEATURES, summary), storage.locate(prefix + FEATURES))
            return cls(
                uri,
                storage,
                prefix,
                summary,
                dict(zip(features.bag_ids, features.labels, strict=True)),
                dict(zip(features.bag_ids, features.patients, strict=True)),
                dict(zip(features.bag_ids, features.x_ND, strict=True)),
            )
        raise InputError(f"hardness={uri} holds no {SUMMARY}; make it with mhim hardness run=…")

    def types(self) -> dict[str, HardnessType | None]:
        """By bag, as the models that held it out typed it."""
        where = self.storage.locate(self.prefix + BAGS)
        return {row["bag_id"]: row["type"] for row in decode_bags(_verified(*self[1:3], BAGS, self.summary), where)}

    def check(self, bags: Sequence[BagMembers], task: Task, manifest: Manifest, unit: str) -> None:
        """Raises InputError where it is not of these bags, labels, patients and features."""
        wanted = {
            "features": (self.summary["feature_set"], manifest.feature_set),
            "feature manifest": (self.summary["manifest_sha256"], manifest.ref.sha256),
            "bags (bags=)": (self.summary["unit"], unit),
            "classes": (tuple(self.summary["classes"]), task.classes),
        }
        if differing := [name for name, (own, other) in wanted.items() if own != other]:
            raise InputError(
                f"hardness={self.uri} is of other {', '.join(differing)} than this training; run mhim hardness on a "
                "run with the same ones"
            )
        known = [bag for bag in bags if bag.bag_id in self.labels]
        for what, own, of_bag in (
            ("label", self.labels, lambda bag: task.classes[bag.target.class_index]),
            ("patient", self.patients, lambda bag: str(bag.patient_id)),
        ):
            different = [bag for bag in known if own[bag.bag_id] != of_bag(bag)]
            if different:
                first = different[0]
                raise InputError(
                    f"hardness={self.uri}: {len(different)} bags have another {what} there ({first.bag_id}: "
                    f"{own[first.bag_id]} there, {of_bag(first)} here), and types depend on it; run mhim hardness on a "
                    "run with today's table"
                )


def _verified(storage: Storage, prefix: str, name: str, summary: Mapping[str, Any]) -> bytes:
    try:
        data = storage.get(prefix + name)
    except NotFoundError as error:
        raise IntegrityError(f"{storage.locate(prefix + name)} is gone; run mhim hardness again") from error
    if sha256(data) != summary["tables"].get(name):
        raise IntegrityError(f"{storage.locate(prefix + name)} is not the table that {SUMMARY} beside it names")
    return data


def _require_rows(table: _Table, train: Sequence[BagMembers], split: Split) -> None:
    absent = [bag.bag_id for bag in train if bag.bag_id not in table.labels]
    if absent:
        raise InputError(
            f"hardness={table.uri} does not know {len(absent)} of the {len(train)} training bags of fold {split.fold} "
            f"({', '.join(absent[:5])}{', …' * (len(absent) > 5)}); run mhim hardness on a run of all of them"
        )


def _types_by_features(
    table: _Table, train: Sequence[BagMembers], split: Split, bags: Sequence[BagMembers]
) -> list[HardnessType]:
    import numpy as np

    from mhim_core.hardness.neighbours import Points, types_among

    _require_rows(table, train, split)
    labels = [bag.target.class_index for bag in train if isinstance(bag.target, ClassTarget)]
    points = Points(
        np.stack([table.rows[bag.bag_id] for bag in train]), np.array(labels), [str(bag.patient_id) for bag in train]
    )
    return types_among(points, table.summary["neighbours"])


def _types_by_models(
    table: _Table, train: Sequence[BagMembers], split: Split, bags: Sequence[BagMembers]
) -> list[HardnessType]:
    seen = set(table.patients.values())
    leaking = sorted({str(bag.patient_id) for bag in bags_in(bags, split.test)} & seen)
    if leaking:
        raise InputError(
            f"hardness_types=model: {len(leaking)} patients of the test part of fold {split.fold} are in "
            f"hardness={table.uri}, whose models and neighbours their labels have shaped, so that the fold's figures "
            "would not be held out; hardness_types=features types each fold's training bags by themselves, or make the "
            "table from a run without these patients"
        )
    _require_rows(table, train, split)
    typed = table.types()
    types = [typed[bag.bag_id] for bag in train]
    untyped = [bag.bag_id for bag, kind in zip(train, types, strict=True) if kind is None]
    if untyped:
        raise InputError(
            f"hardness_types=model: no model of that run held out {len(untyped)} training bags of fold {split.fold} "
            f"({', '.join(untyped[:5])}{', …' * (len(untyped) > 5)}), so they have no type; a run with scheme=folds "
            "holds every bag out once"
        )
    return [kind for kind in types if kind is not None]


def _validation_notes(table: _Table, splits: Sequence[Split], bags: Sequence[BagMembers]) -> list[str]:
    seen = set(table.patients.values())
    numbers = {
        split.fold: len({str(bag.patient_id) for bag in bags_in(bags, split.validation)} & seen) for split in splits
    }
    known = [f"{num} of fold {fold}" for fold, num in numbers.items() if num]
    if not known:
        return []
    return [
        f"validation patients known to hardness={table.uri}: {', '.join(known)}; their labels had a say in the "
        "weights, so validation figures are a little too good (no test figure is)"
    ]


def _say(types: Sequence[HardnessType], weights: TypeWeights) -> str:
    total = sum(weights.of(kind) for kind in types) or 1.0
    return ", ".join(
        f"{types.count(kind)} {kind} → {len(types) * types.count(kind) * weights.of(kind) / total:.1f}"
        for kind in HardnessType
    )
