"""One process's connection to S3: requests, retries and errors in words.

Every request goes through `S3Client.call`, which retries here and nowhere else, so that a throttled store is waited for
and a denied or absent one is reported within seconds. It uses botocore, not the asynchronous s3fs on top of it: aiohttp
silently sends a PUT again when a kept connection drops, and a conditional PUT then takes its own object for another's.
Credentials come from the usual chain of the AWS libraries, the endpoint from AWS_ENDPOINT_URL; neither is kept, pickled
or logged.
"""

import datetime
import functools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import botocore.session
from botocore import exceptions as boto
from botocore.config import Config
from botocore.utils import parse_timestamp

from mhim_core.errors import ConfigError, NotFoundError, StorageError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
RETRY_LIMIT_S = 180.0
"""How long a store is waited for that answers 503, drops connections or has gone away after it once answered."""
FIRST_RETRY_LIMIT_S = 8.0
"""How long one that never answered is: its address is probably wrong."""
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 10.0

_DENIED = {
    "AccessDenied", "Forbidden", "403", "401", "Unauthorized", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AccountProblem", "AllAccessDisabled",
    "RequestTimeTooSkewed",
}  # fmt: skip
_PASSING = {
    "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
    "TooManyRequests", "ConditionalRequestConflict", "OperationAborted",
}  # fmt: skip
_PASSING_STATUS = {429, 500, 502, 503, 504}
_UNREACHABLE = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
_DROPPED = (boto.HTTPClientError, boto.IncompleteReadError, boto.ReadTimeoutError)
_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)

R = TypeVar("R")


_COUNTING = threading.Lock()
_num_retries = 0


def process_retries() -> int:
    """Requests that this process has had to repeat so far, over all its storages."""
    return _num_retries


def _count_retry() -> None:
    global _num_retries  # of the process, as its one connection is
    with _COUNTING:
        _num_retries += 1


class KeyTakenError(Exception):
    """A conditional PUT found its key taken (412)."""


class S3Place(NamedTuple):
    """A bucket, and a key or prefix in it without slashes at its ends."""

    bucket: str
    key: str


def parse_s3_uri(uri: str) -> S3Place:
    """`s3://bucket/some/key`, taken apart. Raises ConfigError."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise ConfigError(f"{uri!r} is not an address like s3://bucket/prefix")
    return S3Place(bucket, key.strip("/"))


class S3Client:
    """Retries over the process's one connection, made at the first request; safe in threads, after a fork, pickled."""

    num_retries: int
    """Requests repeated by this process so far."""
    _answered: bool
    _lock: threading.Lock
    _jitter: random.Random

    def __init__(self) -> None:
        self._reset()

    def call(self, action: str, place: S3Place, request: Callable[[Any], R]) -> R:
        """`request` (given botocore's client), repeated with growing, jittered pauses while its failure may pass.

        `action` is a verb for the message. Raises NotFoundError (no such key), KeyTakenError (412) and StorageError
        (denied, no such bucket, unreachable).
        """
        started_s = time.monotonic()
        delay_s = FIRST_DELAY_S
        while True:
            try:
                result = request(self._client())
            except (boto.BotoCoreError, boto.ClientError) as error:
                failure = error
            else:
                self._answered = True
                return result
            pause_s = delay_s * self._jitter.uniform(0.5, 1.0)
            if time.monotonic() - started_s + pause_s > self._retry_limit_s(failure):
                raise _explain(failure, action, place) from failure
            with self._lock:
                self.num_retries += 1
            _count_retry()
            time.sleep(pause_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)

    def _retry_limit_s(self, failure: Exception) -> float:
        """How long this failure is worth waiting; 0: not at all."""
        if isinstance(failure, boto.ClientError):
            self._answered = True
            return RETRY_LIMIT_S if _may_pass(failure) else 0
        if isinstance(failure, _UNREACHABLE):
            return RETRY_LIMIT_S if self._answered else FIRST_RETRY_LIMIT_S
        return RETRY_LIMIT_S if isinstance(failure, _DROPPED) else 0

    def _client(self) -> Any:
        return _connection()

    def _reset(self) -> None:
        self.num_retries = 0
        self._answered = False
        self._lock = threading.Lock()
        self._jitter = random.Random()  # unseeded on purpose: a thousand workers must not retry in step

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._reset()


@functools.cache
def shared_client() -> S3Client:
    """The process's own for single objects, which knows whether their store has ever answered."""
    return S3Client()


_CONNECTIONS: dict[Any, Any] = {}
_CONNECTING = threading.Lock()


def _connection() -> Any:
    """botocore's client of this process, which every storage shares: making one costs a tenth of a second or more.

    A forked child makes its own, and so does whoever changes the environment that addresses and credentials come from.
    """
    key = (os.getpid(), tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))
    connection = _CONNECTIONS.get(key)
    if connection is None:
        with _CONNECTING:
            connection = _CONNECTIONS.get(key)
            if connection is None:
                _CONNECTIONS.clear()  # of a parent or an earlier environment: nobody asks for it again
                connection = _CONNECTIONS[key] = _connect()
    return connection


def _connect() -> Any:
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=32,
        retries={"total_max_attempts": 1},
        # the newer default, a checksum trailer, is refused by many self-hosted stores; our files carry their sha256
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = botocore.session.Session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    return session.create_client("s3", config=config)


def _timestamp(value: Any) -> datetime.datetime:
    """As botocore's own parser, which tries every format there is and takes half of a listing's time."""
    try:
        return datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)


def _code(failure: boto.ClientError) -> str:
    return str(failure.response.get("Error", {}).get("Code", ""))


def _status(failure: boto.ClientError) -> int:
    return int(failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _may_pass(failure: boto.ClientError) -> bool:
    return _code(failure) in _PASSING or _status(failure) in _PASSING_STATUS


def _explain(failure: Exception, action: str, place: S3Place) -> Exception:
    """The failure as ours: what was tried, where, found, to check. No server text: it may hold key ids."""
    failed_action = f"cannot {action} s3://{place.bucket}/{place.key}"
    kind = type(failure).__name__
    if isinstance(failure, boto.ClientError):
        return _explain_reply(failure, failed_action, place)
    if isinstance(failure, _NO_CREDENTIALS):
        return StorageError(f"{failed_action}: no credentials ({kind}); set AWS_ACCESS_KEY_ID or AWS_PROFILE")
    if isinstance(failure, _UNREACHABLE):
        return StorageError(
            f"{failed_action}: no connection to the store ({kind}); check AWS_ENDPOINT_URL and the network"
        )
    if isinstance(failure, boto.ReadTimeoutError):
        return StorageError(f"{failed_action}: the store took the request and sent no answer for {READ_TIMEOUT_S} s")
    if isinstance(failure, _DROPPED):
        return StorageError(f"{failed_action}: the connection was dropped again and again ({kind})")
    return StorageError(f"{failed_action}: {failure}")


def _explain_reply(failure: boto.ClientError, failed_action: str, place: S3Place) -> Exception:
    code = _code(failure)
    if code in ("PreconditionFailed", "412"):
        return KeyTakenError(place.key)
    if code == "NoSuchBucket":
        return StorageError(f"{failed_action}: the bucket {place.bucket} does not exist")
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFoundError(f"s3://{place.bucket}/{place.key} does not exist")
    if _may_pass(failure):
        return StorageError(f"{failed_action}: the store kept answering {code} for {RETRY_LIMIT_S:.0f} s")
    if code in _DENIED or _status(failure) in (
        401,
        403,
    ):  # stores have codes of their own: UserSuspended, QuotaExceeded
        return StorageError(
            f"{failed_action}: the bucket {place.bucket} denies access ({code}); check credentials, policy and quota"
        )
    return StorageError(f"{failed_action}: the store answered {code or 'an unknown error'}")
