"""What is new: the cohort's labelled slides as they are now, against what the champion was made from.

A snapshot is a digest a slide: patient, target, site, resolution, and which bytes the file holds. Those who may not be
trained on (patients of the holdout) are in none, and a slide that cannot be embedded is in it as in the one before: so
neither makes a retraining. Snapshots lie at `flows/data/<name>/<fingerprint, 16 digits>.json`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from cluster.storage import open_storage
from flows.engine.records import read_json
from flows.runs.cohort import CohortInput, slide_hint, slide_identity
from mhim_core.cohort.check import SLIDE_ID, validate
from mhim_core.cohort.columns import has_slide_extension, strip_extension
from mhim_core.cohort.rows import CohortRow
from mhim_core.errors import CohortError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.registry.names import check_name
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import Storage
from mhim_core.store.manifest import newest_version, read_manifest
from mhim_core.store.parallel import map_all
from mhim_core.store.record import CommitRecord
from mhim_core.types import PatientId, SlideId, SlideTask

_DIGITS = 24


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Labelled slides that may be trained on, and the policies that let them in or refuse them."""

    slides: dict[SlideId, str]
    """A digest by slide."""
    policy: dict[str, object]

    @cached_property
    def fingerprint(self) -> str:
        """The data fingerprint: relaxing a policy gives another, since slides that failed may then be embedded."""
        return fingerprint({"slides": self.slides, "policy": self.policy})

    def of(self, slide_ids: Mapping[SlideId, object]) -> str:
        """The fingerprint of those of its slides that are among these, whatever the policy was."""
        return fingerprint({key: digest for key, digest in self.slides.items() if key in slide_ids})

    def to_bytes(self) -> bytes:
        return canonical_json({"schema": 1, "slides": self.slides, "policy": self.policy})


class Differences(NamedTuple):
    """Between two snapshots, in numbers of slides."""

    new: int
    changed: int
    gone: int
    policy: bool = False
    """The policies differ."""

    @property
    def words(self) -> str:
        """`5 new slides, 1 changed`; empty: nothing differs."""
        counts = ((self.new, "new"), (self.changed, "changed"), (self.gone, "gone"))
        words = [f"{number} {what}" for number, what in counts if number]
        if words:
            words[0] += " slide" if words[0].startswith("1 ") else " slides"
        if self.policy:
            words.append("other policies of admission")
        return ", ".join(words)


class Features(NamedTuple):
    """What the store holds of a feature set: its newest manifest, or nothing yet."""

    entries: dict[SlideId, CommitRecord]

    def with_tiles(self) -> dict[SlideId, CommitRecord]:
        return {slide_id: record for slide_id, record in self.entries.items() if record.num_tiles}


def read_features(store: Storage, feature_set: str) -> Features:
    version = newest_version(store, feature_set)
    return Features({} if version is None else read_manifest(store, feature_set, version).entries)


def contents_of(given: CohortInput, features: Features) -> dict[SlideId, SourceIdentity]:
    """Which bytes each slide's file holds now, for those that can be read.

    One whose hint the manifest knows is not read again; one that cannot be seen keeps the identity that it had.
    """

    def look(task: SlideTask) -> SourceIdentity | None:
        hint, entry = given.hints.get(task.slide_id), features.entries.get(task.slide_id)
        if entry is not None and hint in (None, entry.hint):
            return entry.source
        return None if hint is None else slide_identity(task)

    tasks = given.tasks()
    found = zip(tasks, map_all(look, tasks), strict=True)
    return {task.slide_id: source for task, source in found if source is not None}


def snapshot(rows: Sequence[CohortRow], contents: Mapping[SlideId, SourceIdentity], policy: SlidePolicy) -> Snapshot:
    """Of the rows that have a target; whatever order they are in and wherever their files lie."""
    slides = {
        row.slide_id: fingerprint(
            {
                "patient": row.patient_id,
                "target": (row.label, row.time, row.event),
                "site": row.site,
                "mpp": row.mpp,
                "sha256": row.sha256,
                "source": contents.get(row.slide_id),
            }
        )[:_DIGITS]
        for row in rows
        if is_labelled(row)
    }
    return Snapshot(slides=dict(sorted(slides.items())), policy=dataclasses.asdict(policy))


def is_labelled(row: CohortRow) -> bool:
    return row.label is not None or (row.time is not None and row.event is not None)


def differences(before: Snapshot | None, now: Snapshot) -> Differences:
    """None before: everything is new."""
    if before is None:
        return Differences(len(now.slides), 0, 0)
    return Differences(
        new=len(now.slides.keys() - before.slides.keys()),
        changed=sum(now.slides.get(key, digest) != digest for key, digest in before.slides.items()),
        gone=len(before.slides.keys() - now.slides.keys()),
        policy=now.policy != before.policy,
    )


def keep_snapshot(records: Storage, name: str, data: Snapshot) -> None:
    records.put_if_absent(_key(name, data.fingerprint), data.to_bytes())


def read_snapshot(records: Storage, name: str, data: str) -> Snapshot | None:
    """The snapshot of this fingerprint, or None."""
    raw = read_json(records, _key(name, data))
    return None if raw is None else Snapshot(slides=raw["slides"], policy=raw["policy"])


def with_prefix(given: CohortInput, prefix: str) -> CohortInput:
    """The cohort and, without labels, the slide files below a folder or `s3://` prefix that it does not list.

    Their ids are their file names. Raises CohortError where two files, or a file and a row, would share an id.
    """
    listed = {row.uri for row in given.cohort.rows}
    storage = open_storage(prefix)
    found = [storage.locate(entry.key) for entry in storage.list("") if has_slide_extension(entry.key)]
    rows = [_row(uri) for uri in found if uri not in listed]
    if wrong := [row.slide_id for row in rows if not SLIDE_ID.fullmatch(row.slide_id)]:
        raise CohortError(
            f"slides_prefix={prefix}: {len(wrong)} file names cannot be slide ids (letters, digits and ._- only), such "
            f"as {wrong[0]!r}; rename them, or list them in the table under other ids"
        )
    cohort = dataclasses.replace(given.cohort, rows=(*given.cohort.rows, *rows))
    validate(cohort)
    return given._replace(cohort=cohort, hints=given.hints | {row.slide_id: slide_hint(row.uri) for row in rows})


def _row(uri: str) -> CohortRow:
    slide_id = strip_extension(uri.rpartition("/")[2])
    return CohortRow(SlideId(slide_id), uri, PatientId(slide_id))


def _key(name: str, data: str) -> str:
    return f"flows/data/{check_name(name)}/{data[:16]}.json"
