"""mhim model ls | show | register | promote | rollback | keygen | sign: models of a registry, and which is champion.

Inputs: a registry; for `register` a finished run. Outputs: a model folder (`register`), a numbered promotion record
(`promote`, `rollback`), key files (`keygen`), signatures (`sign`, or with `signing_key=` where something is written);
nothing is ever changed or removed. A promotion by hand bypasses the gate, and its record says so. Cost: a listing and a
few small files; `register` passes over the run's validation bags once. Exit code: 0, 2 (with `require_signed=true` also
for a record that no trusted key has signed), 5 (a promotion by someone else at the same moment), 6.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.config.models import (
    ModelKeygenConfig,
    ModelListConfig,
    ModelPromoteConfig,
    ModelRegisterConfig,
    ModelRollbackConfig,
    ModelShowConfig,
    ModelSignConfig,
    checked_name,
)
from flows.engine.result import FlowResult
from flows.mlflow_mirror.send import mirror_promotion
from flows.prediction.packaging import package_run
from flows.runs.fits import results_of
from flows.runs.folder import read_run
from flows.runs.signed_registry import open_registry, registry_to_sign
from mhim_core.errors import ConfigError, ConflictError, InputError
from mhim_core.fingerprint import canonical_json
from mhim_core.printable import one_line
from mhim_core.registry.holdout import read_holdout
from mhim_core.registry.lookup import find_model
from mhim_core.registry.models import (
    RegisteredModel,
    find_version,
    list_models,
    read_model_folder,
    register_model,
)
from mhim_core.registry.names import CHAMPION, model_prefix
from mhim_core.registry.promotions import Kind, Promotion, champion, history, promote, rollback, withdrawn
from mhim_core.registry.signatures import new_key_pair
from mhim_core.storage import Storage

_MANUAL = "a person's decision; no gate was asked"


def ls(config: ModelListConfig) -> FlowResult:
    """One line per model: name, version, when it was registered, whether it is champion."""
    registry = open_registry(config.registry, config.trust)
    models = list_models(registry, checked_name(config.name) if config.name else "")
    if not models:
        print(f"{registry.uri} holds no model" + (f" named {config.name}" if config.name else ""))
    if config.trust.require_signed:
        for model in models:  # a listing opens no card, and a folder alone proves nothing
            read_model_folder(registry, model.name, model.version)
    for name in dict.fromkeys(model.name for model in models):
        records = history(registry, name)
        numbers: dict[str, int] = {record.version: record.number for record in records}
        taken_back = withdrawn(records)
        for model in models:
            if model.name != name:
                continue
            standing = f"champion (number {records[-1].number})" if _is_champion(records, model.version) else ""
            if not standing and model.version in numbers:
                standing = f"{'rolled back' if model.version in taken_back else 'champion'} until "
                standing += f"{_utc(_end_s(records, model.version))}"
            print(f"{name}  {model.version}  {_utc(model.registered_s)}  {standing}".rstrip())
    return FlowResult(outputs={"registry": registry.uri}, recomputed=False)


def show(config: ModelShowConfig) -> FlowResult:
    """A summary of the card, and every promotion of the name, the oldest first."""
    registry = open_registry(config.registry, config.trust)
    model = find_model(registry, config.name if "@" in config.name else f"{config.name}@{CHAMPION}")
    _print_card(model)
    records = history(registry, model.name)
    print("promotions:" if records else f"{model.name} has no promotions")
    for record in records:
        _print_promotion(record)
    folder = registry.locate(model_prefix(model.name, model.version))
    print(f"folder: {folder}")
    return FlowResult(outputs={"model": folder}, recomputed=False)


def register(config: ModelRegisterConfig) -> FlowResult:
    """Package the run's models; registering the same run again gives the same model."""
    name = checked_name(config.name)
    run = read_run(config.run, store=config.store, predict_with=config.chosen.predict_with)
    fits = [
        fold_fits
        for fold_fits in results_of(run)
        if config.fold in (None, fold_fits.fold) and config.seed in (None, fold_fits.seed)
    ]
    if not fits:
        raise InputError(f"{run.storage.uri} has no fit of fold={config.fold} seed={config.seed}")
    registry = open_registry(config.registry, config.trust, config.signing)
    packaged = package_run(run, fits=fits)
    known = {fold_fits.version for fold_fits in list_models(registry, name)}
    model = register_model(registry, name, packaged.card, packaged.files)
    is_new = model.version not in known
    print(f"{name}@{model.version}: {len(fits)} models{'' if is_new else ', registered before'}")
    print(f"  mhim model promote {name} version={model.version} registry={config.registry}")
    mirror_promotion(registry, name, config.tracking)
    folder = registry.locate(model_prefix(name, model.version))
    return FlowResult(outputs={"model": folder}, recomputed=is_new)


def promote_by_hand(config: ModelPromoteConfig) -> FlowResult:
    """Raises InputError (2) if there is no such version, ConflictError (5) if someone else promoted meanwhile."""
    name, registry = checked_name(config.name), open_registry(config.registry, config.trust, config.signing)
    model = find_version(registry, name, config.version)
    now = champion(registry, name)
    if now is not None and now.version == model.version:
        print(f"{name}@{model.version} is champion already (number {now.number})")
        mirror_promotion(registry, name, config.tracking)
        return _promoted(registry, now, recomputed=False)
    holdout = read_holdout(registry, name)
    if holdout is not None and any(holdout.known_to(model.card.trained_on)):
        print(
            f"warning: {name}@{model.version} was trained on patients of the holdout of {name}: its figures there will "
            "flatter it, and every later challenger is held against them"
        )
    promotion = promote(
        registry,
        name,
        model.version,
        base=0 if now is None else now.number,
        by_flow="model promote",
        kind=Kind.manual,
        reason=f"{_MANUAL}: {config.reason}" if config.reason else _MANUAL,
    )
    if not promotion.is_ours:
        raise ConflictError(
            f"{name}: {promotion.record.version} became champion (number {promotion.record.number}) at the same "
            "moment; look at it, and promote again if you still want to"
        )
    print(f"{name}@{model.version} is champion (number {promotion.record.number}), {_MANUAL}")
    mirror_promotion(registry, name, config.tracking)
    return _promoted(registry, promotion.record)


def rollback_to(config: ModelRollbackConfig) -> FlowResult:
    """Raises InputError (2) if the version was never champion, ConflictError (5)."""
    name, registry = checked_name(config.name), open_registry(config.registry, config.trust, config.signing)
    before = champion(registry, name)
    record = rollback(registry, name, config.to, by_flow="model rollback", reason=config.reason)
    again = before is not None and before.number == record.number
    print(f"{name}@{record.version} is champion{' already' if again else ''} (number {record.number})")
    mirror_promotion(registry, name, config.tracking)
    return _promoted(registry, record, recomputed=not again)


def keygen(config: ModelKeygenConfig) -> FlowResult:
    """A private key that nobody else may read, and the public one. Raises ConfigError (2) where a file exists."""
    private, public = Path(config.out), Path(config.out).with_suffix(".pub")
    pair = new_key_pair()
    try:
        private.parent.mkdir(parents=True, exist_ok=True)
        for path, data, mode in ((private, pair.private_pem, 0o600), (public, pair.public_pem, 0o644)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} is there already; a key is never replaced") from error
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}") from error
    print(f"private key {private}: keep it to yourself, it signs\npublic key {public}: give it to those who verify")
    return FlowResult(outputs={"private key": str(private), "public key": str(public)})


def sign(config: ModelSignConfig) -> FlowResult:
    """Raises ConfigError (2) without a key, InputError (2) where there is nothing to sign."""
    name = checked_name(config.name)
    registry = registry_to_sign(config.registry, config.signing)
    if config.version:
        signed = registry.sign_card(name, find_version(registry, name, config.version).version)
    else:
        signed = registry.sign_name(name)
    if not signed:
        raise InputError(f"{registry.uri}: {name} has no promotions to sign; version= signs a card")
    for key in signed:
        print(f"signed {registry.locate(key)}")
    return FlowResult(outputs={"registry": registry.uri})


def _promoted(registry: Storage, record: Promotion, recomputed: bool = True) -> FlowResult:
    folder = registry.locate(model_prefix(record.name, record.version))
    return FlowResult(outputs={"model": folder}, recomputed=recomputed)


def _print_card(model: RegisteredModel) -> None:
    card = model.card
    print(f"{model.name}@{model.version}: {one_line(card.intended_use)}")
    predicted = ", ".join(card.classes) if card.classes else str(card.task.kind)
    print(f"  predicts    {one_line(predicted)}, of every {card.unit}")
    licence = f"licence {card.encoder.get('licence', '?')}"
    print(f"  encoder     {one_line(card.encoder['id'])} (D={card.encoder['dim']}, {one_line(licence)})")
    print(f"  tiling      {_settings(card.tiling)}")
    print(f"  recipe      {_settings(card.recipe)}")
    facts = card.trained_on
    print(
        f"  trained on  {facts.num_slides} slides of {facts.num_patients} patients; cohort {facts.cohort[:16]}, "
        f"manifest version {facts.manifest_version} ({facts.manifest_sha256[:16]})"
    )
    if card.started_from:
        print(f"  started from {one_line(card.started_from)}")
    threshold = card.threshold
    print(f"  members     {len(card.members)}" + ("" if threshold is None else f", threshold {threshold:.4g}"))
    for member in card.members:
        chosen = [
            f"{title} {'none' if value is None else f'{value:.4g}'}"
            for title, value in (("temperature", member.temperature), ("threshold", member.threshold))
        ]
        print(
            f"    seed {member.seed}, fold {member.fold}: {member.model_name}, {', '.join(chosen)}, "
            f"epoch {member.best_epoch}"
        )
    for title, figures in (("estimate", card.estimate), ("holdout", card.holdout)):
        if figures:
            print(f"  {title}    {canonical_json(figures).decode()}")
    versions = ", ".join(f"{package} {version}" for package, version in sorted(card.versions.items()))
    print(f"  made by     {one_line(f'{card.created_by}; {versions}')}")


def _print_promotion(record: Promotion) -> None:
    by = record.by_flow + (f" {record.by_fingerprint[:16]}" if record.by_fingerprint else "")
    against = f"against number {record.base}" if record.base else "the first"
    print(
        f"  {record.number}  {record.version}  {_utc(record.promoted_s)}  {record.kind}, {against}, by {one_line(by)}"
    )
    if record.reason:
        print(f"     {one_line(record.reason)}")
    for role in ("champion", "challenger"):
        if words := ", ".join(_figures(record.figures.get(role))):
            print(f"     {role} on the holdout: {one_line(words)}")


def _figures(estimates: Any) -> Iterator[str]:
    """Those that are numbers: a record may hold anything that is JSON."""
    for name, estimate in estimates.items() if isinstance(estimates, dict) else ():
        value = estimate.get("value") if isinstance(estimate, dict) else None
        if isinstance(value, float | int):
            yield f"{name} {value:.3f}"


def _settings(value: dict[str, Any]) -> str:
    """Every leaf as `key=value`."""
    leaves: list[str] = []
    for key in sorted(value):
        item = value[key]
        leaves.append(_settings(item) if isinstance(item, dict) else f"{key}={json.dumps(item)}")
    return " ".join(leaf for leaf in leaves if leaf)


def _is_champion(records: tuple[Promotion, ...], version: str) -> bool:
    return bool(records) and records[-1].version == version


def _end_s(records: tuple[Promotion, ...], version: str) -> float:
    """When another model last replaced it."""
    last = max(index for index, record in enumerate(records) if record.version == version)
    return records[last + 1].promoted_s


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
