"""Is there an occasion for a retraining: what the champion was made from, against the cohort as it is now."""

import dataclasses
import json
from typing import Any, NamedTuple

from flows.config.keys import part
from flows.config.lifecycle import RetrainConfig
from flows.lifecycle.assessments import marker_key
from flows.lifecycle.discover import Features, differences, is_labelled, read_snapshot
from flows.lifecycle.gate_steps import Against, trainable_snapshot
from flows.lifecycle.training_steps import ModelWork
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.registry.clock import store_time_s
from mhim_core.registry.holdout import Holdout
from mhim_core.registry.promotions import Kind, Promotion, history
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import Storage

_SECONDS_A_DAY = 86400.0


class Occasion(NamedTuple):
    """Why there is, or is not, something to do."""

    against: Against
    data: str
    """The data fingerprint."""
    period: tuple[int, int] | None
    """Number of the champion's promotion and how many times max_age it is old, where age alone is the reason."""
    words: str
    """What is new, or why nothing is to be done."""
    embeds: bool
    """There are slides to embed."""
    trains: bool
    """And a challenger to train."""

    def marker(self, name: str) -> str:
        """The key that says that these data were judged against this champion."""
        return marker_key(name, self.against.version, self.data, self.period)

    def inputs(self, keys: str, others: str) -> dict[str, Any]:
        """What a retraining is of. `others`: the unlabelled slides, which make a flow of their own where alone."""
        found = {"against": self.against.version, "data": self.data, "keys": keys, "period": self.period}
        if not self.trains:
            found = {"against": self.against.version, "data": self.data, "others": others if self.embeds else ""}
        plain: dict[str, Any] = json.loads(canonical_json(found))
        return plain


def discover(
    work: ModelWork,
    registry: Storage,
    present: Promotion,
    holdout: Holdout,
    features: Features,
    config: RetrainConfig,
) -> Occasion:
    """The cohort as it is now against what the champion was made from."""
    now = trainable_snapshot(work.given, features, holdout, part(config, SlidePolicy))
    origin = made_from(registry, present)
    against = Against(present.number, present.version)
    waiting = num_waiting(work, features)
    unlabelled = f"; {waiting} slides without a label are not embedded yet" if waiting else ""
    if now.fingerprint != origin.get("data"):
        before = read_snapshot(registry, work.name, origin["data"]) if origin else None
        words = differences(before, now).words or "data of another making"
        return Occasion(against, now.fingerprint, None, words + unlabelled, embeds=True, trains=True)
    trained = now.of(features.with_tiles())
    if trained != origin.get("trained"):
        words = "slides have features now that had none when the champion was made" + unlabelled
        data = fingerprint({"data": now.fingerprint, "trained": trained})
        return Occasion(against, data, None, words, embeds=True, trains=True)
    if config.max_age is not None:
        age_s = store_time_s(registry) - present.promoted_s
        if (times := int(age_s // (config.max_age * _SECONDS_A_DAY))) > 0:
            words = f"nothing new, and the champion is older than {config.max_age:g} days" + unlabelled
            return Occasion(against, now.fingerprint, (present.number, times), words, embeds=True, trains=True)
    return Occasion(against, now.fingerprint, None, f"nothing new{unlabelled}", embeds=bool(waiting), trains=False)


def num_waiting(work: ModelWork, features: Features) -> int:
    return sum(row.slide_id not in features.entries for row in work.given.cohort.rows if not is_labelled(row))


def made_from(registry: Storage, present: Promotion) -> dict[str, Any]:
    """{data, trained} of the champion's making; empty where a person registered it."""
    for record in history(registry, present.name):
        if record.kind is Kind.gate and record.version == present.version:
            return record.decision
    return {}


def as_before(config: RetrainConfig, registry: Storage) -> RetrainConfig:
    """Gate and admission of slides as they were when a model was last promoted by a flow, where a key is not given.

    What was given and differs is printed, and so is what is taken over: neither changes in silence.
    """
    records = [one for one in history(registry, config.name) if "settings" in one.decision]
    settings = records[-1].decision["settings"] if records else {"gate": {}, "policy": {}}
    changed: dict[str, Any] = {}
    for name, value in (settings["gate"] | settings["policy"]).items():
        before = tuple(value) if isinstance(value, list) else value
        now = getattr(config, name, before)
        if now == before:
            continue
        if config.gives(name):
            print(f"{name}={_shown(now)}, as given; it was {_shown(before)}", flush=True)
        else:
            print(f"{name}={_shown(before)}, as before; give {name}= to change it", flush=True)
            changed[name] = before
    return dataclasses.replace(config, **changed)


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
