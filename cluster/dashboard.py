"""A Ray dashboard at an address: its protection, and Ray's client for it with this project's errors."""

import contextlib
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from cluster.session import is_loopback
from mhim_core.errors import ConfigError, MhimError
from mhim_core.records import parse_json
from mhim_core.types import ExitCode

PROBE_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 60.0
_GUARDED = (401, 403)
_REDIRECTS = (301, 302, 303, 307, 308)
_VERSION = "/api/version"
_USUAL = "the dashboard's port is often 8265"

_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)

R = TypeVar("R")


class UnreachableError(MhimError):
    """A cluster that answered before does not answer now; submitted jobs continue there.

    The exit code is that of an unreachable store: retry later; this is no bug.
    """

    exit_code = ExitCode.STORAGE


class JobIdTakenError(MhimError):
    """A job's id was used before."""


class Dashboard:
    """A dashboard at http(s)://host:port, and requests to it through Ray's client.

    Raises ConfigError if no Ray dashboard answers there, if it redirects to another address, if it refuses the token of
    this environment, or if it accepts jobs from anyone who can reach it; `allow_insecure` permits the last, as does a
    loopback address.
    """

    def __init__(self, address: str, *, allow_insecure: bool = False) -> None:
        self.address = address.rstrip("/")
        self._allow_insecure = allow_insecure
        host = urllib.parse.urlsplit(address).hostname or ""
        if answers_without_token(self.address) and not allow_insecure and not is_loopback(host):
            raise ConfigError(
                f"the Ray cluster at ray_address={address} takes jobs from anyone who reaches it; start it with "
                "RAY_AUTH_MODE=token, reach it by a tunnel to 127.0.0.1, or set allow_insecure=true"
            )
        self.client = self.request(lambda: _connect(self.address))

    def request(self, request: Callable[[], R], job_id: str = "") -> R:
        """A request's answer. Raises ConfigError, JobIdTakenError, UnreachableError."""
        import requests.exceptions
        from ray.exceptions import AuthenticationError

        try:
            return request()
        except AuthenticationError as error:
            raise ConfigError(
                f"the Ray cluster at ray_address={self.address} wants a token; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as on the cluster"
            ) from error
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise UnreachableError(
                f"the Ray cluster at ray_address={self.address} does not answer ({_innermost(error)}); "
                f"{self._way_back(job_id)}"
            ) from error
        except RuntimeError as error:  # Ray's own, with the server's words
            self._refuse(error, job_id)

    def _way_back(self, job_id: str) -> str:
        """What happens to the job, and the command that attaches to it again."""
        if not job_id:
            return "what was submitted goes on without this command; the same again finds it"
        words = f"ray_address={self.address}" + (" allow_insecure=true" if self._allow_insecure else "")
        return f"job {job_id} goes on without this command; mhim jobs logs {job_id} --follow {words} attaches again"

    def _refuse(self, error: RuntimeError, job_id: str) -> NoReturn:
        words = str(error)
        match = re.search(r"status code (\d{3})", words)
        status = int(match[1]) if match else 0
        if "already exists" in words:
            raise JobIdTakenError(words) from error
        if job_id and status == 404:
            raise ConfigError(
                f"the Ray cluster at {self.address} knows no job {job_id}; list them: mhim jobs ls"
            ) from None
        reason = ([line.strip() for line in words.splitlines() if line.strip()] or [words])[-1]
        if status >= 500:
            raise UnreachableError(
                f"the Ray cluster at {self.address} cannot do it now: {reason}; {self._way_back(job_id)}"
            ) from error
        raise ConfigError(f"the Ray cluster at {self.address} refuses: {reason}") from error


def answers_without_token(address: str) -> bool:
    """Whether the dashboard answers without a token.

    Raises ConfigError if no Ray dashboard answers, or if the answer is a redirect.
    """
    url = f"{address}{_VERSION}"
    try:
        with urllib.request.build_opener(_NoRedirect).open(url, timeout=PROBE_TIMEOUT_S) as reply:
            body = reply.read(65_536)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _GUARDED:
            return False
        if error.code in _REDIRECTS:
            raise _sent_on(address, _VERSION, error.headers.get("Location", "")) from None
        raise ConfigError(f"what answers at ray_address={address} is no Ray dashboard; {_USUAL}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"no Ray dashboard answers at ray_address={address} ({reason}); {_USUAL}") from error
    if not _is_version(body):
        raise ConfigError(f"what answers at ray_address={address} is no Ray dashboard; {_USUAL}")
    return True


def _is_version(body: bytes) -> bool:
    try:
        answer = parse_json(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and "ray_version" in answer


def _sent_on(address: str, endpoint: str, location: str) -> ConfigError:
    """An error that names the target of a redirect, which is not followed: it would get the job and a token."""
    try:
        to = urllib.parse.urlsplit(urllib.parse.urljoin(f"{address}{endpoint}", location))
        host = to.netloc.rpartition("@")[2]
    except ValueError:
        to, host = urllib.parse.urlsplit(""), ""
    # a query may hold a login's secrets; what is left is another's words, for a terminal
    place = urllib.parse.quote(f"{to.scheme}://{host}{to.path}", safe=":/[]~%")
    instead = place.removesuffix(endpoint)
    if host and instead not in (place, address):
        return ConfigError(f"ray_address={address} sends on to {place}; give ray_address={instead} if you trust it")
    return ConfigError(
        f"ray_address={address} sends on to {place if host else 'another address'}, a login page perhaps; give the "
        f"address where the dashboard itself answers: {_USUAL}"
    )


def _innermost(error: BaseException) -> str:
    """The message of the innermost cause; the client's own messages show objects and memory addresses."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).splitlines()[0]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an error; its address is not parsed."""

    def _leave(self, *_: object) -> None:
        return None

    http_error_301 = http_error_302 = http_error_303 = http_error_307 = http_error_308 = _leave  # type: ignore[assignment]


def _connect(address: str) -> Any:
    """Ray's client for this address only (by default it follows redirects), with a time limit for every request."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            settled = {"timeout": REQUEST_TIMEOUT_S} | options | {"allow_redirects": False}
            reply = super()._do_request(method, endpoint, **settled)
            if reply.is_redirect:
                raise _sent_on(address, endpoint.partition("?")[0], reply.headers["Location"])
            return reply

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    with _without("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray would go there instead
        return Client(address)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
