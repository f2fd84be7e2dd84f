"""Ray jobs on a cluster: submit or attach, follow, stop, list.

An id is `<stem>-<attempt>`; the stem identifies the work. Ray refuses an id that was used before, and a job under a
deleted id dies at its start; so no job is deleted here, and an attempt that is over is followed by the next.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cluster.dashboard import Dashboard, JobIdTakenError, UnreachableError
from mhim_core.errors import ConflictError
from mhim_core.types import ExitCode

IDLE_S = 60.0
"""How long a log may be silent before its connection is considered dead and is renewed."""
SILENCE_LIMIT_S = 300.0
"""How long the cluster of a followed job may be unreachable."""
_PAUSE_S = 1.0
_MAX_TRIES = 10


class Job(NamedTuple):
    """The present state of one submitted job."""

    job_id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    exit_code: int | None
    """The entry point's own; None: it did not come to an end by itself."""
    started_s: float | None
    """Seconds since the epoch, on the cluster's clock."""
    ended_s: float | None
    message: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def attempt(self) -> int:
        """The number at the id's end; 0 where there is none."""
        number = self.job_id.rpartition("-")[2]
        return int(number) if number.isdecimal() else 0

    @property
    def command_exit_code(self) -> int:
        """What a shell would have seen: the entry point's own code, else 130 for a stopped job and 1 for a lost one."""
        if self.exit_code is None:
            return int(ExitCode.INTERRUPTED if self.status == "STOPPED" else ExitCode.BUG)
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code  # ended by a signal


class Submitted(NamedTuple):
    """The job that was started, or attached to."""

    job_id: str
    attached: bool
    """It was pending or running already."""


class JobServer:
    """The jobs of one cluster. Raises what `Dashboard` does, UnreachableError (6) where it stops answering."""

    def __init__(self, address: str, *, allow_insecure: bool = False) -> None:
        self._dashboard = Dashboard(address, allow_insecure=allow_insecure)
        self.address = self._dashboard.address

    def jobs(self) -> list[Job]:
        """Every submitted job, the oldest first."""
        details = self._dashboard.request(self._dashboard.client.list_jobs)
        listed = [_job(detail) for detail in details if detail.submission_id]
        return sorted(listed, key=lambda job: (job.started_s or 0.0, job.job_id))

    def job(self, job_id: str) -> Job:
        """Raises ConfigError where the cluster knows no such job."""
        return _job(self._dashboard.request(lambda: self._dashboard.client.get_job_info(job_id), job_id))

    def submit(self, stem: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> Submitted:
        """Start the stem's next attempt, or attach to the one that is pending or running.

        `entrypoint` is a line for a shell. Whatever `runtime_env` holds can be read by anyone who reaches the cluster.
        Raises ConfigError where the cluster refuses the job, ConflictError where others keep taking the next number.
        """
        for _ in range(_MAX_TRIES):
            last = max(self._attempts(stem), key=lambda job: job.attempt, default=None)
            if last is not None and not last.is_over:
                return Submitted(last.job_id, attached=True)
            job_id = f"{stem}-{1 if last is None else last.attempt + 1}"
            try:
                self._start(job_id, entrypoint, runtime_env)
            except JobIdTakenError:  # someone submitted the same a moment ago: look again
                time.sleep(_PAUSE_S)
                continue
            return Submitted(job_id, attached=False)
        raise ConflictError(f"others keep taking the next id of {stem} at {self.address}; try again")

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; returns False if it was over already. Raises ConfigError if there is no such job."""
        return bool(self._dashboard.request(lambda: self._dashboard.client.stop_job(job_id), job_id))

    def log(self, job_id: str) -> str:
        """What the job has written so far. Raises ConfigError where there is no such job."""
        return str(self._dashboard.request(lambda: self._dashboard.client.get_job_logs(job_id), job_id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> Job:
        """Hand on the job's log as it grows, from its start, until the job is over; the job as it ended.

        A dropped connection is made again and goes on where it broke off. Raises UnreachableError where the cluster
        stays silent for `SILENCE_LIMIT_S`; the job goes on even so.
        """
        log = _Log(job_id, write)
        silent_since_s: float | None = None
        while True:
            with contextlib.suppress(*_dropped()):
                asyncio.run(log.read(self._dashboard.client))
            try:
                job = self.job(job_id)
                silent_since_s = None
                if job.is_over:
                    with contextlib.suppress(UnreachableError):  # the node that kept the log may be gone
                        log.end(self.log(job_id))
                    return job
            except UnreachableError as error:
                silent_since_s = silent_since_s or time.monotonic()
                if time.monotonic() - silent_since_s > SILENCE_LIMIT_S:
                    raise UnreachableError(f"silent for {SILENCE_LIMIT_S:.0f} s now: {error}") from error
            time.sleep(_PAUSE_S)

    def _start(self, job_id: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> None:
        submit = self._dashboard.client.submit_job
        self._dashboard.request(
            lambda: submit(entrypoint=entrypoint, submission_id=job_id, runtime_env=dict(runtime_env))
        )

    def _attempts(self, stem: str) -> list[Job]:
        return [job for job in self.jobs() if re.fullmatch(rf"{re.escape(stem)}-[1-9]\d*", job.job_id)]


class _Log:
    """One job's log. Ray sends it from its start at every reading; text that was passed on before is left out."""

    def __init__(self, job_id: str, write: Callable[[str], object]) -> None:
        self.job_id = job_id
        self.write = write
        self.num_written = 0

    async def read(self, client: Any) -> None:
        """Until the job is over. Raises what a dropped connection raises, TimeoutError for one that brings nothing."""
        position = 0
        async with contextlib.aclosing(client.tail_job_logs(self.job_id)) as stream:
            while True:
                async with asyncio.timeout(IDLE_S):
                    text = await anext(stream, None)
                if text is None:
                    return
                position += len(text)
                self._hand_on(text, position)

    def end(self, whole: str) -> None:
        """What the last reading may have missed."""
        self._hand_on(whole, len(whole))

    def _hand_on(self, text: str, end: int) -> None:
        """`text` ends at character `end` of the log."""
        num_new = min(end - self.num_written, len(text))
        if num_new > 0:
            self.write(text[-num_new:])
            self.num_written = end


def _dropped() -> tuple[type[BaseException], ...]:
    """How a connection to a log breaks off; in any case the job itself is asked for afterwards."""
    import aiohttp

    return (aiohttp.ClientError, OSError, RuntimeError)  # OSError: TimeoutError too


def _job(details: Any) -> Job:
    return Job(
        str(details.submission_id),
        str(details.status),
        details.driver_exit_code,
        None if details.start_time is None else details.start_time / 1000,
        None if details.end_time is None else details.end_time / 1000,
        str(details.message or ""),
    )
