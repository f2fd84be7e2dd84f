"""mhim submit <flow> … ray_address=http://host:8265 [--wait]: a flow as a job of a Ray cluster.

Inputs: the flow's own words, read here as the flow would read them. The installed code and the tables that the words
name travel with the job; stores, runs and slides do not, and the job's first step finds out whether every node reaches
them. While the same is pending or running, submit attaches to it; after it is over, whatever its end, the next attempt
starts, and the flow itself finds what is done already.
Exit code: 0 once the job is submitted; with --wait the flow's own, 130 if the job was stopped. 6 where the cluster
stops answering: the job goes on, and the same again attaches to it.
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
    """Raises InputError (2) for what flow, machine or cluster would refuse, ConflictError (5), UnreachableError (6)."""
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
    """Submit or attach, with the installed code, or in an image that has it."""
    with ExitStack() as stack:
        runtime_env: dict[str, Any] = {}
        if image:
            runtime_env["image_uri"] = image
        else:
            runtime_env["working_dir"] = str(stack.enter_context(job_folder(DISTRIBUTION, PACKAGES, job.files)))
        return server.submit(job.stem, entrypoint(flow, job), runtime_env)


def entrypoint(flow: str, job: JobWords) -> str:
    """The line that a shell on the cluster runs."""
    variables = [f"{IN_JOB}=1"]
    if job.as_typed:
        variables.append(f"{AS_TYPED}={canonical_json(job.as_typed).decode()}")
    return shlex.join(["exec", "env", *variables, "python", "-m", "flows.cli", flow, *job.words])
