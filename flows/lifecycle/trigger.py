"""Whether a retraining is due: the champion's data compared with the present cohort."""

from typing import Any

from flows.config.flat import flat, with_keys
from flows.config.lifecycle import RetrainConfig
from flows.lifecycle.discover import Features
from flows.lifecycle.gate_steps import trainable_snapshot
from flows.lifecycle.training_steps import ModelWork
from mhim_core.records import with_neutral
from mhim_core.registry.clock import store_time_s
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.holdout import Holdout
from mhim_core.registry.occasion import Against, Occasion, find_occasion
from mhim_core.registry.promotions import Kind, Promotion, history
from mhim_core.registry.snapshot import read_snapshot
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import Storage

_SECONDS_A_DAY = 86400.0


def discover(
    work: ModelWork,
    registry: Storage,
    present: Promotion,
    holdout: Holdout,
    features: Features,
    config: RetrainConfig,
) -> Occasion:
    """Compare the present cohort with the champion's data."""
    now = trainable_snapshot(work.cohort_input, features, holdout, config)
    origin = made_from(registry, present)
    return find_occasion(
        now,
        Against(present.number, present.version),
        origin,
        before=read_snapshot(registry, work.name, origin["data"]) if origin else None,
        with_tiles=features.with_tiles(),
        num_waiting=num_waiting(work, features),
        # a store's clock costs a request: it is asked where age counts
        age_days=None if config.max_age is None else (store_time_s(registry) - present.promoted_s) / _SECONDS_A_DAY,
        max_age_days=config.max_age,
    )


def num_waiting(work: ModelWork, features: Features) -> int:
    """The number of slides without a label that are not embedded yet."""
    return sum(row.slide_id not in features.entries for row in work.cohort_input.cohort.rows if not row.is_labelled)


def made_from(registry: Storage, present: Promotion) -> dict[str, Any]:
    """{data, trained} of the champion; empty if it was registered by hand."""
    for record in history(registry, present.name):
        if record.kind is Kind.gate and record.version == present.version:
            return record.decision
    return {}


def as_before(config: RetrainConfig, registry: Storage) -> RetrainConfig:
    """The config; keys of gate and slide policy that are not given are taken from the last promotion by a flow.

    Keys that are given and differ are printed, and so are keys that are taken over.
    """
    records = [record for record in history(registry, config.name) if "settings" in record.decision]
    values, changed = flat(config), dict[str, Any]()
    for name, value in (_settings(records[-1], registry) if records else {}).items():
        before = tuple(value) if isinstance(value, list) else value
        now = values.get(name, before)
        if now == before:
            continue
        if config.gives(name):
            print(f"{name}={_shown(now)}, as given; it was {_shown(before)}", flush=True)
        else:
            print(f"{name}={_shown(before)}, as before; give {name}= to change it", flush=True)
            changed[name] = before
    return with_keys(config, **changed)


def _settings(record: Promotion, registry: Storage) -> dict[str, Any]:
    """Keys of gate and slide policy, as plain JSON. Raises IntegrityError for a key unknown to this version."""
    settings, where = record.decision["settings"], f"{registry.uri}, promotion {record.number} of {record.name}"
    return with_neutral(GateOptions, settings["gate"], where) | with_neutral(SlidePolicy, settings["policy"], where)


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
