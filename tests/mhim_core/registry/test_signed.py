"""Only what a trusted key has signed is read, and a signature is of one record at one place and of nothing else."""

import base64
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.errors import ConfigError, TrustError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.registry.models import maybe_model, register_model
from mhim_core.registry.promotions import champion, history, promote, rollback
from mhim_core.registry.signatures import (
    Signature,
    Signer,
    TrustedKeys,
    new_key_pair,
    read_public_keys,
    signer_of_command,
    signer_of_file,
)
from mhim_core.registry.signed import SignedRegistry
from mhim_core.storage import Storage

PAIR, OTHER = new_key_pair(), new_key_pair()
SIGNER, STRANGER = (signer_of_file(pair.private_pem, "key") for pair in (PAIR, OTHER))
TRUSTED = TrustedKeys(read_public_keys(PAIR.public_pem, "key"))


class Notes:
    """A memory that lasts as long as the test."""

    def __init__(self) -> None:
        self.notes: dict[str, tuple[int, str]] = {}

    def newest(self, name: str) -> tuple[int, str]:
        return self.notes.get(name, (0, ""))

    def keep(self, name: str, number: int, digest: str) -> None:
        self.notes[name] = (number, digest)


@pytest.fixture
def versions(storage: Storage, made: Callable[..., Any]) -> list[str]:
    """Two models, each promoted in turn, everything signed."""
    registry = SignedRegistry(storage, trusted=TRUSTED, signer=SIGNER)
    names = [register_model(registry, "lung", *made(data)).version for data in (b"one", b"two")]
    for base, version in enumerate(names):
        promote(registry, "lung", version, base=base, by_flow="retrain")
    return names


def reader(storage: Storage, memory: Notes | None = None) -> SignedRegistry:
    return SignedRegistry(storage, trusted=TRUSTED, memory=memory)


def promotion_key(number: int) -> str:
    return f"models/lung/promotions/{number:06d}.json"


def signature_key(storage: Storage, key: str, signer: Signer = SIGNER) -> str:
    return f"models/lung/signatures/{sha256(storage.get(key))}-{signer.key_id}.json"


def change(storage: Storage, key: str, **fields: object) -> None:
    storage.put(key, canonical_json(json.loads(storage.get(key)) | fields))


def test_what_is_signed_is_read_and_the_records_are_those_without_signatures(
    storage: Storage, versions: list[str]
) -> None:
    signed = reader(storage)
    assert [record.version for record in history(signed, "lung")] == versions
    assert champion(signed, "lung") == champion(storage, "lung")
    assert maybe_model(signed, "lung", versions[0]) == maybe_model(storage, "lung", versions[0])
    back = rollback(
        SignedRegistry(storage, trusted=TRUSTED, signer=SIGNER), "lung", versions[0], by_flow="model rollback"
    )
    assert champion(signed, "lung") == back


def test_a_promotion_without_a_signature_or_with_a_strangers_is_refused_by_name(
    storage: Storage, versions: list[str]
) -> None:
    promote(storage, "lung", versions[0], base=2, by_flow="model promote")
    with pytest.raises(TrustError, match=r"promotions/000003\.json"):
        champion(reader(storage), "lung")
    SignedRegistry(storage, signer=STRANGER).sign_name("lung")
    with pytest.raises(TrustError, match=r"promotions/000003\.json"):
        champion(reader(storage), "lung")
    assert TrustError.exit_code == 2


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("fields", "number"),
    [({"reason": "better"}, 2), ({"figures": {"auroc": 1}}, 1), ({"kind": "manual"}, 2)],
    ids=["reason", "figures of an earlier one", "kind"],
)
def test_a_promotion_that_was_changed_is_refused(
    storage: Storage, versions: list[str], fields: dict[str, Any], number: int
) -> None:
    change(storage, promotion_key(number), **fields)
    with pytest.raises(TrustError):
        history(reader(storage), "lung")
    with pytest.raises(TrustError):  # the newest names those before it
        reader(storage).get(promotion_key(2))


@pytest.mark.fault(45)
@pytest.mark.parametrize("fields", [{"intended_use": "Everything."}, {"estimate": {"auroc": 1}}], ids=list)
def test_a_card_that_was_changed_is_refused_and_so_is_its_promotion(
    storage: Storage, versions: list[str], fields: dict[str, Any]
) -> None:
    key = f"models/lung/{versions[1]}/card.json"
    change(storage, key, **fields)  # none of them is in the version
    assert maybe_model(storage, "lung", versions[1]) is not None
    with pytest.raises(TrustError, match=r"card\.json"):
        maybe_model(reader(storage), "lung", versions[1])
    with pytest.raises(TrustError, match="000002"):
        champion(reader(storage), "lung")


@pytest.mark.fault(45)
def test_a_signature_of_one_record_is_no_signature_of_another(storage: Storage, versions: list[str]) -> None:
    first, second = signature_key(storage, promotion_key(1)), signature_key(storage, promotion_key(2))
    storage.put(second, storage.get(first))
    with pytest.raises(TrustError, match="000002"):
        champion(reader(storage), "lung")


@pytest.mark.parametrize("part", ["statement", "key_id", "signature", "everything"])
def test_a_signature_that_was_changed_is_refused(storage: Storage, versions: list[str], part: str) -> None:
    key = signature_key(storage, promotion_key(2))
    stored = json.loads(storage.get(key))
    changed = {
        "statement": stored["statement"] | {"number": 3},
        "key_id": STRANGER.key_id,
        "signature": base64.b64encode(bytes(64)).decode(),
    }
    storage.put(key, b"{" if part == "everything" else canonical_json(stored | {part: changed[part]}))
    with pytest.raises(TrustError, match="000002"):
        champion(reader(storage), "lung")


def test_the_newest_promotion_cannot_be_taken_away_from_who_has_seen_it(storage: Storage, versions: list[str]) -> None:
    memory, key = Notes(), promotion_key(2)
    assert champion(reader(storage, memory), "lung").version == versions[1]  # type: ignore[union-attr]
    data = storage.get(key)
    storage.delete(key)
    assert champion(reader(storage), "lung").version == versions[0]  # type: ignore[union-attr]
    with pytest.raises(TrustError, match="000002"):
        champion(reader(storage, memory), "lung")
    promote(SignedRegistry(storage, signer=SIGNER), "lung", versions[0], base=1, by_flow="model promote")
    with pytest.raises(TrustError, match="000002"):  # another one in its place, signed as well
        champion(reader(storage, memory), "lung")
    storage.put(key, data)
    assert champion(reader(storage, memory), "lung").version == versions[1]  # type: ignore[union-attr]


@pytest.mark.fault(45)
def test_a_longer_chain_with_another_promotion_in_the_place_of_one_seen_is_refused(
    storage: Storage, versions: list[str]
) -> None:
    memory = Notes()
    champion(reader(storage, memory), "lung")
    storage.delete(promotion_key(2))
    signing = SignedRegistry(storage, signer=SIGNER)
    promote(signing, "lung", versions[0], base=1, by_flow="model promote")
    promote(signing, "lung", versions[1], base=2, by_flow="model promote")
    with pytest.raises(TrustError, match="000002"):
        champion(reader(storage, memory), "lung")


@pytest.mark.fault(45)
def test_an_unsigned_promotion_before_the_newest_is_refused(storage: Storage, versions: list[str]) -> None:
    storage.delete(signature_key(storage, promotion_key(1)))
    with pytest.raises(TrustError, match="000001"):
        champion(reader(storage), "lung")


def test_a_promotion_that_was_cut_off_before_its_signature_gets_it_the_second_time(
    storage: Storage, versions: list[str]
) -> None:
    promote(storage, "lung", versions[0], base=2, by_flow="retrain")
    promote(SignedRegistry(storage, signer=SIGNER), "lung", versions[0], base=2, by_flow="retrain")
    assert champion(reader(storage), "lung").number == 3  # type: ignore[union-attr]


def test_nobody_signs_what_another_wrote_in_their_place(storage: Storage, versions: list[str]) -> None:
    promote(storage, "lung", versions[0], base=2, by_flow="retrain", reason="planted")
    promote(SignedRegistry(storage, signer=SIGNER), "lung", versions[0], base=2, by_flow="retrain")
    with pytest.raises(TrustError, match="000003"):
        champion(reader(storage), "lung")


def test_an_old_registry_is_signed_by_whoever_vouches_for_it(
    storage: Storage, registered: Callable[[bytes], str]
) -> None:
    version, other = registered(b"one"), registered(b"never promoted")
    promote(storage, "lung", version, base=0, by_flow="pipeline")
    registry = SignedRegistry(storage, signer=SIGNER)
    assert registry.sign_name("lung") == [promotion_key(1), f"models/lung/{version}/card.json"]
    assert champion(reader(storage), "lung").version == version  # type: ignore[union-attr]
    assert maybe_model(reader(storage), "lung", version) is not None
    with pytest.raises(TrustError, match=other):
        maybe_model(reader(storage), "lung", other)
    registry.sign_card("lung", other)
    assert maybe_model(reader(storage), "lung", other) is not None


def test_a_command_can_hold_the_key(tmp_path: Path) -> None:
    private = tmp_path / "held.pem"
    private.write_bytes(PAIR.private_pem)
    program = (
        "import base64, sys; from mhim_core.registry.signatures import signer_of_file as s; "
        f"k = s(open({str(private)!r}, 'rb').read(), 'k'); "
        "print(base64.b64encode(k._sign(sys.stdin.buffer.read())).decode())"
    )
    command = shlex.join([sys.executable, "-c", program])
    signature = signer_of_command(command, PAIR.public_pem, "key.pub").sign({"what": "card"})
    assert TRUSTED.verifies(signature)
    with pytest.raises(ConfigError, match="another key"):
        signer_of_command(command, OTHER.public_pem, "key.pub").sign({"what": "card"})
    for wrong in ("false", "no-such-command", "echo ???", "echo 'unbalanced"):
        with pytest.raises(ConfigError, match="signing_command"):
            signer_of_command(wrong, PAIR.public_pem, "key.pub").sign({"what": "card"})


def test_files_that_are_no_keys_are_refused() -> None:
    for data in (b"", b"text", PAIR.private_pem):
        with pytest.raises(ConfigError):
            read_public_keys(data, "key.pub")
    for data in (b"", PAIR.public_pem):
        with pytest.raises(ConfigError):
            signer_of_file(data, "key.pem")
    assert len(read_public_keys(PAIR.public_pem + OTHER.public_pem, "keys")) == 2


def test_a_statement_that_no_key_has_signed_does_not_pass() -> None:
    signature = SIGNER.sign({"what": "card"})
    assert TRUSTED.verifies(signature)
    assert not TRUSTED.verifies(STRANGER.sign({"what": "card"}))
    assert not TRUSTED.verifies(Signature(statement={}, key_id=SIGNER.key_id, signature=signature.signature))
    assert not TRUSTED.verifies(Signature(statement={}, key_id=SIGNER.key_id, signature="ß"))
