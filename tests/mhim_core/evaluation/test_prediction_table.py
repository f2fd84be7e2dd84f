"""Tables of predictions are written and read by one schema."""

import pyarrow as pa
import pytest

from mhim_core.cohort.task_options import BagUnit
from mhim_core.errors import IntegrityError
from mhim_core.evaluation import prediction_table
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.prediction_table import (
    class_values,
    decode_held_out,
    encode_held_out,
    held_out_line,
    held_out_schema,
    new_bags_schema,
    read_lines,
)
from mhim_core.tables import read_parquet, write_parquet
from mhim_core.task import ClassTarget, SurvivalTarget, Task, TaskKind, ValueTarget

TASKS = {
    TaskKind.classification: Task(kind=TaskKind.classification, classes=("normal", "tumour")),
    TaskKind.survival: Task(kind=TaskKind.survival, time_bins=2),
    TaskKind.regression: Task(kind=TaskKind.regression),
}
TARGETS = {
    TaskKind.classification: ClassTarget(1),
    TaskKind.survival: SurvivalTarget(3.5, False),
    TaskKind.regression: ValueTarget(7.25),
}


def held_out(kind: TaskKind, unit: BagUnit = BagUnit.slide, site: str | None = None) -> HeldOut:
    logits = (0.125,) if kind is TaskKind.regression else (0.125, -1.5)
    bag_id = "s1" if unit is BagUnit.slide else "p1"
    return HeldOut("mhim", 2021, 0, bag_id, "p1", site, TARGETS[kind], logits)


@pytest.mark.parametrize("unit", list(BagUnit))
@pytest.mark.parametrize("kind", list(TaskKind))
def test_held_out_rows_are_read_as_they_were_written(kind: TaskKind, unit: BagUnit) -> None:
    rows = [held_out(kind, unit), held_out(kind, unit, site="north")._replace(fold=1)]
    task = TASKS[kind]
    data = encode_held_out(rows, task, unit)
    assert decode_held_out(data, task, unit, "x") == rows
    assert read_parquet(data).schema.equals(held_out_schema(task, unit), check_metadata=True)
    assert list(held_out_line(rows[0], task, unit)) == held_out_schema(task, unit).names, "the CSV has the same columns"


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_table_from_before_there_were_versions_is_read(kind: TaskKind) -> None:
    row, task = held_out(kind), TASKS[kind]
    inferred = write_parquet([held_out_line(row, task, BagUnit.slide)])
    assert read_parquet(inferred).schema.metadata is None
    assert decode_held_out(inferred, task, BagUnit.slide, "x") == [row]


def test_a_type_does_not_depend_on_the_values() -> None:
    """A site that no row has was a column of text or of nothing, as the first row went."""
    schemas = [
        read_parquet(encode_held_out(rows, TASKS[TaskKind.survival], BagUnit.slide)).schema
        for rows in ([], [held_out(TaskKind.survival)], [held_out(TaskKind.survival, site="north")])
    ]
    assert schemas[0].equals(schemas[1])
    assert schemas[1].equals(schemas[2])


def test_a_table_of_other_columns_is_refused_naming_them() -> None:
    task, other = TASKS[TaskKind.classification], Task(kind=TaskKind.classification, classes=("normal", "cancer"))
    data = encode_held_out([held_out(TaskKind.classification)], task, BagUnit.slide)
    with pytest.raises(IntegrityError, match=r"there.*without .*logit_cancer.*with .*logit_tumour"):
        decode_held_out(data, other, BagUnit.slide, "there")


def test_damaged_bytes_and_a_later_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS[TaskKind.classification]
    with pytest.raises(IntegrityError, match="there is damaged"):
        decode_held_out(b"no parquet", task, BagUnit.slide, "there")
    with monkeypatch.context() as later:
        later.setattr(prediction_table, "VERSION", prediction_table.VERSION + 1)
        data = encode_held_out([held_out(TaskKind.classification)], task, BagUnit.slide)
    with pytest.raises(IntegrityError, match=f"version {prediction_table.VERSION + 1}"):
        decode_held_out(data, task, BagUnit.slide, "there")


@pytest.mark.parametrize("kind", list(TaskKind))
def test_new_bags_tell_what_they_are_by_and_read_back(kind: TaskKind) -> None:
    task, origin = TASKS[kind], ("model", "version")
    schema = new_bags_schema(task, BagUnit.patient, origin)
    assert {"patient_id", "slide_ids", *origin, "predicted_at"} <= set(schema.names)
    line = {field.name: _example(field.type) for field in schema}
    (line_read,) = read_lines(write_parquet([line], schema=schema), schema, "x")
    assert line_read == line
    if task.classes:
        assert class_values(line_read, "calibrated", task) == (0.5, 0.5)


def _example(kind: pa.DataType) -> object:
    return {pa.float64(): 0.5, pa.int64(): 3, pa.bool_(): True}.get(kind, "text")
