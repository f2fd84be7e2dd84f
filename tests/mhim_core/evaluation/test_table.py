"""The table of held-out predictions: what is written is read back to the last bit."""

import pytest

from mhim_core.errors import IntegrityError
from mhim_core.evaluation.table import read_rows, to_records
from mhim_core.tables import write_csv, write_parquet
from mhim_core.task import Task, TaskKind


@pytest.mark.parametrize("kind", ["binary", "multiclass", "survival", "regression"])
def test_rows_come_back_as_they_were(make, kind):
    given = make(kind, seeds=2, models=("mhim", "plain"), sites=("north", None))
    data = write_parquet(to_records(given.test, given.task))
    assert read_rows(data, given.task) == given.test
    assert write_parquet(to_records(read_rows(data, given.task), given.task)) == data
    assert write_csv(to_records(given.test, given.task)).count(b"\n") == len(given.test) + 1


def test_the_table_holds_what_a_reader_wants_beside_the_logits(make):
    binary, survival, regression = (
        to_records(given.test, given.task)[0] for given in (make("binary"), make("survival"), make("regression"))
    )
    first = ["bag_id", "patient_id", "site", "seed", "fold", "model"]
    columns = ("label", "predicted", "probability_normal", "probability_tumour", "logit_normal", "logit_tumour")
    assert list(binary) == [*first, *columns]
    assert binary["predicted"] == ("tumour" if binary["probability_tumour"] > 0.5 else "normal")
    assert list(survival)[6:] == ["time", "event", "risk", "logit_1", "logit_2", "logit_3", "logit_4"]
    assert survival["risk"] == pytest.approx(make("survival").test[0].risk)
    assert list(regression)[6:] == ["target", "predicted"]


def test_a_table_of_another_kind_is_refused_by_column_and_label(make):
    given = make("binary")
    data = write_parquet(to_records(given.test, given.task))
    with pytest.raises(IntegrityError, match="no column time, event, logit_1"):
        read_rows(data, Task(kind=TaskKind.survival))
    records = [{**record, "label": "other"} for record in to_records(given.test, given.task)]
    with pytest.raises(IntegrityError, match="label 'other' of s000 is no class"):
        read_rows(write_parquet(records), given.task)
    assert to_records([], given.task) == []
