"""From bags to predictions by finished models: what evaluation and prediction share.

Shapes: N instances, C outputs of a model, M models.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from mhim_core.metrics.outputs import softmax, survival_risk
from mhim_core.mil.model import MilModel
from mhim_core.store.schema import FeatureTable
from mhim_core.task import FittedTask, TaskKind
from mhim_core.train.model_file import ModelOutput, predict_bag

NUM_THREADS = 2
"""Of every forward pass here on a CPU: a sum's last bits depend on it, which must not vary with the machine."""


@contextmanager
def fixed_threads() -> Iterator[None]:
    """torch computes on NUM_THREADS threads inside, afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Voter(NamedTuple):
    """One model and how it is applied."""

    model: MilModel
    append_recycled: bool
    task: FittedTask


class BagPrediction(NamedTuple):
    """One bag by M models."""

    logits_MC: np.ndarray
    """float64 (M, C): a logit per class or time bin, or in a regression the number itself, in the cohort's unit."""
    outputs: np.ndarray
    """float64 (K,), the mean over the models: K = C class probabilities, or 1: the risk, or the number."""
    spread: np.ndarray
    """float64 (K,): the standard deviation over the models, 0 for one."""
    attention: tuple[np.ndarray, ...]
    """float32 (N,) per slide of the bag, of these very forward passes, the mean over the models; 1 in all."""


def predict_tables(tables: Sequence[FeatureTable], voters: Sequence[Voter]) -> BagPrediction:
    """One bag (a slide, or all slides of a patient in their order) through the models, all its instances.

    On a CPU the same bits whatever number of threads torch was set to.
    """
    # float16 as stored: the model takes them into its own precision, a chunk at a time where they are many
    parts = [table.features for table in tables]
    h_NF = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
    with fixed_threads():
        outputs = [predict_bag(voter.model, h_NF, voter.append_recycled) for voter in voters]
    logits_MC = np.stack([_in_users_unit(output, voter.task) for output, voter in zip(outputs, voters, strict=True)])
    outputs_MK = np.stack([outputs_of(logits_C, voters[0].task.kind) for logits_C in logits_MC])
    attention_MN = torch.stack([output.attention_N.float().cpu() for output in outputs]).numpy()
    ends = np.cumsum([len(table.features) for table in tables])[:-1]
    attention = tuple(np.split(attention_MN.mean(axis=0), ends))
    return BagPrediction(logits_MC, outputs_MK.mean(axis=0), outputs_MK.std(axis=0), attention)


def outputs_of(logits_C: np.ndarray, kind: TaskKind) -> np.ndarray:
    """The prediction as reported: class probabilities (C,), the risk (1,) or the number (1,), float64."""
    logits = np.asarray(logits_C, dtype=np.float64)
    if kind is TaskKind.classification:
        return softmax(logits[None])[0]
    return survival_risk(logits)[None] if kind is TaskKind.survival else logits


def _in_users_unit(output: ModelOutput, task: FittedTask) -> np.ndarray:
    logits_C = output.logits_C.double().cpu().numpy()
    return logits_C * task.target_deviation + task.target_mean  # 1 and 0 but in a regression
