"""Small JSON records of one schema on a storage: what is put there once and read by any later process."""

from typing import Any

from mhim_core.errors import IntegrityError, NotFoundError
from mhim_core.records import parse_json
from mhim_core.storage import Storage

SCHEMA = 1


def read_json(storage: Storage, key: str) -> dict[str, Any] | None:
    """The record at a key; None where there is none. Raises IntegrityError if it is not a record of this schema."""
    try:
        record = parse_json(storage.get(key))
    except NotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(f"{storage.locate(key)} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise IntegrityError(f"{storage.locate(key)} is no record of schema {SCHEMA}; another version of mhim wrote it")
    return record
