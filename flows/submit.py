"""mhim submit <flow> … ray_address=http://host:8265 [--wait]: runs a flow as a job of a Ray cluster.

Inputs: the words of the flow, which are checked here as the flow would check them. The installed code and the tables
that the words name are sent with the job; stores, runs and slides are not, and the job first checks that every node can
reach them. Outputs: the job's id; with --wait its log. If the same job is pending or running, submit attaches to it; if
it is over, however it ended, the next attempt starts, and the flow skips what is done. Cost: the upload of the code.
Exit code: 0 once the job is submitted; with --wait that of the flow, 130 if the job was stopped. 6 if the cluster stops
answering: the job continues, and the same command attaches to it.
"""

import shlex
from contextlib import ExitStack
from typing import Any

from cluster.jobs import JobServer, Submitted
from cluster.shipping import job_folder
from flows.commands import IN_JOB, read_flow
from flows.config.files import AS_TYPED
from flows.config.jobs import SubmitConfig
from flows.jobs import JobEnded, follow
from flows.submission.start import DISTRIBUTION, PACKAGES
from flows.submission.words import JobWords, job_words
from mhim_core.fingerprint import canonical_json


def run(config: SubmitConfig) -> JobEnded:
    """Raises InputError (2) if flow, machine or cluster refuse the job, ConflictError (5), UnreachableError (6)."""
    flow_config = read_flow(config.flow, config.overrides)
    job = job_words(config.flow, flow_config, config.overrides, ship=not config.image)
    for note in job.notes:
        print(f"note: {note}")
    server = JobServer(config.cluster.ray_address, allow_insecure=config.cluster.allow_insecure)
    submitted = send(server, config.flow, job, config.image)
    print(f"{submitted.job_id} {'goes on' if submitted.attached else 'is submitted'} at {server.address}", flush=True)
    if config.wait:
        return follow(server, submitted.job_id)
    print(f"  mhim jobs logs {submitted.job_id} --follow ray_address={server.address}")
    return JobEnded(0)


def send(server: JobServer, flow: str, job: JobWords, image: str = "") -> Submitted:
    """Submit the job or attach to it; the code is sent along, or is in the image."""
    with ExitStack() as stack:
        runtime_env: dict[str, Any] = {}
        if image:
            runtime_env["image_uri"] = image
        else:
            runtime_env["working_dir"] = str(stack.enter_context(job_folder(DISTRIBUTION, PACKAGES, job.files)))
        return server.submit(job.stem, entrypoint(flow, job), runtime_env)


def entrypoint(flow: str, job: JobWords) -> str:
    """The command line for a shell on the cluster."""
    variables = [f"{IN_JOB}=1"]
    if job.as_typed:
        variables.append(f"{AS_TYPED}={canonical_json(job.as_typed).decode()}")
    return shlex.join(["exec", "env", *variables, "python", "-m", "flows.cli", flow, *job.words])
