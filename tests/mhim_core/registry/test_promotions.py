"""The champion is the highest record; nobody takes the place of one that they were not judged against."""

import json
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mhim_core.errors import ConflictError, InputError, IntegrityError, StorageError
from mhim_core.registry.clock import store_time_s
from mhim_core.registry.models import read_member_file, read_model_folder
from mhim_core.registry.promotions import Kind, Promoted, champion, history, promote, rollback, withdrawn
from mhim_core.storage import Entry, LocalStorage, Storage

Register = Callable[[bytes], str]


def test_there_is_no_champion_before_the_first(storage: Storage) -> None:
    assert champion(storage, "lung") is None
    assert history(storage, "lung") == ()


def test_the_highest_record_is_the_champion(storage: Storage, registered: Register) -> None:
    first, second = registered(b"one"), registered(b"two")
    promote(storage, "lung", first, base=0, by_flow="retrain", figures={"auroc": 0.9})
    promoted = promote(storage, "lung", second, base=1, by_flow="retrain", by_fingerprint="ab", reason="better")
    assert promoted.is_ours
    now = champion(storage, "lung")
    assert now == promoted.record
    assert (now.number, now.version, now.base, now.kind, now.reason) == (2, second, 1, Kind.gate, "better")
    assert [(record.number, record.version) for record in history(storage, "lung")] == [(1, first), (2, second)]
    assert [entry.key for entry in storage.list("models/lung/promotions")] == [
        "models/lung/promotions/000001.json",
        "models/lung/promotions/000002.json",
    ]


def test_a_promotion_cut_off_and_run_again_is_one(storage: Storage, registered: Register) -> None:
    version = registered(b"one")
    first = promote(storage, "lung", version, base=0, by_flow="retrain")
    again = promote(storage, "lung", version, base=0, by_flow="retrain")
    assert again == first
    assert len(history(storage, "lung")) == 1
    promote(storage, "lung", registered(b"two"), base=1, by_flow="retrain")
    assert promote(storage, "lung", version, base=0, by_flow="retrain").is_ours, "it was done, and then passed"


def test_who_was_judged_against_an_old_champion_is_given_what_stands(storage: Storage, registered: Register) -> None:
    first, second, third = (registered(data) for data in (b"one", b"two", b"three"))
    promote(storage, "lung", first, base=0, by_flow="retrain")
    promote(storage, "lung", second, base=1, by_flow="retrain")
    late = promote(storage, "lung", third, base=1, by_flow="retrain")
    assert not late.is_ours
    assert late.record.version == second
    assert champion(storage, "lung") == late.record


def test_of_many_at_once_one_wins_and_the_others_see_it(storage: Storage, registered: Register) -> None:
    versions = [registered(bytes([index])) for index in range(6)]
    outcomes: list[Promoted] = []
    start = threading.Barrier(len(versions))

    def run(version: str) -> None:
        start.wait()
        outcomes.append(promote(LocalStorage(storage.uri), "lung", version, base=0, by_flow="retrain"))

    threads = [threading.Thread(target=run, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.is_ours for outcome in outcomes].count(True) == 1
    assert {outcome.record.version for outcome in outcomes} == {champion(storage, "lung").version}  # type: ignore[union-attr]
    assert len(history(storage, "lung")) == 1


def test_what_is_no_model_cannot_be_promoted(storage: Storage, registered: Register) -> None:
    with pytest.raises(InputError, match="no model lung of version ffff"):
        promote(storage, "lung", "ffff", base=0, by_flow="model promote", kind=Kind.manual)
    with pytest.raises(InputError, match="no promotion of number 7"):
        promote(storage, "lung", registered(b"one"), base=7, by_flow="retrain")
    assert history(storage, "lung") == ()


def test_a_rollback_is_a_new_record_and_again_none(storage: Storage, registered: Register) -> None:
    first, second = registered(b"one"), registered(b"two")
    promote(storage, "lung", first, base=0, by_flow="retrain")
    promote(storage, "lung", second, base=1, by_flow="retrain")
    back = rollback(storage, "lung", first[:8], by_flow="model rollback")
    assert (back.number, back.version, back.base, back.kind) == (3, first, 2, Kind.rollback)
    assert second in back.reason
    assert champion(storage, "lung") == back
    assert rollback(storage, "lung", first, by_flow="model rollback") == back
    assert [record.version for record in history(storage, "lung")] == [first, second, first]


def test_only_a_champion_of_the_past_can_be_gone_back_to(storage: Storage, registered: Register) -> None:
    first, never = registered(b"one"), registered(b"never")
    with pytest.raises(InputError, match="nothing to go back to"):
        rollback(storage, "lung", first, by_flow="model rollback")
    promote(storage, "lung", first, base=0, by_flow="retrain")
    for to in (never, "", "zzzz"):
        with pytest.raises(InputError, match=f"one former champion of lung; they are, newest first: {first}"):
            rollback(storage, "lung", to, by_flow="model rollback")


def test_a_rollback_that_meets_a_promotion_is_a_conflict(storage: Storage, registered: Register) -> None:
    first, second, third = (registered(data) for data in (b"one", b"two", b"three"))
    promote(storage, "lung", first, base=0, by_flow="retrain")
    promote(storage, "lung", second, base=1, by_flow="retrain")

    class Racing(LocalStorage):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            promote(storage, "lung", third, base=2, by_flow="retrain")
            return super().put_if_absent(key, data)

    with pytest.raises(ConflictError, match=third):
        rollback(Racing(storage.uri), "lung", first, by_flow="model rollback")
    assert champion(storage, "lung").version == third  # type: ignore[union-attr]


def test_what_was_rolled_back_is_withdrawn_until_a_person_promotes_it(storage: Storage, registered: Register) -> None:
    first, second, third = (registered(data) for data in (b"one", b"two", b"three"))
    for base, version in enumerate((first, second, third)):
        promote(storage, "lung", version, base=base, by_flow="retrain")
    assert withdrawn(history(storage, "lung")) == frozenset()
    rollback(storage, "lung", first, by_flow="model rollback")
    assert withdrawn(history(storage, "lung")) == {second, third}
    promote(storage, "lung", second, base=4, by_flow="model promote", kind=Kind.manual)
    assert withdrawn(history(storage, "lung")) == {third}


def test_ages_are_of_the_stores_clock_not_of_the_record(storage: Storage, registered: Register) -> None:
    promote(storage, "lung", registered(b"one"), base=0, by_flow="retrain")
    path = f"{storage.uri}/models/lung/promotions/000001.json"
    os.utime(path, (1000, 1000))  # what a server with another clock would have said
    assert champion(storage, "lung").promoted_s == 1000  # type: ignore[union-attr]
    assert b"promoted_s" not in storage.get("models/lung/promotions/000001.json")
    now_s = store_time_s(storage)
    assert now_s > 1000
    assert list(storage.list("clock")) == [], "nothing is left behind"


def test_a_damaged_record_is_noticed(storage: Storage, registered: Register) -> None:
    promote(storage, "lung", registered(b"one"), base=0, by_flow="retrain")
    data: Any = storage.get("models/lung/promotions/000001.json")
    for damaged in (b"{", data.replace(b'"schema":1', b'"schema":9'), data.replace(b'"kind":"gate"', b'"kind":"x"')):
        storage.put("models/lung/promotions/000001.json", damaged)
        with pytest.raises(IntegrityError, match=r"000001\.json"):
            champion(storage, "lung")


def test_other_files_beside_the_records_are_no_records(storage: Storage, registered: Register) -> None:
    promote(storage, "lung", registered(b"one"), base=0, by_flow="retrain")
    storage.put("models/lung/promotions/README.txt", b"hello")
    assert len(history(storage, "lung")) == 1


@pytest.mark.fault(37)
def test_a_crash_between_a_models_upload_and_its_promotion_leaves_the_champion_in_its_place(
    storage: Storage, registered: Register
) -> None:
    version = registered(b"one")
    promote(storage, "lung", version, base=0, by_flow="retrain")
    second = registered(b"two")

    class Crashing(LocalStorage):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            raise StorageError("the machine is gone")

    with pytest.raises(StorageError):
        promote(Crashing(storage.uri), "lung", second, base=1, by_flow="retrain")
    now = champion(storage, "lung")
    assert now is not None
    model = read_model_folder(storage, "lung", now.version)
    assert model.version == version
    assert read_member_file(storage, model, "members/seed-0.safetensors") == b"one"
    for _ in range(2):
        assert promote(storage, "lung", second, base=1, by_flow="retrain").is_ours
    assert [record.version for record in history(storage, "lung")] == [version, second]


def plant(storage: Storage, key: str, record: Any, **changes: Any) -> None:
    raw = json.loads(record.to_bytes()) | changes
    storage.put(f"models/lung/promotions/{key}", json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("999999.json", {"number": 999999, "base": 999998}),
        ("999999.json", {}),
        ("000003.json", {"number": 3, "base": 1}),
        ("000003.json", {"number": 3, "base": 2, "name": "breast"}),
        ("000003.json", {"number": 2, "base": 1}),
        ("000000.json", {"number": 0, "base": -1}),
        ("0000003.json", {"number": 3, "base": 2}),
        ("elsewhere/000003.json", {"number": 3, "base": 2}),
        ("000003.json", {"number": 3, "base": 2, "decision": ["settings"]}),
        ("000003.json", {"number": 3, "base": 2, "kind": "decreed"}),
        ("000003.json", {"number": True, "base": 2}),
    ],
)
@pytest.mark.fault(45)
def test_a_planted_record_makes_no_champion_and_is_named(
    storage: Storage, registered: Register, key: str, changes: dict[str, Any]
) -> None:
    first, second = registered(b"one"), registered(b"two")
    promote(storage, "lung", first, base=0, by_flow="retrain")
    record = promote(storage, "lung", second, base=1, by_flow="retrain").record
    plant(storage, key, record, version=first, **changes)
    for read in (champion, history):
        with pytest.raises(IntegrityError, match=re.escape(f"models/lung/promotions/{key}")):
            read(storage, "lung")
    with pytest.raises(IntegrityError):
        promote(storage, "lung", first, base=2, by_flow="retrain")
    storage.delete(f"models/lung/promotions/{key}")
    assert champion(storage, "lung") == record


def test_a_record_that_is_gone_is_missed(storage: Storage, registered: Register) -> None:
    for number, data in enumerate((b"one", b"two", b"three")):
        promote(storage, "lung", registered(data), base=number, by_flow="retrain")
    storage.delete("models/lung/promotions/000002.json")
    with pytest.raises(IntegrityError, match=r"000003\.json does not follow"):
        champion(storage, "lung")


def test_a_listing_that_overlaps_two_promotions_is_read_again(storage: Storage, registered: Register) -> None:
    for number, data in enumerate((b"one", b"two", b"three")):
        promote(storage, "lung", registered(data), base=number, by_flow="retrain")

    class Overlapping(LocalStorage):
        num_listings = 0

        def list(self, prefix: str) -> "list[Entry]":  # type: ignore[override]
            self.num_listings += 1
            entries = list(super().list(prefix))
            return entries[:1] + entries[2:] if self.num_listings == 1 else entries

    overlapping = Overlapping(storage.uri)
    assert champion(overlapping, "lung") == champion(storage, "lung")
    assert overlapping.num_listings == 2


def test_a_rollback_to_what_was_never_champion_is_refused(storage: Storage, registered: Register) -> None:
    version, never = registered(b"one"), registered(b"never")
    first = promote(storage, "lung", version, base=0, by_flow="retrain").record
    plant(storage, "000002.json", first, number=2, base=1, kind="rollback", version=never)
    with pytest.raises(IntegrityError, match=f"rolls back to {never}"):
        history(storage, "lung")
    with pytest.raises(IntegrityError):
        champion(storage, "lung")


def test_the_card_of_another_name_is_no_model_of_this_one(storage: Storage, registered: Register) -> None:
    version = registered(b"one")
    card = storage.get(f"models/lung/{version}/card.json")
    storage.put(f"models/breast/{version}/card.json", card)
    with pytest.raises(IntegrityError, match="card of 'lung', not of breast"):
        promote(storage, "breast", version, base=0, by_flow="retrain")
