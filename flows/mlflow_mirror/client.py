"""`python -m flows.mlflow_mirror.client <folder>`: what `send.py` wrote there → MLflow. A process of its own.

It alone imports mlflow. Runs are found again by the tag `mhim.key`, and a part that is there with the same digest is
not sent again, so that mirroring twice, or after a crash, shows everything once.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mhim_core.records import parse_json

_KEY, _PARENT = "mhim.key", "mlflow.parentRunId"
_BATCH = 500
"""Metrics in a request; MLflow takes 1,000."""
_PARAM_BATCH = 100


def main(folder: Path) -> None:
    """Send the folder's document. Raises what MLflow raises."""
    from mlflow import MlflowClient

    document = parse_json((folder / "mirror.json").read_bytes())
    uri = document["uri"]
    client = MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    experiment = _experiment(client, document["experiment"], document["artifacts"])
    ids: dict[str, str] = {}
    for run in document["runs"]:
        ids[run["key"]] = _mirror_run(client, experiment, run, ids.get(run["parent"], ""), folder)
    for model in document["models"]:
        _mirror_model(client, model, ids)


def _experiment(client: Any, name: str, artifacts: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    place = {"artifact_location": Path(artifacts).as_uri()} if artifacts else {}
    try:
        return str(client.create_experiment(name, **place))
    except Exception:
        experiment = client.get_experiment_by_name(name)  # another command was quicker
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _mirror_run(client: Any, experiment: str, run: dict[str, Any], parent: str, folder: Path) -> str:
    """Make or complete the run; its id."""
    tags = run["tags"] | {_KEY: run["key"]} | ({_PARENT: parent} if parent else {})
    matches = client.search_runs([experiment], filter_string=f"tags.`{_KEY}` = '{run['key']}'", max_results=1)
    if matches:
        known = dict(matches[0].data.tags)
        run_id = str(matches[0].info.run_id)
        for key, value in tags.items():
            if known.get(key) != value:
                client.set_tag(run_id, key, value)
    else:
        known = {}
        run_id = str(client.create_run(experiment, run_name=run["name"], tags=tags).info.run_id)
    for part in run["parts"]:
        tag = f"mhim.part.{part['name']}"
        if known.get(tag) != part["digest"]:
            _send_part(client, run_id, part, folder)
            client.set_tag(run_id, tag, part["digest"])  # last: it says that the rest is there
    if not matches or matches[0].info.status != "FINISHED":
        client.set_terminated(run_id)
    return run_id


def _send_part(client: Any, run_id: str, part: dict[str, Any], folder: Path) -> None:
    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    metrics = [Metric(name, value, now_ms, step) for name, value, step in part["metrics"]]
    for some in _batches(metrics, _BATCH):
        client.log_batch(run_id, metrics=some)
    for some in _batches([Param(key, value) for key, value in part["params"].items()], _PARAM_BATCH):
        client.log_batch(run_id, params=some)
    if part["files"]:
        client.log_artifacts(run_id, str(folder / part["files"]))


def _mirror_model(client: Any, model: dict[str, Any], ids: dict[str, str]) -> None:
    name = model["name"]
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        client.create_registered_model(name, description="Mirror of mhim's registry, which is the truth.")
    registered = client.search_model_versions(f"name = '{name}'")
    number_of = {version.tags.get("mhim.version"): version.version for version in registered}
    for mirrored in model["versions"]:
        if mirrored["version"] in number_of:
            continue
        run_id = ids[mirrored["run"]]
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        made = client.create_model_version(
            name,
            source,
            run_id=run_id,
            tags={"mhim.version": mirrored["version"]},
            description=mirrored["description"],
            await_creation_for=0,
        )
        number_of[mirrored["version"]] = made.version
    standing = client.get_registered_model(name).aliases
    for alias, version in model["aliases"].items():
        if str(standing.get(alias)) != str(number_of[version]):
            client.set_registered_model_alias(name, alias, number_of[version])
    for alias in ("champion", "challenger"):
        if alias in standing and alias not in model["aliases"]:
            client.delete_registered_model_alias(name, alias)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # its notes on tables that it makes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(Path(sys.argv[1]))
        except Exception as error:
            sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
