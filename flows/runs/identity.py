"""What identifies a run's result, in `run.json` and in the inputs of the lifecycle's steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.config.commands import TrainConfig
from flows.config.keys import Method
from mhim_core.cohort.task_options import SplitOptions, SplitScheme, TaskOptions
from mhim_core.fingerprint import to_plain
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.task import Task
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.prediction import PredictOptions


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Beside the cohort, and the models of another run that it takes or starts from.

    A section of options that is added later is neutral where its options are.
    """

    method: Method
    model: ModelOptions
    fit: FitOptions
    seeds: Sequence[int]
    splits: SplitOptions
    target: TaskOptions
    task: Task
    feature_set: str
    """Fingerprint."""
    mhim: MhimOptions | None = field(default=None, metadata={"neutral": None})
    """None: method=plain."""
    threads_per_worker: int | None = field(default=None, metadata={"neutral": None})
    """The last bits of a sum depend on it; None on GPUs, where they do not."""
    prediction: PredictOptions = field(default=PredictOptions(), metadata={"neutral": PredictOptions()})


@dataclass(frozen=True, kw_only=True)
class TrainingKeys:
    """The keys that identify a training before its cohort and features are known, without those of its folds."""

    method: Method
    model: ModelOptions
    mhim: MhimOptions | None
    """None: method=plain."""
    fit: FitOptions
    seeds: int
    """How many."""
    splits: dict[str, float]
    """val_fraction and test_fraction."""
    scheme: SplitScheme
    split_files: tuple[str, ...]
    teacher: str
    target: TaskOptions
    prediction: PredictOptions = field(default=PredictOptions(), metadata={"neutral": PredictOptions()})


def run_identity(config: TrainConfig, seeds: Sequence[int], task: Task, feature_set: str) -> RunIdentity:
    """What identifies a run; `seeds`: of every fit, `feature_set`: a fingerprint."""
    return RunIdentity(
        method=config.method,
        model=config.model,
        fit=config.fit,
        seeds=seeds,
        splits=config.splits,
        target=config.target,
        task=task,
        feature_set=feature_set,
        mhim=config.mhim if config.method is Method.mhim else None,
        threads_per_worker=None if config.execution.gpus_per_worker else config.execution.threads_per_worker,
        prediction=config.prediction if config.method is Method.mhim else PredictOptions(),
    )


def keys_identity(config: TrainConfig) -> dict[str, Any]:
    """The config's `TrainingKeys` as plain JSON."""
    splits = config.splits
    keys = TrainingKeys(
        method=config.method,
        model=config.model,
        mhim=config.mhim if config.method is Method.mhim else None,
        fit=config.fit,
        seeds=config.protocol.seeds,
        splits={"val_fraction": splits.val_fraction, "test_fraction": splits.test_fraction},
        scheme=splits.scheme,
        split_files=config.protocol.split_files,
        teacher=config.protocol.teacher,
        target=config.target,
        prediction=config.prediction if config.method is Method.mhim else PredictOptions(),
    )
    plain: dict[str, Any] = to_plain(keys)
    return plain
