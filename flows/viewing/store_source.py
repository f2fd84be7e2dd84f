"""A feature store in the viewer: its slides and tiles, without any model."""

from flows.viewing.cohort_rows import CohortPlaces, failed_row, rows_beside
from flows.viewing.source import Source
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import Manifest
from mhim_core.types import SlideId, Status
from mhim_core.view.failed import recorded_failures
from mhim_core.view.worklist import RowStatus, Worklist, WorklistRow


class StoreSource(Source):
    """One feature set of a store, by its newest manifest."""

    kind, unit, task = "store", "slide", None

    def __init__(
        self, store: Storage, feature_set: FeatureSet, manifest: Manifest, cohort: CohortPlaces | None
    ) -> None:
        super().__init__(store, manifest.entries, feature_set.tiling)
        self.title = f"{store.uri.rstrip('/').rpartition('/')[2]} · {feature_set.encoder_id}"
        self.storage, self._cohort = store, cohort
        known = {} if cohort is None else {str(row.slide_id): row for row in cohort.rows}
        rows = []
        for slide_id, entry in manifest.entries.items():
            row = known.get(str(slide_id))
            if known and row is None:
                continue  # of another cohort in the same store
            rows.append(
                WorklistRow(
                    slide_id=slide_id,
                    patient_id="" if row is None else row.patient_id,
                    site=None if row is None else row.site,
                    label=None if row is None else row.label,
                    status=RowStatus.ok if entry.status is Status.OK else RowStatus.empty,
                    num_tiles=entry.num_tiles,
                )
            )
        listed = {row.slide_id for row in rows}
        rows += rows_beside(cohort, listed, store, feature_set.fingerprint, manifest.entries)
        if cohort is None:
            failures = recorded_failures(store, feature_set.fingerprint, manifest.entries.keys())
            rows += [failed_row(slide_id, failure) for slide_id, failure in failures.items()]
        self.worklist = Worklist(rows, None)
        self.notes = [f"Features of {feature_set.encoder_id}, manifest {manifest.ref.version}; no model is looked at."]

    def uri_of(self, slide_id: str) -> str:
        if self._cohort is not None:
            return self._cohort.uris.get(slide_id, "")
        entry = self.entries.get(SlideId(slide_id))
        # of imported features the commit names another tool's file, not the slide
        return "" if entry is None or entry.reading.is_imported else entry.reading.hint.uri

    def members_of(self, slide_id: str) -> tuple[str, ...]:
        return (slide_id,)
