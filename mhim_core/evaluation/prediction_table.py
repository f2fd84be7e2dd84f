"""The tables of predictions: the versioned schema of what `evaluate` and `predict` write and other commands read.

Held-out rows, one a bag, model, seed and fold:
    [slide_id] patient_id site seed fold model · truth · predicted | risk | prediction · logits
New bags, one a bag, the mean over the models:
    [slide_id] patient_id site [slide_ids] · truth · outputs with spread · num_slides num_tiles num_models encoder ·
    origin (run, or model and version) · predicted_at
`slide_id` where a bag is a slide. truth: label, or time and event. A class's columns end with its name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mhim_core.cohort.task_options import BagUnit
from mhim_core.errors import IntegrityError
from mhim_core.evaluation.held_out import HeldOut, Rows
from mhim_core.tables import read_parquet, write_parquet
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
"""Of the columns; raised when one is added, renamed or changes its meaning. Readers refuse a later version."""
_VERSION_KEY = b"mhim.predictions"


def held_out_schema(task: Task, unit: BagUnit) -> "pa.Schema":
    """Of the bags that a run's models held out."""
    import pyarrow as pa

    truth = [("label", pa.float64())] if task.kind is TaskKind.regression else _truth(task)
    outputs = {
        TaskKind.classification: [("predicted", pa.string()), *_numbers("probability", task)],
        TaskKind.survival: [("risk", pa.float64())],
        TaskKind.regression: [("prediction", pa.float64())],
    }[task.kind]
    logits = [] if task.kind is TaskKind.regression else [(name, pa.float64()) for name in logit_columns(task)]
    return _schema(
        [
            *_id_columns(unit, members=False),
            ("seed", pa.int64()),
            ("fold", pa.int64()),
            ("model", pa.string()),
            *truth,
            *outputs,
            *logits,
        ]
    )


def new_bags_schema(task: Task, unit: BagUnit, origin: Sequence[str]) -> "pa.Schema":
    """Of new bags. `origin`: the columns that say what predicted: run, or model and version."""
    import pyarrow as pa

    outputs = {
        TaskKind.classification: [
            ("predicted", pa.string()),
            ("decision", pa.string()),
            *_numbers("probability", task),
            *_numbers("spread", task),
            *_numbers("calibrated", task),
        ],
        TaskKind.survival: [("risk", pa.float64()), ("risk_spread", pa.float64())],
        TaskKind.regression: [("prediction", pa.float64()), ("prediction_spread", pa.float64())],
    }[task.kind]
    counts = [(name, pa.int64()) for name in ("num_slides", "num_tiles", "num_models")]
    texts = [(name, pa.string()) for name in ("encoder", *origin, "predicted_at")]
    return _schema([*_id_columns(unit, members=True), *_truth(task), *outputs, *counts, *texts])


def held_out_line(row: HeldOut, task: Task, unit: BagUnit) -> dict[str, Any]:
    """One bag by one model that held it out, as a row of the table."""
    line: dict[str, Any] = {"slide_id": row.bag_id} if unit is BagUnit.slide else {}
    line |= {"patient_id": row.patient_id, "site": row.site, "seed": row.seed, "fold": row.fold, "model": row.model}
    if isinstance(row.target, ClassTarget):
        probability_C = row.probabilities
        line |= {
            "label": task.classes[row.target.class_index],
            "predicted": task.classes[max(range(len(probability_C)), key=probability_C.__getitem__)],
            **dict(zip(class_columns("probability", task), probability_C, strict=True)),
        }
    elif isinstance(row.target, SurvivalTarget):
        line |= {"time": row.target.time, "event": row.target.event, "risk": row.risk}
    else:
        return line | {"label": row.target.value, "prediction": row.value}
    return line | dict(zip(logit_columns(task), row.logits, strict=True))


def encode_held_out(rows: Iterable[HeldOut], task: Task, unit: BagUnit) -> bytes:
    """The table as Parquet, in the order of the rows."""
    return write_parquet([held_out_line(row, task, unit) for row in rows], schema=held_out_schema(task, unit))


def decode_held_out(data: bytes, task: Task, unit: BagUnit, where: str) -> list[HeldOut]:
    """The rows. Raises IntegrityError naming `where` if the table is damaged, of a later version or other columns."""
    logits = ["prediction"] if task.kind is TaskKind.regression else logit_columns(task)
    return [
        HeldOut(
            row["model"],
            row["seed"],
            row["fold"],
            row["slide_id" if unit is BagUnit.slide else "patient_id"],
            row["patient_id"],
            row["site"],
            _target(task, row),
            tuple(row[name] for name in logits),
        )
        for row in read_lines(data, held_out_schema(task, unit), where)
    ]


def read_lines(data: bytes, schema: "pa.Schema", where: str) -> list[dict[str, Any]]:
    """The rows of a table of this schema, as mappings.

    Raises IntegrityError naming `where` if the bytes are no Parquet, of a later version, or lack or have a column.
    A table without a version was written before there was one, and has the columns of version 1.
    """
    import pyarrow as pa

    try:
        table = read_parquet(data)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{where} is damaged: {error}") from error
    stated = (table.schema.metadata or {}).get(_VERSION_KEY, b"1")
    if not stated.isdigit() or len(stated) > 9:
        raise IntegrityError(f"{where} is damaged: its version is {stated!r}")
    version = int(stated)
    if version > VERSION:
        raise IntegrityError(f"{where} has predictions of version {version}; this mhim reads up to {VERSION}")
    missing = [name for name in schema.names if name not in table.column_names]
    foreign = [name for name in table.column_names if name not in schema.names]
    if missing or foreign:
        wrong = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {', '.join(foreign)}"] * bool(foreign)
        raise IntegrityError(f"{where} is a table {' and '.join(wrong)}, not one of these predictions")
    try:
        return table.select(schema.names).cast(schema.remove_metadata()).to_pylist()
    except pa.ArrowException as error:
        raise IntegrityError(f"{where} has values of another type: {error}") from error


def class_columns(prefix: str, task: Task) -> list[str]:
    """`probability_<class>` and the like, in class order."""
    return [f"{prefix}_{name}" for name in task.classes]


def logit_columns(task: Task) -> list[str]:
    """A column a class or time bin."""
    if task.kind is TaskKind.survival:
        return [f"logit_bin_{index}" for index in range(task.time_bins)]
    return class_columns("logit", task)


def class_values(line: Mapping[str, Any], prefix: str, task: Task) -> tuple[float, ...]:
    """(C,): a row's probabilities, spreads or calibrated probabilities."""
    return tuple(line[name] for name in class_columns(prefix, task))


def ordered(rows: Rows, models: Sequence[str]) -> list[HeldOut]:
    """In the order of the table: models as given, then seed, bag and fold."""
    return sorted(rows, key=lambda row: (models.index(row.model), row.seed, row.bag_id, row.fold))


def _id_columns(unit: BagUnit, *, members: bool) -> list[tuple[str, "pa.DataType"]]:
    import pyarrow as pa

    names = ["slide_id"] * (unit is BagUnit.slide) + ["patient_id", "site"]
    return [(name, pa.string()) for name in names + ["slide_ids"] * (members and unit is not BagUnit.slide)]


def _truth(task: Task) -> list[tuple[str, "pa.DataType"]]:
    import pyarrow as pa

    if task.kind is TaskKind.survival:
        return [("time", pa.float64()), ("event", pa.bool_())]
    return [("label", pa.string())]


def _numbers(prefix: str, task: Task) -> list[tuple[str, "pa.DataType"]]:
    import pyarrow as pa

    return [(name, pa.float64()) for name in class_columns(prefix, task)]


def _schema(fields: Sequence[tuple[str, "pa.DataType"]]) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(list(fields), metadata={_VERSION_KEY: str(VERSION).encode()})


def _target(task: Task, row: Mapping[str, Any]) -> Target:
    if task.kind is TaskKind.survival:
        return SurvivalTarget(row["time"], row["event"])
    if task.kind is TaskKind.regression:
        return ValueTarget(row["label"])
    return ClassTarget(task.classes.index(row["label"]))
