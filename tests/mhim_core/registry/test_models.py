"""Model folders are immutable, whole or not there, and found by their content."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mhim_core.errors import ConfigError, InputError, IntegrityError, StorageError
from mhim_core.registry.models import (
    find_version,
    list_models,
    maybe_model,
    read_member_file,
    read_model_folder,
    register_model,
)
from mhim_core.registry.names import ModelReference, check_name, number_in, numbered, parse_reference
from mhim_core.storage import LocalStorage, Storage

Make = Callable[..., Any]
FILE = "members/seed-0.safetensors"


def test_a_registered_model_is_read_back_whole(storage: Storage, made: Make) -> None:
    card, files = made(b"one", b"two")
    model = register_model(storage, "lung", card, files)
    assert read_model_folder(storage, "lung", model.version) == model == ("lung", card.version, card)
    assert {file: read_member_file(storage, model, file) for file in card.files} == files


def test_the_same_model_registered_twice_is_one_and_its_first_card_stands(storage: Storage, made: Make) -> None:
    card, files = made()
    first = register_model(storage, "lung", card, files)
    written = {entry.key: storage.get(entry.key) for entry in storage.list("")}
    second = register_model(storage, "lung", replace(card, created_by="someone else"), files)
    assert second == first
    assert {entry.key: storage.get(entry.key) for entry in storage.list("")} == written


def test_models_registered_at_once_leave_one_folder(storage: Storage, made: Make) -> None:
    card, files = made()
    models = []
    threads = [
        threading.Thread(target=lambda: models.append(register_model(LocalStorage(storage.uri), "lung", card, files)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 4
    assert {model.version for model in models} == {card.version}
    assert [model.version for model in list_models(storage)] == [card.version]


class Failing(LocalStorage):
    """Loses the connection at the n-th write."""

    writes_left = 0

    def put(self, key: str, data: bytes) -> None:
        self._count()
        super().put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._count()
        return super().put_if_absent(key, data)

    def _count(self) -> None:
        if not self.writes_left:
            raise StorageError("the connection is lost")
        self.writes_left -= 1


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_registration_cut_off_anywhere_is_no_model_and_is_completed_by_the_next(
    storage: Storage, made: Make, writes: int
) -> None:
    card, files = made(b"one", b"two")
    failing = Failing(storage.uri)
    failing.writes_left = writes
    with pytest.raises(StorageError):
        register_model(failing, "lung", card, files)
    assert maybe_model(storage, "lung", card.version) is None
    assert list_models(storage) == []
    assert register_model(storage, "lung", card, files).card == card


def test_files_that_are_not_the_cards_are_refused(storage: Storage, made: Make) -> None:
    card, files = made(b"one", b"two")
    for wrong in ({}, files | {FILE: b"other"}, files | {"extra": b""}):
        with pytest.raises(IntegrityError, match="not those that the card names"):
            register_model(storage, "lung", card, wrong)
    assert list(storage.list("")) == []


def test_a_flipped_or_missing_weight_is_noticed(storage: Storage, made: Make) -> None:
    model = register_model(storage, "lung", *made())
    key = f"models/lung/{model.version}/{FILE}"
    storage.put(key, b"weightz")
    with pytest.raises(IntegrityError, match="does not have the sha256"):
        read_member_file(storage, model, FILE)
    storage.delete(key)
    with pytest.raises(IntegrityError, match="is gone"):
        read_member_file(storage, model, FILE)


def test_a_card_in_another_versions_folder_is_noticed(storage: Storage, made: Make) -> None:
    model = register_model(storage, "lung", *made())
    storage.put("models/lung/abcd/card.json", storage.get(f"models/lung/{model.version}/card.json"))
    with pytest.raises(IntegrityError, match=model.version):
        read_model_folder(storage, "lung", "abcd")


def test_a_version_is_found_by_its_first_digits(storage: Storage, made: Make) -> None:
    first = register_model(storage, "lung", *made(b"one"))
    second = register_model(storage, "lung", *made(b"two"))
    assert find_version(storage, "lung", first.version[:6]) == first
    with pytest.raises(InputError, match=f"2 versions of lung.*{second.version}"):
        find_version(storage, "lung", "")
    with pytest.raises(InputError, match=f"no model lung of version ffff.*{first.version}"):
        find_version(storage, "lung", "ffff")
    with pytest.raises(InputError, match="liver has none at all"):
        find_version(storage, "liver", "ffff")


def test_models_are_listed_by_name(storage: Storage, made: Make) -> None:
    for name in ("lung", "liver"):
        register_model(storage, name, *made())
    assert [model.name for model in list_models(storage)] == ["liver", "lung"]
    assert [model.name for model in list_models(storage, "lung")] == ["lung"]
    assert list_models(storage)[0].registered_s > 0


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "-x", "é"])
@pytest.mark.fault(27)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a model"):
        check_name(name)


def test_references_say_a_name_and_a_version() -> None:
    assert parse_reference("lung@champion") == ModelReference("lung", "champion")
    assert parse_reference("lung@1f0c9a") == ModelReference("lung", "1f0c9a")
    with pytest.raises(ConfigError, match="lung@champion"):
        parse_reference("lung")
    for wrong in ("lung@", "lung@newest", "lung@12", "lung@../x"):
        with pytest.raises(ConfigError, match="neither champion nor a version"):
            parse_reference(wrong)
    with pytest.raises(ConfigError, match="cannot name a model"):
        parse_reference("a/b@champion")


@pytest.mark.parametrize("number", [1, 42, 999_999, 1_000_000])
def test_a_records_key_has_its_number(number: int) -> None:
    assert number_in(numbered("promotions/lung", number)) == number
    assert number_in("models/lung/promotions/notes.txt") is None
