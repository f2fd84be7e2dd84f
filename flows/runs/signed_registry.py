"""The registry as a command opens it: plain, or signing what it writes, or believing only what is signed."""

import os
from pathlib import Path

from cluster.storage import open_storage
from flows.config.own_files import require_own
from flows.config.trust import SigningKeys, TrustKeys
from flows.engine.state_folder import open_private, private_folder
from mhim_core.errors import ConfigError, StorageError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.records import parse_json
from mhim_core.registry.signatures import (
    Signer,
    TrustedKeys,
    read_public_keys,
    signer_of_command,
    signer_of_file,
)
from mhim_core.registry.signed import SignedRegistry
from mhim_core.storage import Storage, read_file

_FOLDER = "promotions-seen"
_MAX_KEY_BYTES = 2**20


def open_registry(uri: str, trust: TrustKeys, signing: SigningKeys | None = None) -> Storage:
    """`signing`: of a command that writes. Raises ConfigError for keys that cannot be read."""
    storage = open_storage(uri)
    signer = read_signer(signing) if signing is not None else None
    if signing is not None and signer is None and trust.require_signed:
        raise ConfigError("require_signed=true: what is written would be refused the next time; give signing_key= too")
    if not trust.require_signed and signer is None:
        return storage
    return SignedRegistry(
        storage,
        trusted=read_trusted(trust.trusted_keys) if trust.require_signed else None,
        signer=signer,
        memory=SeenPromotions(storage.uri) if trust.require_signed else None,
    )


def registry_to_sign(uri: str, signing: SigningKeys) -> SignedRegistry:
    """Raises ConfigError without a key."""
    signer = read_signer(signing)
    if signer is None:
        raise ConfigError("signing_key= is needed: the private key to sign with (mhim model keygen makes one)")
    return SignedRegistry(open_storage(uri), signer=signer)


def read_signer(keys: SigningKeys) -> Signer | None:
    """None where nothing is to be signed. Raises ConfigError for a key that cannot be read or that others can."""
    if not keys.signing_key:
        return None
    data = _read(Path(keys.signing_key), "signing_key")
    if keys.signing_command:
        return signer_of_command(keys.signing_command, data, keys.signing_key)
    signer = signer_of_file(data, keys.signing_key)
    status = Path(keys.signing_key).stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:  # what root mounts has the modes root chose
        raise ConfigError(f"signing_key={keys.signing_key} can be read by others; chmod 600 {keys.signing_key}")
    return signer


def read_trusted(place: str) -> TrustedKeys:
    """Of a file, or of every *.pub in a folder. Raises ConfigError for none, or where others can add to them."""
    path = Path(place)
    files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"trusted_keys={place} has no file *.pub")
    keys = [key for file in files for key in read_public_keys(_read(file, "trusted_keys"), str(file))]
    for file in files:
        require_own(file)
    return TrustedKeys(keys)


class SeenPromotions:
    """The newest promotion that this user has seen of each name of a registry, in the state folder."""

    def __init__(self, uri: str) -> None:
        self._uri = uri if "://" in uri else os.path.realpath(uri)  # one memory however the folder is spelt

    def newest(self, name: str) -> tuple[int, str]:
        """Raises ConfigError where the note is damaged: without it, an old champion could pass for the present one."""
        try:
            record = parse_json(read_file(self._path(name)))
            return int(record["number"]), str(record["sha256"])
        except FileNotFoundError:
            return 0, ""
        except OSError as error:
            raise StorageError(f"{self._path(name)} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._path(name)} is damaged; remove it if you know which model is champion"
            ) from error

    def keep(self, name: str, number: int, digest: str) -> None:
        """Remember this promotion as the newest one seen. Raises StorageError if the note cannot be written."""
        note = canonical_json({"registry": self._uri, "name": name, "number": number, "sha256": digest})
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_TRUNC), "wb") as file:
                file.write(note)
            temporary.replace(path)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error

    def _path(self, name: str) -> Path:
        try:
            folder = private_folder(_FOLDER)
        except OSError as error:
            raise StorageError(f"the state folder cannot be used: {error}") from error
        return folder / f"{name}-{sha256(self._uri.encode())[:16]}.json"


def _read(path: Path, key: str) -> bytes:
    try:
        return read_file(path, _MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"{key}={path} cannot be read: {error.strerror}") from error
