"""From bags to predictions by finished models: what evaluation and prediction share.

Shapes: N instances, C outputs of a model, M models.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from mhim_core.errors import InputError
from mhim_core.features import has_places
from mhim_core.metrics.outputs import softmax, survival_risk
from mhim_core.mil.layout import TREE_BESIDE, Layout
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
    beside: "Voter | None" = None
    """Of a pair: the stage-1 model of the student's fold and seed, which is joined with it; None: it predicts alone."""


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
    attention_of: Mapping[str, tuple[np.ndarray, ...]] = MappingProxyType({})
    """What `attention` is the mean of, each as above: of a pair that of `student` and that of `plain`; of models whose
    aggregator attends by class (MDMIL) that of every `class <name>`. Otherwise empty."""


def predict_tables(
    tables: Sequence[FeatureTable], voters: Sequence[Voter], layout: Layout | None = None
) -> BagPrediction:
    """One bag (a slide, or all slides of a patient in their order) through the models, all its instances.

    `layout`: of these instances, as part of a bag that is known as a whole; None: as `bag_layout` makes it.
    On a CPU the same bits whatever number of threads torch was set to. Of the voters all are pairs, or none.
    """
    # float16 as stored: the model takes them into its own precision, a chunk at a time where they are many
    parts = [table.features for table in tables]
    h_NF = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    layout = bag_layout(tables, voters) if layout is None else layout
    prediction = _predict(h_NF, voters, ends, layout)
    beside = [voter.beside for voter in voters if voter.beside is not None]
    if not beside:
        return prediction
    return join_pair(prediction, _predict(h_NF, beside, ends, layout), voters[0].task.kind)


def bag_layout(tables: Sequence[FeatureTable], voters: Sequence[Voter]) -> Layout | None:
    """Of a bag's slides, where a model asks for it. Raises InputError naming a slide without coordinates."""
    if not any(voter.model.needs_places for voter in voters):
        return None
    for table in tables:
        if not has_places(table.coords_l0_px):
            raise InputError(f"slide {table.slide_id}: its features have no coordinates, and this model needs them")
    return Layout.of_arrays([TREE_BESIDE.make(table.features, table.coords_l0_px) for table in tables])


def join_pair(student: BagPrediction, plain: BagPrediction, kind: TaskKind) -> BagPrediction:
    """One bag by M students and the M stage-1 models of their folds and seeds, in one order, each with its own.

    Logits as of `join_logits`; the attention is the mean of both.
    """
    logits_MC = join_logits(student.logits_MC, plain.logits_MC, kind)
    attention_of = {"student": student.attention, "plain": plain.attention}
    both = zip(student.attention, plain.attention, strict=True)
    attention = tuple((of_student + of_plain) / 2 for of_student, of_plain in both)
    return _summarised(logits_MC, kind, attention)._replace(attention_of=attention_of)


def join_logits(first_MC: np.ndarray, second_MC: np.ndarray, kind: TaskKind) -> np.ndarray:
    """Two models' logits as those of one; equal ones stay as they are. float64 (M, C).

    Two classes: the mean of both models' odds of class 1, the positive one. What one of them alone finds raises it
    nearly as much as if both had found it, and the other's noise hardly lowers it (ADR 27). Several classes, time bins
    and numbers: the mean.
    """
    both = np.stack([np.asarray(first_MC, dtype=np.float64), np.asarray(second_MC, dtype=np.float64)])
    if kind is not TaskKind.classification or both.shape[-1] != 2:
        return np.asarray(both.mean(axis=0))
    log_odds_M = np.logaddexp.reduce(both[..., 1] - both[..., 0], axis=0) - np.log(2)
    return np.stack([-log_odds_M / 2, log_odds_M / 2], axis=-1)


def _predict(
    h_NF: torch.Tensor, voters: Sequence[Voter], ends: np.ndarray, layout: Layout | None = None
) -> BagPrediction:
    """By each voter alone; `ends`: the first rows of the second and later slides."""
    with fixed_threads():
        outputs = [predict_bag(voter.model, h_NF, voter.append_recycled, layout) for voter in voters]
    logits_MC = np.stack([_in_users_unit(output, voter.task) for output, voter in zip(outputs, voters, strict=True)])
    attention_MN = torch.stack([output.attention_N.float().cpu() for output in outputs]).numpy()
    prediction = _summarised(logits_MC, voters[0].task.kind, tuple(np.split(attention_MN.mean(axis=0), ends)))
    return prediction._replace(attention_of=_attention_of_classes(outputs, voters[0].task, ends))


def _attention_of_classes(
    outputs: Sequence[ModelOutput], task: FittedTask, ends: np.ndarray
) -> dict[str, tuple[np.ndarray, ...]]:
    """By class, the mean over the models, where all of them attend by class."""
    of_models = [output.class_attention_CN for output in outputs if output.class_attention_CN is not None]
    if len(of_models) < len(outputs) or task.kind is not TaskKind.classification:
        return {}
    mean_CN = torch.stack([of_model.float().cpu() for of_model in of_models]).numpy().mean(axis=0)
    return {f"class {name}": tuple(np.split(row_N, ends)) for name, row_N in zip(task.classes, mean_CN, strict=True)}


def _summarised(logits_MC: np.ndarray, kind: TaskKind, attention: tuple[np.ndarray, ...]) -> BagPrediction:
    outputs_MK = np.stack([outputs_of(logits_C, kind) for logits_C in logits_MC])
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
