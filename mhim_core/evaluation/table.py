"""Held-out predictions as a table to give away and to read back: `predictions.parquet`, and its CSV twin.

bag_id patient_id site seed fold model, then
classification   label predicted probability_<class>… logit_<class>…
survival         time event risk logit_1 … logit_C, of the hazard in each time bin
regression       target predicted, in the cohort's unit
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mhim_core.errors import IntegrityError
from mhim_core.evaluation.held_out import HeldOut, Rows, class_probabilities, risks
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget

_ROW = ("bag_id", "patient_id", "site", "seed", "fold", "model")


def to_records(rows: Rows, task: Task) -> list[dict[str, Any]]:
    """A record a row, in the order given; what `write_csv` and `write_parquet` take."""
    if not rows:
        return []
    numbers = {
        TaskKind.classification: _classification,
        TaskKind.survival: _survival,
        TaskKind.regression: _regression,
    }[task.kind](rows, task)
    return [{name: getattr(row, name) for name in _ROW} | one for row, one in zip(rows, numbers, strict=True)]


def read_rows(data: bytes, task: Task, name: str = "predictions.parquet") -> list[HeldOut]:
    """The rows of a Parquet file made of `to_records`, exactly. Raises IntegrityError naming a column that lacks."""
    import pyarrow.parquet as pq
    from pyarrow import BufferReader

    table = pq.read_table(BufferReader(data), page_checksum_verification=True)
    wanted = [*_ROW, *_target_columns(task), *_output_columns(task)]
    if missing := [column for column in wanted if column not in table.column_names]:
        raise IntegrityError(f"{name} has no column {', '.join(missing)}; run mhim evaluate again")
    return [
        HeldOut(
            **{column: record[column] for column in _ROW},
            target=_target(record, task, name),
            logits=tuple(record[column] for column in _output_columns(task)),
        )
        for record in table.select(wanted).to_pylist()
    ]


def _classification(rows: Rows, task: Task) -> list[dict[str, Any]]:
    records = []
    for row, probability_C in zip(rows, class_probabilities(rows).tolist(), strict=True):
        assert isinstance(row.target, ClassTarget)
        records.append(
            {
                "label": task.classes[row.target.class_index],
                "predicted": task.classes[max(range(len(probability_C)), key=probability_C.__getitem__)],
                **{f"probability_{label}": one for label, one in zip(task.classes, probability_C, strict=True)},
                **dict(zip(_output_columns(task), row.logits, strict=True)),
            }
        )
    return records


def _survival(rows: Rows, task: Task) -> list[dict[str, Any]]:
    records = []
    for row, risk in zip(rows, risks(rows).tolist(), strict=True):
        assert isinstance(row.target, SurvivalTarget)
        logits = dict(zip(_output_columns(task), row.logits, strict=True))
        records.append({"time": row.target.time, "event": row.target.event, "risk": risk, **logits})
    return records


def _regression(rows: Rows, task: Task) -> list[dict[str, Any]]:
    return [{"target": row.target.value, "predicted": row.value} for row in rows if isinstance(row.target, ValueTarget)]


def _target_columns(task: Task) -> Sequence[str]:
    return {
        TaskKind.classification: ("label",),
        TaskKind.survival: ("time", "event"),
        TaskKind.regression: ("target",),
    }[task.kind]


def _output_columns(task: Task) -> list[str]:
    if task.kind is TaskKind.classification:
        return [f"logit_{label}" for label in task.classes]
    if task.kind is TaskKind.survival:
        return [f"logit_{index + 1}" for index in range(task.time_bins)]
    return ["predicted"]


def _target(record: Mapping[str, Any], task: Task, name: str) -> Target:
    if task.kind is TaskKind.survival:
        return SurvivalTarget(record["time"], record["event"])
    if task.kind is TaskKind.regression:
        return ValueTarget(record["target"])
    if record["label"] not in task.classes:
        raise IntegrityError(f"{name}: label {record['label']!r} of {record['bag_id']} is no class of the run")
    return ClassTarget(task.classes.index(record["label"]))
