"""Ed25519 signatures of what a registry says, for those who trust keys and not everybody who can write to it.

A signature file holds a statement, the id of a key and the signature of the statement's canonical JSON. The statement
names everything that decides what a model is: the record's key and digest, the digests of all promotions before it, the
card's digest and that of every weights file. Whoever reads compares it with what lies in the registry.

The `cryptography` package is imported only where keys are read or made (extra `signing`, ADR 13).
"""

import base64
import binascii
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.records import read_record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SCHEMA = 1
_KEY_ID_DIGITS = 32
_COMMAND_LIMIT_S = 60.0
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


class KeyPair(NamedTuple):
    """A new key, as PEM files."""

    private_pem: bytes
    """PKCS 8, unencrypted: whoever has it can sign."""
    public_pem: bytes


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The file beside a record."""

    statement: dict[str, Any]
    key_id: str
    signature: str
    """Base64 of 64 bytes."""

    def to_bytes(self) -> bytes:
        own = {"schema": SCHEMA, "statement": self.statement, "key_id": self.key_id, "signature": self.signature}
        return canonical_json(own)

    @classmethod
    def from_record(cls, raw: Any, where: str) -> "Signature":
        """From parsed JSON. Raises IntegrityError naming `where`."""
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise IntegrityError(f"{where} is no signature of schema {SCHEMA}")
        return read_record(cls, {name: value for name, value in raw.items() if name != "schema"}, where)


class TrustedKeys:
    """Public keys whose signatures count."""

    def __init__(self, keys: "Iterable[Ed25519PublicKey]") -> None:
        self._keys = {key_id(key): key for key in keys}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted(self._keys))

    def verifies(self, signature: Signature) -> bool:
        """Whether a trusted key made this signature of this statement."""
        key = self._keys.get(signature.key_id)
        return key is not None and _verifies(key, signature.statement, signature.signature)


class Signer:
    """A key that can sign: a file's, or one that a command holds."""

    def __init__(self, public_key: "Ed25519PublicKey", sign: Callable[[bytes], bytes]) -> None:
        self.key_id = key_id(public_key)
        self._public_key = public_key
        self._sign = sign

    def sign(self, statement: dict[str, Any]) -> Signature:
        """Raises ConfigError if what signed is not the key that it is said to be."""
        signature = base64.b64encode(self._sign(canonical_json(statement))).decode()
        if not _verifies(self._public_key, statement, signature):
            raise ConfigError(f"the signature does not fit the public key {self.key_id}: another key has signed")
        return Signature(statement=statement, key_id=self.key_id, signature=signature)


def new_key_pair() -> KeyPair:
    """Raises ConfigError without the extra `signing`."""
    key, formats = _ed25519().Ed25519PrivateKey.generate(), _serialization()
    private_pem = key.private_bytes(formats.Encoding.PEM, formats.PrivateFormat.PKCS8, formats.NoEncryption())
    public_pem = key.public_key().public_bytes(formats.Encoding.PEM, formats.PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(private_pem, public_pem)


def key_id(key: "Ed25519PublicKey") -> str:
    """32 hex digits: of the sha256 of the raw public key."""
    return sha256(key.public_bytes_raw())[:_KEY_ID_DIGITS]


def read_public_keys(data: bytes, where: str) -> "list[Ed25519PublicKey]":
    """Every public key of a PEM file. Raises ConfigError where there is none, or one is no Ed25519 key."""
    blocks = _PEM.findall(data)
    if not blocks:
        raise ConfigError(f"{where} holds no public key in PEM (-----BEGIN PUBLIC KEY-----)")
    return [_public_key(block, where) for block in blocks]


def signer_of_file(data: bytes, where: str) -> Signer:
    """A private key in PEM (PKCS 8, unencrypted). Raises ConfigError."""
    try:
        key: Any = _serialization().load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise ConfigError(f"{where} holds no unencrypted private key in PEM: {error}") from error
    if not isinstance(key, _ed25519().Ed25519PrivateKey):
        raise ConfigError(f"{where} holds a key of another kind than Ed25519")
    private_key: Ed25519PrivateKey = key
    return Signer(private_key.public_key(), private_key.sign)


def signer_of_command(command: str, public_pem: bytes, where: str) -> Signer:
    """A command that reads what is to be signed from its standard input and prints the signature in base64.

    It is run without a shell. `public_pem`, of the file `where`: the key that it must prove to sign with.
    """
    keys = read_public_keys(public_pem, where)
    if len(keys) != 1:
        raise ConfigError(f"{where} holds {len(keys)} public keys; the one of signing_command= is needed, alone")
    return Signer(keys[0], lambda message: _run(command, message))


def _run(command: str, message: bytes) -> bytes:
    name = f"signing_command={command}"
    try:
        ended = subprocess.run(shlex.split(command), input=message, capture_output=True, timeout=_COMMAND_LIMIT_S)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{name} could not be run: {error}") from error
    if ended.returncode != 0:
        message_end = ended.stderr.decode(errors="replace").strip()[-200:]
        raise ConfigError(f"{name} ended with {ended.returncode}: {message_end}")
    try:
        return base64.b64decode(ended.stdout.strip(), validate=True)
    except binascii.Error as error:
        raise ConfigError(f"{name} printed no base64") from error


def _verifies(key: "Ed25519PublicKey", statement: dict[str, Any], signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(signature, validate=True), canonical_json(statement))
    except (InvalidSignature, ValueError, TypeError):  # ValueError: no base64, or a float that is no number
        return False
    return True


def _public_key(block: bytes, where: str) -> "Ed25519PublicKey":
    try:
        key: Any = _serialization().load_pem_public_key(block)
    except ValueError as error:
        raise ConfigError(f"{where} holds no readable public key: {error}") from error
    if not isinstance(key, _ed25519().Ed25519PublicKey):
        raise ConfigError(f"{where} holds a key of another kind than Ed25519")
    return key


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigError("signing needs the package cryptography: pip install 'mhim[signing]'") from error
    return ed25519


def _serialization() -> Any:
    _ed25519()
    from cryptography.hazmat.primitives import serialization

    return serialization
