"""Storage from an address: a folder, or `s3://bucket/prefix`."""

import contextlib
import errno
import functools
import os
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.s3 import KeyTakenError, S3Client, S3Place, parse_s3_uri, shared_client
from mhim_core.errors import ConfigError, ConflictError, NotFoundError, SlideError, StorageError
from mhim_core.features import SourceHint, SourceIdentity
from mhim_core.slides.source_identity import identity_of
from mhim_core.storage import Entry, LocalStorage, Storage, check_key, read_file
from mhim_core.store.parallel import map_all
from mhim_core.types import FailureReason

_CHUNK_BYTES = 2**20
_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
}
"""By a key's extension: what a browser shows of a bucket rather than offering it as a download."""
_HEADS_A_LISTING = 8
"""As many HEADs side by side take about as long as one page of a listing, whose pages come one after another."""


def open_storage(uri: str) -> Storage:
    """The storage at a folder's path or an `s3://bucket/prefix`; nothing is touched yet. Raises ConfigError."""
    if uri.startswith("s3://"):
        place = parse_s3_uri(uri)
        return S3Storage(place.bucket, place.key)
    if not uri or "://" in uri or "\0" in uri:
        raise ConfigError(f"{uri!r} is neither a folder's path nor an address like s3://bucket/prefix")
    return LocalStorage(os.path.expanduser(uri))  # Path.expanduser would raise for a folder named ~x


class S3Storage:
    """A prefix of a bucket. One PUT per object (5 GiB at most), `If-None-Match: *` for put-if-absent.

    Raises what `Storage` says; StorageError names the bucket and what was tried.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = f"{check_key(prefix)}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.client = S3Client()

    @property
    def num_retries(self) -> int:
        """Requests this process had to repeat so far."""
        return self.client.num_retries

    def get(self, key: str) -> bytes:
        """As `Storage`: NotFoundError where there is no such object."""
        place = self._place(key)
        return self.client.call("read", place, functools.partial(_read, place))

    def put(self, key: str, data: bytes) -> None:
        """As `Storage`, in one PUT: at most 5 GiB."""
        place = self._place(key)
        self.client.call(
            "write", place, lambda s3: s3.put_object(Bucket=place.bucket, Key=place.key, Body=data, **_media_type(key))
        )

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """As `Storage`; True also where only the reply to an earlier try of this very call was lost."""
        num_tries = 0

        def request(s3: Any) -> None:
            nonlocal num_tries
            num_tries += 1
            s3.put_object(Bucket=place.bucket, Key=place.key, Body=data, IfNoneMatch="*")

        place = self._place(key)
        try:
            self.client.call("write", place, request)
        except KeyTakenError:
            return num_tries > 1 and self.get(key) == data
        return True

    def list(self, prefix: str) -> Iterator[Entry]:
        """As `Storage`; one request for every thousand objects."""
        folder = f"{self.prefix}{check_key(prefix)}/" if prefix else self.prefix
        arguments = {"Bucket": self.bucket, "Prefix": folder}
        while True:
            page = self.client.call("list", S3Place(self.bucket, folder), functools.partial(_list_page, arguments))
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self.prefix)
                yield Entry(key, int(item["Size"]), item["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        """As `Storage`: an object that is not there is no error."""
        place = self._place(key)
        self.client.call("delete", place, lambda s3: s3.delete_object(Bucket=place.bucket, Key=place.key))

    def locate(self, key: str) -> str:
        """The `s3://` URI of the key."""
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def _place(self, key: str) -> S3Place:
        return S3Place(self.bucket, self.prefix + check_key(key))


def read_bytes(uri: str) -> bytes:
    """A whole file or object. Raises NotFoundError; StorageError, also for a pipe or a device."""
    if uri.startswith("s3://"):
        place = parse_s3_uri(uri)
        return shared_client().call("read", place, functools.partial(_read, place))
    path = Path(uri)
    try:
        return read_file(path)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def download(uri: str, path: str | os.PathLike[str]) -> None:
    """Copy an `s3://` object to a local path, whole or not at all.

    Raises NotFoundError, StorageError, SlideError(no_space) where the disk is full.
    """
    place, target = parse_s3_uri(uri), Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    os.close(descriptor)
    try:
        shared_client().call("read", place, functools.partial(_read_into, temporary, place))
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SlideError(FailureReason.NO_SPACE, f"no space left for {uri} in {target.parent}") from error
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def object_hint(uri: str) -> SourceHint:
    """Size and etag of an `s3://` object, by one HEAD. Raises NotFoundError, StorageError."""
    place = parse_s3_uri(uri)
    head = shared_client().call("look at", place, lambda s3: s3.head_object(Bucket=place.bucket, Key=place.key))
    return SourceHint(uri, int(head["ContentLength"]), str(head["ETag"]).strip('"'))


def object_hints(uris: Iterable[str]) -> dict[str, SourceHint]:
    """As `object_hint` of every `s3://` object that is there: a thousand at a time where many lie in one folder.

    Raises StorageError.
    """
    folders: dict[S3Place, dict[str, str]] = defaultdict(dict)
    for uri in uris:
        place = parse_s3_uri(uri)
        folder, slash, _ = place.key.rpartition("/")
        folders[S3Place(place.bucket, folder + slash)][place.key] = uri
    hints: dict[str, SourceHint] = {}
    for place, wanted in folders.items():
        hints |= _listed_hints(place, wanted)
    alone = [uri for wanted in folders.values() for uri in wanted.values() if uri not in hints]
    looked_at = zip(alone, map_all(_hint_if_there, alone), strict=True)
    return hints | {uri: hint for uri, hint in looked_at if hint is not None}


def _listed_hints(folder: S3Place, wanted: Mapping[str, str]) -> dict[str, SourceHint]:
    """Of these URIs by key, those that a listing of their folder finds while it asks less than a HEAD of each would."""
    hints: dict[str, SourceHint] = {}
    arguments = {"Bucket": folder.bucket, "Prefix": folder.key, "Delimiter": "/"}
    for _ in range(len(wanted) // _HEADS_A_LISTING):
        try:
            page = shared_client().call("list", folder, functools.partial(_list_page, arguments))
        except StorageError:  # reading may be allowed where listing is not; a HEAD tells a lost store as well
            return hints
        for item in page.get("Contents", []):
            if uri := wanted.get(item["Key"]):
                hints[uri] = SourceHint(uri, int(item["Size"]), str(item["ETag"]).strip('"'))
        if not page.get("IsTruncated"):
            break
        arguments["ContinuationToken"] = page["NextContinuationToken"]
    return hints


def _hint_if_there(uri: str) -> SourceHint | None:
    try:
        return object_hint(uri)
    except NotFoundError:
        return None


def object_identity(uri: str) -> SourceIdentity:
    """Which bytes an `s3://` object holds, as `source_identity` of a file: a HEAD and at most ten ranged GETs, 640 KiB.

    Raises NotFoundError, StorageError.
    """
    place = parse_s3_uri(uri)

    def read(offset: int, length: int) -> bytes:
        return shared_client().call("read", place, functools.partial(_read_range, place, offset, length))

    num_bytes = object_hint(uri).num_bytes
    return identity_of(num_bytes, read if num_bytes else lambda *_: b"")  # no range of an empty object is valid


def supports_put_if_absent(storage: Storage) -> bool:
    """Does the store refuse to overwrite on a conditional PUT? Tried out on a key of its own, which is removed again.

    Without it two concurrent runs could overwrite each other's commits unnoticed.
    """
    key = f"probe/{uuid.uuid4().hex}"
    try:
        first = storage.put_if_absent(key, b"first")
        second = storage.put_if_absent(key, b"second")
        return first and not second and storage.get(key) == b"first"
    finally:
        storage.delete(key)


def require_put_if_absent(storage: Storage) -> None:
    """Before work that commits. Raises ConflictError (5) for an object store that overwrites in spite of a condition.

    A local file system is not asked: there it is the kernel's promise.
    """
    if storage.uri.startswith("s3://") and not supports_put_if_absent(storage):
        raise ConflictError(
            f"{storage.uri}: this object store ignores `If-None-Match: *` on PUT, so two commands at once could "
            "overwrite each other's commits unnoticed; use a store with conditional PUT (AWS S3, MinIO, Ceph)"
        )


def _list_page(arguments: dict[str, str], s3: Any) -> dict[str, Any]:
    page: dict[str, Any] = s3.list_objects_v2(**arguments)
    return page


def _media_type(key: str) -> dict[str, str]:
    """The argument of a PUT; empty: the store's own choice."""
    media_type = _MEDIA_TYPES.get(key.rpartition(".")[2])
    return {} if media_type is None else {"ContentType": media_type}


def _read(place: S3Place, s3: Any) -> bytes:
    data: bytes = s3.get_object(Bucket=place.bucket, Key=place.key)["Body"].read()
    return data


def _read_range(place: S3Place, offset: int, length: int, s3: Any) -> bytes:
    span = f"bytes={offset}-{offset + length - 1}"
    data: bytes = s3.get_object(Bucket=place.bucket, Key=place.key, Range=span)["Body"].read()
    return data


def _read_into(path: str, place: S3Place, s3: Any) -> None:
    body = s3.get_object(Bucket=place.bucket, Key=place.key)["Body"]
    with contextlib.closing(body), open(path, "wb") as file:
        for chunk in body.iter_chunks(_CHUNK_BYTES):
            file.write(chunk)
