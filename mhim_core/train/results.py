"""Finished fits: `fits/<name>/result.json`, written last, names the model file and its sha256."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mhim_core.errors import ConflictError, InputError, IntegrityError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint, sha256, to_plain
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.records import parse_json, read_record
from mhim_core.storage import Storage
from mhim_core.task import Task
from mhim_core.train.card import INTENDED_USE, ModelCard, load_card
from mhim_core.train.card import SCHEMA as CARD_SCHEMA
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import FitSpec, Stage, TrainPlan

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A finished fit. Nothing in it varies between identical runs."""

    name: str
    stage: Stage
    fold: int
    seed: int
    identity: str
    """Fingerprint of everything that determines the fit, the teacher's weights included."""
    data_identity: str
    """Fingerprint of the training and validation bags; a student's and its teacher's agree."""
    model_key: str
    model_sha256: str
    best_epoch: int
    """The epoch whose weights were chosen, counted from 1."""
    metric_name: str
    metric: float | None
    """On validation; None where it is undefined there (the loss then decided alone)."""
    validation_loss: float
    stopped_early: bool
    history: tuple[EpochRecord, ...]

    def to_bytes(self) -> bytes:
        return canonical_json({"schema": SCHEMA} | to_plain(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "FitResult":
        """Raises IntegrityError naming `where` if the bytes are not a result of this schema."""
        try:
            raw = parse_json(data)
            schema = raw.pop("schema")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{where} is not a fit's result: {type(error).__name__}: {error}") from error
        if schema != SCHEMA:
            raise IntegrityError(f"{where} has another schema than {SCHEMA}")
        return read_record(cls, raw, where)


def result_key(name: str) -> str:
    return f"fits/{name}/result.json"


def model_key(name: str, digest: str) -> str:
    """Models are content-addressed: two attempts that differ never overwrite one another."""
    return f"fits/{name}/models/{digest}.safetensors"


def card_key(name: str, digest: str) -> str:
    """The model's card as JSON, beside it."""
    return f"fits/{name}/models/{digest}.json"


def initial_key(digest: str) -> str:
    """A model that a fit starts from."""
    return f"initial/{digest}.safetensors"


@dataclass(frozen=True, kw_only=True)
class FitIdentity:
    """What determines a fit's weights."""

    schema: int = SCHEMA
    spec: FitSpec
    d_in: int
    task: Task
    provenance: Mapping[str, str]
    model: ModelOptions
    fit: FitOptions
    mhim: MhimOptions | None
    """None in stage 1."""
    teacher: str | None
    """sha256 of the teacher's model file; None in stage 1."""
    warm_start: str | None = field(default=None, metadata={"neutral": None})
    """sha256 of the model file whose weights it starts from; None: from its own draw."""


def fit_identity(plan: TrainPlan, spec: FitSpec, teacher_sha256: str | None) -> str:
    """Covers what determines the weights; MHIM's options are no part of a stage-1 fit."""
    return fingerprint(
        FitIdentity(
            spec=spec,
            d_in=plan.d_in,
            task=plan.task,
            provenance=plan.provenance,
            model=plan.model,
            fit=plan.fit,
            mhim=plan.mhim if spec.stage is Stage.mhim else None,
            teacher=teacher_sha256,
            warm_start=plan.warm_start[spec.seed] if plan.warm_start else None,
        )
    )


def describe(
    card: ModelCard, plan: TrainPlan, result: FitResult, steps_by_workers: Mapping[int, int] = MappingProxyType({})
) -> dict[str, object]:
    """The JSON card beside the model file, for readers and other programs; `load_card` reads the file's own.

    `steps_by_workers`: how many steps were taken by how many workers; stated where it was not always one.
    """
    spec = next(spec for spec in plan.fits if spec.name == result.name)
    workers: dict[str, object] = {}
    if steps_by_workers.keys() - {1}:
        workers = {"steps_by_workers": {str(num): steps for num, steps in sorted(steps_by_workers.items())}}
    return (
        to_plain(card)
        | workers
        | {
            "schema": CARD_SCHEMA,
            "model_sha256": result.model_sha256,
            "fit": plan.fit,
            "training_bags": {"number": len(spec.train), "identity": result.data_identity},
            "metrics": {
                "selected_by": result.metric_name,
                "validation_metric": result.metric,
                "validation_loss": result.validation_loss,
                "best_epoch": result.best_epoch,
                "num_epochs": len(result.history),
            },
            "intended_use": INTENDED_USE,
            "about": plan.about,
        }
    )


def data_identity(spec: FitSpec) -> str:
    return fingerprint({"train": spec.train, "validation": spec.validation})


def read_result(storage: Storage, name: str) -> FitResult | None:
    """The finished fit of that name, or None. Raises IntegrityError if the record is damaged."""
    key = result_key(name)
    try:
        return FitResult.from_bytes(storage.get(key), storage.locate(key))
    except NotFoundError:
        return None


def read_model(storage: Storage, result: FitResult) -> bytes:
    """The model file's bytes, verified. Raises IntegrityError if they are missing or not what the result names."""
    where = storage.locate(result.model_key)
    try:
        data = storage.get(result.model_key)
    except NotFoundError as error:
        raise IntegrityError(
            f"fit {result.name}: its model file {where} is missing; delete its result.json to fit it again"
        ) from error
    if sha256(data) != result.model_sha256:
        raise IntegrityError(f"fit {result.name}: {where} does not match the sha256 in its result.json")
    return data


def adopt(storage: Storage, name: str, identity: str) -> FitResult | None:
    """An already finished identical fit, its model verified, or None.

    Raises ConflictError if a different fit was finished under that name.
    """
    result = read_result(storage, name)
    if result is None:
        return None
    if result.identity != identity:
        raise ConflictError(
            f"{storage.locate(result_key(name))} is the result of another configuration, data set or teacher "
            f"({result.identity[:12]}, this fit is {identity[:12]}); choose another output place"
        )
    read_model(storage, result)
    return result


def commit_result(storage: Storage, result: FitResult, model: bytes) -> FitResult:
    """Model first, result last and only if absent; returns the stored result, ours or an identical run's."""
    storage.put(result.model_key, model)
    if storage.put_if_absent(result_key(result.name), result.to_bytes()):
        return result
    standing = adopt(storage, result.name, result.identity)
    if standing is None:
        raise ConflictError(f"{storage.locate(result_key(result.name))} appeared and vanished while it was written")
    return standing


def import_stage_one(source: Storage, target: Storage, name: str) -> str:
    """Copy a finished stage-1 fit of another run, verified, so that the run is self-contained; its model's sha256.

    Whether it is of the same fold, seed and bags is checked by `read_teacher` before each student starts.
    Raises InputError if the other run has no such fit, ConflictError if the target has another under that name.
    """
    result = read_result(source, name)
    if result is None:
        raise InputError(
            f"{source.locate(result_key(name))} is missing: the run whose stage-1 models are to be reused has no such "
            "fit (folds and seeds must be the same), or has not finished it"
        )
    card = card_key(name, result.model_sha256)
    target.put(card, source.get(card))
    commit_result(target, result, read_model(source, result))
    return result.model_sha256


def read_teacher(storage: Storage, plan: TrainPlan, spec: FitSpec) -> bytes:
    """The verified model file of the stage-1 fit of the same fold, seed and bags.

    Raises InputError if it is missing or another one's: a student never trains under a wrong teacher.
    """
    if spec.teacher is None:
        raise InputError(f"fit {spec.name}: stage {spec.stage} needs a teacher, the stage-1 fit of its fold and seed")
    result = read_result(storage, spec.teacher)
    if result is None:
        where = storage.locate(result_key(spec.teacher))
        raise InputError(f"fit {spec.name}: its teacher {where} is missing; fit stage 1 of this fold and seed first")
    data = read_model(storage, result)
    card = load_card(data)
    expected = {
        "stage": (result.stage, Stage.plain),
        "fold": (result.fold, spec.fold),
        "seed": (result.seed, spec.seed),
        "training and validation bags": (result.data_identity, data_identity(spec)),
        "features per tile": (card.d_in, plan.d_in),
        "task": (card.task.unfitted, plan.task),
        "model options": (card.model, plan.model),
        "precision": (card.precision, plan.fit.precision),
        "features": (card.provenance, plan.provenance),
    }
    wrong = _differences(expected)
    if wrong:
        raise InputError(f"fit {spec.name}: its teacher {spec.teacher} does not match; {'; '.join(wrong)}")
    return data


def read_initial(storage: Storage, plan: TrainPlan, spec: FitSpec) -> bytes:
    """The verified file of the model that this fit starts from.

    Raises IntegrityError if it is missing or not the file that the plan names, InputError if it is of other features,
    another task or other model options than the plan's.
    """
    digest = plan.warm_start[spec.seed]
    where = storage.locate(initial_key(digest))
    try:
        data = storage.get(initial_key(digest))
    except NotFoundError as error:
        raise IntegrityError(f"fit {spec.name}: the model that it starts from, {where}, is missing") from error
    if sha256(data) != digest:
        raise IntegrityError(f"fit {spec.name}: {where} does not match the sha256 in its name")
    wrong = initial_differences(load_card(data), plan.d_in, plan.task, plan.model, plan.provenance)
    if wrong:
        raise InputError(f"fit {spec.name}: the model that it starts from does not match; {'; '.join(wrong)}")
    return data


def initial_differences(
    card: ModelCard, d_in: int, task: Task, model: ModelOptions, provenance: Mapping[str, str]
) -> list[str]:
    """What keeps a fit from starting at a model's weights, a phrase each; its data and MHIM's options may differ."""
    expected = {
        "features per tile": (card.d_in, d_in),
        "task": (card.task.unfitted, task),
        "model options": (card.model, model),
    } | {key: (card.provenance.get(key), provenance.get(key)) for key in ("feature_set", "encoder")}
    return _differences(expected)


def _differences(expected: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """A phrase for each of {what: (actual, wanted)} that differs in its canonical form."""
    return [
        f"{name}: {actual} instead of {wanted}"
        for name, (actual, wanted) in expected.items()
        if to_plain(actual) != to_plain(wanted)
    ]
