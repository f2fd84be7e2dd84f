"""Training runs, created or resumed from a config, and the fits that they plan: one of train, many of sweep."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from flows.config.commands import TrainConfig
from flows.config.flat import flat
from flows.config.keys import Method
from flows.runs.cohort import load_cohort
from flows.runs.folder import (
    PinnedFeatures,
    Run,
    cohort_identity,
    package_versions,
    pinned_start,
    pinned_teachers,
    start_run,
)
from flows.runs.hardness_sampling import SECTION, Sampling, pinned_sampling, read_sampling, settle_sampling
from flows.runs.identity import run_identity
from flows.runs.store_place import recorded_places
from flows.runs.training_data import TrainingData
from flows.runs.training_places import TrainingPlaces
from flows.runs.warm_start import Start, check_start, find_start
from mhim_core.cohort.splits import Split
from mhim_core.cohort.table import Cohort
from mhim_core.cohort.tasks import BagMembers, bags_in, make_bags
from mhim_core.errors import ConfigError
from mhim_core.fingerprint import canonical_json
from mhim_core.printable import one_line
from mhim_core.storage import Storage
from mhim_core.store.manifest import Manifest
from mhim_core.store.record import CommitRecord
from mhim_core.task import Task
from mhim_core.train.plan import FitSpec, FoldBags, LabelledBag, Stage, TrainPlan, fit_name, plan_fits
from mhim_core.types import BagId, SlideId


def read_cohort(config: TrainConfig) -> Cohort:
    """The cohort's table, with what was noted about it printed. Raises CohortError."""
    loaded = load_cohort(config.data.cohort, with_files=False, labels_uri=config.data.labels, options=config.table)
    for line in (*loaded.cohort.notes, *(f"warning: {finding}" for finding in loaded.warnings)):
        print(one_line(line))
    return loaded.cohort


def with_sampling(
    config: TrainConfig, data: TrainingData, manifest: Manifest, out: Storage, record: dict[str, Any] | None = None
) -> TrainingData:
    """The data with how often each bag is drawn: as the run in `out` with this record has it, or from the table that
    `hardness=` names.

    Raises InputError where that is of other bags, labels or features, or knows what is to be held out.
    """
    keys = config.sampling
    if not keys.sampling_by_hardness:
        return data
    sampling = pinned_sampling(out, record, keys)
    if sampling is None:
        bags = make_bags(data.slides, data.task, config.target.bags)
        sampling = settle_sampling(keys, bags, data.splits, data.task, manifest, config.target.bags.value)
    assert sampling is not None
    return data._replace(sampling=sampling, notes=(*data.notes, *sampling.notes))


def open_run(
    config: TrainConfig,
    places: TrainingPlaces,
    cohort: Cohort,
    features: PinnedFeatures,
    data: TrainingData,
    start: Start | None = None,
) -> Run:
    """Create the run or resume it, with the slides that have a target and tiles, their splits, and the pinned manifest.

    `start`: what a new run with `warm_start=` starts from.
    """
    feature_set, ref = features.feature_set, features.manifest.ref
    record = {
        "identity": run_identity(config, seeds_of(config), data.task, feature_set.fingerprint),
        **recorded_places(places.out, places.store),
        "manifest": {"version": ref.version, "sha256": ref.sha256},
        "encoder": feature_set.encoder,
        "tiling": feature_set.tiling,
        "cohort_name": cohort.name,
        "excluded": data.excluded,
        "config": flat(config),  # as resolved at the first start, for information
    }
    plain = _plain(record)
    teachers = None
    if config.protocol.teacher:
        wanted = plain["identity"] | {"cohort": cohort_identity(data.slides, data.splits)}
        # a run that has copied them needs the other no more
        standing = pinned_teachers(places.record, config.protocol.teacher)
        teachers = _teacher_digests(places.teacher, config, wanted, ref.sha256) if standing is None else standing
    check_plan(config, data)
    if config.warm_start:
        if start is not None:
            check_start(start, config, data.task, feature_set)
        plain = plain | _started(config, places, plain, start)
    if data.sampling is not None:
        plain = plain | {"identity": plain["identity"] | {SECTION: data.sampling.identity}}
    run = start_run(places.out, plain, data.slides, data.splits, teachers, places.record)
    if data.sampling is not None:
        places.out.put_if_absent(data.sampling.key, data.sampling.to_bytes())
    if run.record["manifest"]["sha256"] == ref.sha256:
        return dataclasses.replace(run, features=features)
    return dataclasses.replace(run, named_store=config.store)  # another command was quicker, with another version


def new_start(config: TrainConfig, places: TrainingPlaces) -> Start | None:
    """The model to start from; None without a warm start, and for a run that was created with it and has it pinned."""
    if not config.warm_start or pinned_start(places.record, config.warm_start) is not None:
        return None
    return find_start(config, seeds_of(config))


def _started(
    config: TrainConfig, places: TrainingPlaces, record: dict[str, Any], start: Start | None
) -> dict[str, Any]:
    """What a warm start adds to the record; a run that was created with one has it pinned."""
    if start is not None:
        return {"identity": record["identity"] | {"warm_start": start.identity()}, "started_from": start.origin}
    return {"identity": record["identity"] | {"warm_start": pinned_start(places.record, config.warm_start)}}


def check_plan(config: TrainConfig, data: TrainingData) -> None:
    """Check the plan before the run is created: corrected keys would no longer match a run that exists.

    Raises ConfigError for options that do not fit together or to the task, SplitError for folds that cannot be trained.
    """
    bags = make_bags(data.slides, data.task, config.target.bags)
    TrainPlan(
        fits=_fits(config, data.task, bags, data.splits, seeds_of(config), data.sampling),
        d_in=1,
        task=data.task,
        model=config.model,
        mhim=config.mhim,
        fit=config.fit,
    )


def _fits(
    config: TrainConfig,
    task: Task,
    bags: Sequence[BagMembers],
    splits: Sequence[Split],
    seeds: Sequence[int],
    sampling: Sampling | None,
) -> tuple[FitSpec, ...]:
    def labelled(slide_ids: tuple[SlideId, ...]) -> tuple[LabelledBag, ...]:
        return tuple(LabelledBag(bag.bag_id, bag.target) for bag in bags_in(bags, slide_ids))

    weights = {} if sampling is None else sampling.weights
    folds = [
        FoldBags(split.fold, labelled(split.train), labelled(split.validation), weights.get(split.fold, {}))
        for split in splits
    ]
    stage = Stage.mhim if config.method is Method.mhim else Stage.plain
    return plan_fits(folds, stage, task, seeds, with_stage_one=not config.protocol.teacher)


def seeds_of(config: TrainConfig) -> list[int]:
    """seed, seed + 1, …"""
    return [config.fit.seed + index for index in range(config.protocol.seeds)]


def train_plan(trained_run: Run, config: TrainConfig) -> TrainPlan:
    """Seeds × folds × stages. A teacher precedes its student; one group of workers runs all fits."""
    start, drawn = trained_run.identity.get("warm_start"), trained_run.identity.get(SECTION)
    sampling = None if drawn is None else read_sampling(trained_run.storage, drawn)
    return TrainPlan(
        fits=_fits(config, trained_run.task, trained_run.bags, trained_run.splits, trained_run.seeds, sampling),
        d_in=trained_run.feature_set.dim,
        task=trained_run.task,
        model=config.model,
        mhim=config.mhim,
        fit=config.fit,
        warm_start={int(seed): digest for seed, digest in start["models"].items()} if start else {},
        provenance={
            "feature_set": trained_run.feature_set.fingerprint,
            "encoder": trained_run.feature_set.encoder_fingerprint,
            "manifest_sha256": trained_run.record["manifest"]["sha256"],
        },
        about=package_versions() | {"manifest_version": str(trained_run.record["manifest"]["version"])},
        execution=config.execution.checkpoints,
    )


def all_finished(trained_run: Run, plan: TrainPlan) -> bool:
    """Whether every fit has a result. That they are of this plan follows from the run's fingerprint."""
    present = {entry.key for entry in trained_run.storage.list("fits")}
    return all(f"fits/{fit.name}/result.json" in present for fit in plan.fits)


def take_teachers(trained_run: Run, places: TrainingPlaces) -> None:
    """Copy the other run's stage-1 models into this run, which then needs the other no more; results are kept."""
    from mhim_core.train.results import import_stage_one, read_result

    names = [fit_name(seed, split.fold, Stage.plain) for seed in trained_run.seeds for split in trained_run.splits]
    for name in names:
        if read_result(trained_run.storage, name) is None:
            import_stage_one(places.teacher.storage, trained_run.storage, name)


def _teacher_digests(other: Run, config: TrainConfig, wanted: dict[str, Any], manifest_sha256: str) -> dict[str, str]:
    """sha256 of every stage-1 model that is taken from the other run, by fit; they are part of this run's identity.

    Raises ConfigError, before the run is created, if the other run has other folds, seeds or data, or is not finished;
    further checks follow in each student's fit.
    """
    from mhim_core.train.results import read_result

    same = {"cohort": "slides, targets or folds", "task": "task", "feature_set": "features", "model": "model options"}
    differing = [name for key, name in same.items() if other.identity[key] != wanted[key]]
    if other.record["manifest"]["sha256"] != manifest_sha256:
        differing.append("feature manifest")
    if missing := sorted(set(wanted["seeds"]) - set(other.seeds)):
        differing.append(f"seeds ({', '.join(map(str, missing))} are not there)")
    if other.identity["fit"]["precision"] != wanted["fit"]["precision"]:
        differing.append("precision")
    if differing:
        raise ConfigError(
            f"teacher={config.protocol.teacher}: that run has other {', '.join(differing)}; a teacher must match"
        )
    digests = {}
    for name in (fit_name(seed, split.fold, Stage.plain) for seed in wanted["seeds"] for split in other.splits):
        result = read_result(other.storage, name)
        if result is None:
            raise ConfigError(
                f"teacher={config.protocol.teacher}: its fit {name} is not finished; finish that run first"
            )
        digests[name] = result.model_sha256
    return digests


def used_bags(trained_run: Run, plan: TrainPlan) -> dict[BagId, tuple[SlideId, ...]]:
    """The slides of every bag that a fit trains or validates on."""
    used = {bag.bag_id for fit in plan.fits for bag in (*fit.train, *fit.validation)}
    return {bag.bag_id: bag.slide_ids for bag in trained_run.bags if bag.bag_id in used}


def used_entries(trained_run: Run, plan: TrainPlan) -> dict[SlideId, CommitRecord]:
    """The pinned commits of their slides."""
    manifest = trained_run.manifest.entries
    return {slide_id: manifest[slide_id] for ids in used_bags(trained_run, plan).values() for slide_id in ids}


def unread_at_first(trained_run: Run, plan: TrainPlan) -> list[CommitRecord]:
    """The commits whose files the first unfinished fit does not read itself, which compares their sha256 as well."""
    present = {entry.key for entry in trained_run.storage.list("fits")}
    first = next(fit for fit in plan.fits if f"fits/{fit.name}/result.json" not in present)
    read = used_entries(trained_run, dataclasses.replace(plan, fits=(first,)))
    return [record for slide_id, record in used_entries(trained_run, plan).items() if slide_id not in read]


def try_plugin(config: TrainConfig, data: TrainingData) -> None:
    """Raises InputError where the user's own aggregator cannot do what it is to be trained for."""
    plugin = config.plugin.plugin()
    if plugin is not None and config.model.aggregator in plugin.names:
        from mhim_core.mil.probe import check_plugin

        check_plugin(plugin, config.model, data.task, mining=config.method is Method.mhim)


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """The record as read back from JSON, so that identities compare equal at the first start and later."""
    plain: dict[str, Any] = json.loads(canonical_json(record))
    return plain
