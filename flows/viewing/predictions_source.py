"""Predictions in the viewer: new slides, the attention kept with them, and the run's models where the run is there."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.viewing.cohort_rows import CohortPlaces, rows_beside
from flows.viewing.run_models import RunModels
from flows.viewing.source import ModelChoice, Source, read_kept_attention
from mhim_core.cohort.task_options import BagUnit
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord
from mhim_core.task import Task
from mhim_core.types import SlideId
from mhim_core.view.outcomes import new_bag_outcome
from mhim_core.view.worklist import Worklist, WorklistRow

if TYPE_CHECKING:
    from mhim_core.train.inference import Voter


class PredictionsSource(Source):
    """What `mhim predict` wrote."""

    kind = "predictions"

    def __init__(
        self,
        out: Storage,
        lines: Sequence[Mapping[str, Any]],
        task: Task,
        unit: BagUnit,
        feature_set: FeatureSet,
        entries: Mapping[SlideId, CommitRecord],
        features: Storage,
        cohort: CohortPlaces | None,
        models: RunModels | None,
    ) -> None:
        super().__init__(features, entries, feature_set.tiling)
        self.title = f"predictions · {out.uri.rstrip('/').rpartition('/')[2]}"
        self.task, self.unit, self.storage, self._cohort, self._models = task, unit.value, out, cohort, models
        self._members: dict[str, tuple[str, ...]] = {}
        rows = []
        for line in lines:
            members = (str(line["slide_id"]),) if unit is BagUnit.slide else tuple(line["slide_ids"].split(";"))
            outcome = new_bag_outcome(line, task)
            for slide_id in members:
                self._members[slide_id] = members
                entry = entries.get(SlideId(slide_id))
                rows.append(
                    WorklistRow(
                        slide_id=slide_id,
                        patient_id=line["patient_id"] or "",
                        site=line["site"],
                        label=_truth(line),
                        num_tiles=entry.num_tiles if entry is not None else None,
                        **vars(outcome),
                    )
                )
        rows += rows_beside(cohort, self._members, features, feature_set.fingerprint, entries)
        self.worklist = Worklist(rows, task.kind)
        num_models = lines[0]["num_models"] if lines else 0
        by = "one model" if num_models == 1 else f"the mean of {num_models} models"
        self.notes = [f"New slides, predicted by {by}."]
        if models is None:
            self.notes.append("The models are not at hand: the attention that was kept is shown; run= names their run.")

    def uri_of(self, slide_id: str) -> str:
        if self._cohort is not None and slide_id in self._cohort.uris:
            return self._cohort.uris[slide_id]
        entry = self.entries.get(SlideId(slide_id))
        return "" if entry is None or entry.reading.is_imported else entry.reading.hint.uri

    def members_of(self, slide_id: str) -> tuple[str, ...]:
        return self._members.get(slide_id, (slide_id,))

    def models_of(self, slide_id: str) -> list[ModelChoice]:
        return [] if self._models is None else self._models.choices({})

    def voter(self, key: str) -> "Voter":
        return super().voter(key) if self._models is None else self._models.voter(key)

    def kept_attention(self, slide_id: str) -> Mapping[str, np.ndarray]:
        return read_kept_attention(self.storage, f"attention/{slide_id}.parquet")


def _truth(line: Mapping[str, Any]) -> str | None:
    if "time" in line:
        known = line["time"] is not None and line["event"] is not None
        return f"{'event' if line['event'] else 'censored'} at {line['time']:g}" if known else None
    label = line["label"]
    return None if label is None else str(label)
