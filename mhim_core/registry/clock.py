"""What time it is on the store's clock, the only one by which ages are counted: hosts' clocks differ by days."""

import uuid

from mhim_core.errors import StorageError
from mhim_core.storage import Storage


def store_time_s(storage: Storage) -> float:
    """Seconds since the epoch by the store, from the Last-Modified of an object written now and removed again.

    Of a folder it is the file system's clock: the file server's on NFS. Seconds are whole on S3.
    """
    key = f"clock/{uuid.uuid4().hex}"  # one folder for all: a service asks for years, and folders stay
    storage.put(key, b"")
    try:
        for entry in storage.list("clock"):
            if entry.key == key:
                return entry.modified_s
    finally:
        storage.delete(key)
    raise StorageError(f"{storage.locate(key)} was written and is not listed")
