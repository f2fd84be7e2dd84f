"""mhim jobs ls | logs <id> [--follow] | stop <id>: the jobs of a cluster.

Inputs: the address of the cluster's dashboard. Outputs: lines on the terminal. Cost: a request or two.
Exit code: 0; that of the job for logs --follow; 2; 6 if the cluster stops answering.
"""

import sys
import time
from typing import NamedTuple

from cluster.jobs import Job, JobServer
from flows.config.jobs import ClusterKeys, JobsLogsConfig, JobsLsConfig, JobsStopConfig
from flows.engine.result import FlowResult
from mhim_core.printable import one_line


class JobEnded(NamedTuple):
    """The exit code of a job's command, whatever it is."""

    exit_code: int


def ls(config: JobsLsConfig) -> FlowResult:
    """One line per job: id, state, exit code, start, duration."""
    jobs = _server(config.cluster).jobs()
    width = max((len(job.job_id) for job in jobs), default=0)
    for job in jobs:
        print(_line(job, width))
    if not jobs:
        print(f"no job was submitted to {config.cluster.ray_address} since it started")
    return FlowResult()


def logs(config: JobsLogsConfig) -> JobEnded:
    """Raises ConfigError if the cluster knows no such job."""
    server = _server(config.cluster)
    if config.follow:
        return follow(server, config.which.job)
    print(server.log(config.which.job), end="")
    return JobEnded(0)


def stop(config: JobsStopConfig) -> FlowResult:
    """Raises ConfigError if the cluster knows no such job."""
    server = _server(config.cluster)
    if server.stop(config.which.job):
        print(f"{config.which.job} is being stopped; what it committed is kept; submit it again to resume")
    else:
        print(f"{config.which.job} was already over: {server.job(config.which.job).status}")
    return FlowResult()


def follow(server: JobServer, job_id: str) -> JobEnded:
    """Print a job's log until the job is over; returns its exit code."""
    try:
        job = server.follow(job_id, _write)
    except KeyboardInterrupt:
        print(f"\nthe job goes on without you; mhim jobs stop {job_id} ray_address={server.address} ends it")
        raise
    if job.exit_code is None and job.message:
        print(f"{job_id}: {job.status}: {one_line(job.message.strip().splitlines()[-1])}")
    return JobEnded(job.command_exit_code)


def _server(keys: ClusterKeys) -> JobServer:
    return JobServer(keys.ray_address, allow_insecure=keys.allow_insecure)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _line(job: Job, width: int) -> str:
    code = f"exit {job.command_exit_code}" if job.is_over else ""
    started = "" if job.started_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started_s))
    seconds = "" if job.started_s is None else f"{(job.ended_s or time.time()) - job.started_s:.0f} s"
    return f"{job.job_id:<{width}}  {job.status:<9}  {code:<8}  {started:<19}  {seconds}".rstrip()
