"""Parts of an object, all of one version: each request names the etag, and what comes back is counted."""

import contextlib
from functools import partial
from typing import Any

from cluster.s3 import KeyTakenError, S3Client, S3Place, parse_s3_uri
from mhim_core.errors import StorageError
from mhim_core.features import SourceHint


class ObjectChangedError(StorageError):
    """The object is another one than when its size and etag were looked up."""


def read_object_part(hint: SourceHint, offset: int, num_bytes: int) -> bytes:
    """Those bytes of the object as it was when `hint` was made; they must lie within it.

    Raises ObjectChangedError, NotFoundError, StorageError.
    """
    place = parse_s3_uri(hint.uri)
    try:
        return S3Client().call("read", place, partial(_request, place, hint, offset, num_bytes))
    except KeyTakenError:
        raise _changed(hint) from None


def _request(place: S3Place, hint: SourceHint, offset: int, num_bytes: int, s3: Any) -> bytes:
    span = f"bytes={offset}-{offset + num_bytes - 1}"
    reply = s3.get_object(Bucket=place.bucket, Key=place.key, Range=span, IfMatch=f'"{hint.version}"')
    with contextlib.closing(reply["Body"]) as body:
        if str(reply["ETag"]).strip('"') != hint.version:  # some stores take no notice of IfMatch
            raise _changed(hint)
        if reply["ContentLength"] != num_bytes:
            raise StorageError(
                f"cannot read {hint.uri}: the store answered {reply['ContentLength']:,} bytes to a request for "
                f"{num_bytes:,}; it must answer requests for ranges"
            )
        data: bytes = body.read()  # which raises where the connection ends before; it is then asked for again
    return data


def _changed(hint: SourceHint) -> ObjectChangedError:
    return ObjectChangedError(f"{hint.uri} changed while it was read; run again once it is whole")
