"""Model folders: `models/<name>/<version>/`, immutable, content-addressed, the card written last.

A folder without a card is no model, so an interrupted registration leaves nothing that could be used; repeating it
completes the folder. The version is a digest of the model's content, so the same model is one folder.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mhim_core.errors import InputError, IntegrityError, NotFoundError
from mhim_core.fingerprint import sha256
from mhim_core.registry.card import RegistryCard
from mhim_core.registry.names import CARD, check_name, model_prefix
from mhim_core.storage import Storage

_CARD_KEY = re.compile(r"models/([^/]+)/([^/]+)/card\.json")


class RegisteredModel(NamedTuple):
    """A model folder that has its card."""

    name: str
    version: str
    card: RegistryCard


class ModelVersion(NamedTuple):
    """A model folder with a card, as a listing shows it; the card is not read."""

    name: str
    version: str
    registered_s: float
    """When its card was written, by the store's clock."""


def register_model(storage: Storage, name: str, card: RegistryCard, files: Mapping[str, bytes]) -> RegisteredModel:
    """Write the model folder, or find it written: the existing card is returned.

    `files`: the members' safetensors by `Member.file`. Safe to repeat and to race: every writer of one version writes
    the same bytes. Raises IntegrityError where a file is not the one its member names.
    """
    check_name(name)
    _check_files(card, files)
    prefix = model_prefix(name, card.version)
    present = maybe_model(storage, name, card.version)
    if present is not None:
        return present
    for file in sorted(files):
        storage.put(f"{prefix}/{file}", files[file])
    storage.put_if_absent(f"{prefix}/{CARD}", card.to_bytes(name))
    return read_model_folder(storage, name, card.version)


def read_model_folder(storage: Storage, name: str, version: str) -> RegisteredModel:
    """The model of exactly this version. Raises InputError where there is none, IntegrityError for a damaged card."""
    model = maybe_model(storage, name, version)
    if model is None:
        known = [candidate.version for candidate in list_models(storage, name)]
        raise InputError(
            f"{storage.uri} has no model {name} of version {version}; "
            + (f"versions: {', '.join(known[:10])}" if known else f"{name} has none at all")
        )
    return model


def maybe_model(storage: Storage, name: str, version: str) -> RegisteredModel | None:
    """As `read_model_folder`, None where the folder has no card."""
    key = f"{model_prefix(name, version)}/{CARD}"
    try:
        card = RegistryCard.from_bytes(storage.get(key), storage.locate(key), name)
    except NotFoundError:
        return None
    if card.version != version:
        raise IntegrityError(f"{storage.locate(key)} is the card of version {card.version}")
    return RegisteredModel(name, version, card)


def find_version(storage: Storage, name: str, digits: str) -> RegisteredModel:
    """The one model whose version begins with these digits. Raises InputError where there is none, or several."""
    fitting = [candidate.version for candidate in list_models(storage, name) if candidate.version.startswith(digits)]
    if len(fitting) > 1:
        raise InputError(f"{len(fitting)} versions of {name} begin with {digits}: {', '.join(fitting)}")
    return read_model_folder(storage, name, fitting[0] if fitting else digits)


def read_member_file(storage: Storage, model: RegisteredModel, file: str) -> bytes:
    """A member's safetensors, verified. Raises IntegrityError where it is missing or not what the card names."""
    key = f"{model_prefix(model.name, model.version)}/{file}"
    try:
        data = storage.get(key)
    except NotFoundError as error:
        raise IntegrityError(f"model {model.name}@{model.version}: {storage.locate(key)} is gone") from error
    if sha256(data) != model.card.files[file]:
        raise IntegrityError(
            f"model {model.name}@{model.version}: {storage.locate(key)} does not have the sha256 its card names"
        )
    return data


def list_models(storage: Storage, name: str = "") -> list[ModelVersion]:
    """Every model of the registry, or of one name, by name and then by age; no file is opened."""
    prefix = f"models/{check_name(name)}" if name else "models"
    return sorted(_listed(storage, prefix), key=lambda model: (model.name, model.registered_s, model.version))


def _listed(storage: Storage, prefix: str) -> Iterator[ModelVersion]:
    for entry in storage.list(prefix):
        match = _CARD_KEY.fullmatch(entry.key)
        if match is not None:
            yield ModelVersion(match[1], match[2], entry.modified_s)


def _check_files(card: RegistryCard, files: Mapping[str, bytes]) -> None:
    digests = {file: sha256(data) for file, data in files.items()}
    if digests != card.files:
        differing = sorted(file for file in {*digests, *card.files} if digests.get(file) != card.files.get(file))
        raise IntegrityError(f"the files to register are not those that the card names: {', '.join(differing)}")
