"""The keys of the MLflow mirror. Light: `--help` reads this file."""

from dataclasses import dataclass, field
from enum import StrEnum

from flows.config.roles import Role, role


class Tracking(StrEnum):
    """The system that runs and models are mirrored to."""

    mlflow = "mlflow"


@dataclass(frozen=True, kw_only=True)
class TrackingKeys:
    """A mirror for people, which no flow reads; if mirroring fails, the flow continues."""

    tracking: Tracking | None = None
    """mlflow: mirror runs, figures and models to tracking_file, or to MLFLOW_TRACKING_URI; none: only if
    MLFLOW_TRACKING_URI is set."""
    tracking_file: str = field(default="", metadata=role(Role.mirror))
    """The SQLite file for tracking=mlflow; empty: MLFLOW_TRACKING_URI or, if that is not set, mlflow.db in the folder
    of the run or registry."""
