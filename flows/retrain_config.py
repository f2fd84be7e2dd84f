"""The keys of `mhim pipeline`, `mhim retrain` and `mhim flow status`. Light: `--help` reads this file."""

from dataclasses import dataclass

from flows.config import FlowConfig
from mhim_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FlowStatusConfig(FlowConfig):
    """mhim flow status: how a flow's steps stand."""

    name: str
    """The model's name, under which the pipeline or retraining was started."""
    registry: str
    """Where the records lie: the registry, or the out= of a pipeline without one; a folder or s3://bucket/prefix."""
    last: int = 1
    """Runs shown of each flow, the newest first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last < 1:
            raise ConfigError(f"last={self.last} must be at least 1")
