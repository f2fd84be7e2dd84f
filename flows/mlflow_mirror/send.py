"""The MLflow mirror: what people see there of runs and models. The store is the truth, and no flow reads the mirror.

Everything is sent by a process of its own (`client.py`) that is given a limited time: a server that is away or slow, an
MLflow that is not installed, a mirror that fails in any way costs a warning line and stops no flow. What
was not sent is sent with the next command that mirrors the same run or model.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from flows.config.tracking import Tracking, TrackingKeys
from mhim_core.fingerprint import canonical_json
from mhim_core.storage import Storage

if TYPE_CHECKING:
    from flows.mlflow_mirror.documents import Mirror
    from flows.runs.folder import Run
    from mhim_core.report.data import ReportFigure

URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = "mhim"
_LIMIT_S = 120.0
"""What mirroring may take, all in all."""
_TIMEOUTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow's own waits for minutes; what a person set is left."""
_SILENCE = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
"""It reports its use to its makers unless told not to."""


class Destination(NamedTuple):
    """Where the mirror is."""

    uri: str
    artifacts: str = ""
    """The folder of files, for a SQLite file; empty: the server knows."""


def mirror_run(run: "Run", keys: TrackingKeys, figures: "Iterable[ReportFigure]" = ()) -> None:
    """Show a training run as far as it is: its fits, its evaluation, its page. Never raises, nor waits long."""

    def make() -> "Mirror":
        from flows.mlflow_mirror.documents import mirror_of_run

        return mirror_of_run(run, figures)

    _mirror(make, keys, run.storage)


def mirror_promotion(registry: Storage, name: str, keys: TrackingKeys) -> None:
    """Show a name's models, judgements and promotions, and move the aliases. Never raises, nor waits long."""

    def make() -> "Mirror":
        from flows.mlflow_mirror.documents import mirror_of_registry

        return mirror_of_registry(registry, name)

    _mirror(make, keys, registry)


def with_file(keys: TrackingKeys, storage: Storage) -> TrackingKeys:
    """The keys for the flows that a flow calls, so that all of them write one file, in this one's folder."""
    target = destination(keys, storage)
    is_file = target is not None and bool(target.artifacts)
    file = target.uri.removeprefix("sqlite:///") if target is not None and is_file else keys.tracking_file
    return TrackingKeys(tracking=keys.tracking, tracking_file=file)


def destination(keys: TrackingKeys, storage: Storage) -> Destination | None:
    """None: nothing is asked for, or a SQLite file in a bucket."""
    uri = os.environ.get(URI, "")
    if keys.tracking is Tracking.mlflow and (keys.tracking_file or not uri):
        if not keys.tracking_file and "://" in storage.uri:
            return None
        file = Path(keys.tracking_file or storage.locate("mlflow.db")).expanduser().absolute()
        return Destination(f"sqlite:///{file}", str(file.with_suffix(".files")))
    return Destination(uri) if uri else None


def is_installed() -> bool:
    """Whether there is an MLflow to import."""
    return importlib.util.find_spec("mlflow") is not None


def _mirror(make: "Callable[[], Mirror]", keys: TrackingKeys, storage: Storage) -> None:
    target = destination(keys, storage)
    if target is None:
        if keys.tracking is not None:
            _warn(f"{storage.uri} cannot hold a SQLite file; set {URI}, or tracking_file=")
        return None
    if not is_installed():
        return _warn("mlflow is not installed: pip install 'mhim[mlflow]'")
    try:
        _send(make(), target)
    except subprocess.TimeoutExpired:
        _warn(f"{_shown(target.uri)} took longer than {_LIMIT_S:g} s")
    except Exception as error:  # whatever it is, it is the mirror's, and the flow's work is done and kept
        _warn(f"{_shown(target.uri)}: {_without_login(str(error) or type(error).__name__, target.uri)}")
    return None


class _ClientError(Exception):
    """What the client said last."""


def _send(mirror: "Mirror", target: Destination) -> None:
    with tempfile.TemporaryDirectory(prefix="mhim-mlflow-") as folder:
        document = _write(mirror, Path(folder)) | {
            "uri": target.uri,
            "experiment": os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT,
            "artifacts": target.artifacts,
        }
        Path(folder, "mirror.json").write_bytes(canonical_json(document))
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "flows.mlflow_mirror.client", folder],
            env=_TIMEOUTS | dict(os.environ) | _SILENCE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise _ClientError(lines[-1] if lines else f"its client ended with {ended.returncode}")


def _write(mirror: "Mirror", folder: Path) -> dict[str, Any]:
    """Files into the folder, all else as plain JSON; a part says in which folder its files are, and its digest."""
    runs = []
    for number, run in enumerate(mirror.runs):
        parts = []
        for part in run.parts:
            own = folder / f"{number}-{part.name}"
            for path, data in part.files.items():
                (own / path).parent.mkdir(parents=True, exist_ok=True)
                (own / path).write_bytes(data)
            files = own.name if part.files else ""
            parts.append(
                {
                    "name": part.name,
                    "digest": part.digest,
                    "params": part.params,
                    "metrics": [list(point) for point in part.metrics],
                    "files": files,
                }
            )
        runs.append({"key": run.key, "name": run.name, "parent": run.parent, "tags": run.tags, "parts": parts})
    models = [dataclasses.asdict(model) for model in mirror.models]
    document: dict[str, Any] = json.loads(canonical_json({"runs": runs, "models": models}))
    return document


def _warn(message: str) -> None:
    print(f"warning: not mirrored to MLflow: {' '.join(message.split())[:300]}", file=sys.stderr, flush=True)


def _shown(uri: str) -> str:
    """Without the name and password that an address may hold."""
    return _without_login(uri, uri)


def _without_login(message: str, uri: str) -> str:
    login = urlsplit(uri).netloc.rpartition("@")[0]
    return message.replace(f"{login}@", "") if login else message
