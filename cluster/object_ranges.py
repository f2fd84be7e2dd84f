"""Parts of an object, all of one version: each request names the etag, and what comes back is counted."""

import contextlib
from functools import partial
from typing import Any

from cluster.s3 import KeyTakenError, S3Place, parse_s3_uri, shared_client
from cluster.storage import object_hint
from mhim_core.errors import StorageError
from mhim_core.features import SourceHint


class ObjectChangedError(StorageError):
    """The object is another one than when its size and etag were looked up."""


def read_object_part(hint: SourceHint, offset: int, num_bytes: int) -> bytes:
    """Those bytes of the object as it was when `hint` was made; they must lie within it.

    Raises ObjectChangedError, NotFoundError, StorageError.
    """
    place = parse_s3_uri(hint.uri)
    ask = partial(_request, place, hint, offset, num_bytes)
    try:
        return shared_client().call("read", place, partial(ask, {"IfMatch": f'"{hint.version}"'}))
    except KeyTakenError:
        if object_hint(hint.uri) != hint:
            raise _changed(hint) from None
        return shared_client().call("read", place, partial(ask, {}))  # some stores find that nothing matches


def _request(
    place: S3Place, hint: SourceHint, offset: int, num_bytes: int, condition: dict[str, str], s3: Any
) -> bytes:
    span = f"bytes={offset}-{offset + num_bytes - 1}"
    reply = s3.get_object(Bucket=place.bucket, Key=place.key, Range=span, **condition)
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
