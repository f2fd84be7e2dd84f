"""The ledger: what is committed, what is left to do. Resume = (the cohort) − (the commits); failures never count.

What is known comes cheaply first: the newest manifest and the sources' hints settle an unchanged cohort without reading
one commit. Only for slides left open are the commits listed, and only theirs are read.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mhim_core.errors import InputError, StorageError
from mhim_core.features import SourceHint, SourceIdentity
from mhim_core.storage import Storage
from mhim_core.store import failures, layout
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import newest_version, read_manifest
from mhim_core.store.matching import Admission, find_match, refusal
from mhim_core.store.parallel import map_all, read_all
from mhim_core.store.record import CommitRecord
from mhim_core.types import SlideId, SlideTask, StatusRow

HintReader = Callable[[SlideTask], SourceHint | None]
"""How a task's source looks now, without reading it; None if it is not there."""
IdentityReader = Callable[[SlideTask], SourceIdentity | None]
"""Which bytes a task's source holds; None if finding out would not be cheap here."""


@dataclass(frozen=True)
class Pending:
    """A cohort, sorted: every task is in exactly one of `todo`, `done` and `given_up`."""

    todo: list[SlideTask]
    """In the cohort's order."""
    done: dict[SlideId, CommitRecord]
    """Committed earlier, source and resolution unchanged; the record carries the present hint."""
    given_up: list[StatusRow]
    """Failed without work: refused by the present policy, or failed before and not to be tried again."""
    hints: dict[SlideId, SourceHint | None] = field(default_factory=dict)
    """How the sources looked, as far as that was asked; None: not there."""


class Ledger:
    """One feature set's commits in one store. `feature_set` must be registered before the first commit."""

    def __init__(self, storage: Storage, feature_set: FeatureSet) -> None:
        self.storage = storage
        self.feature_set = feature_set
        self._records: dict[str, CommitRecord] = {}  # by commit key; a commit never changes

    def known(self) -> list[CommitRecord]:
        """Every commit, sorted by key: several of one slide if its source or resolution changed."""
        self._remember(self._manifest_entries())
        return list(self._read_commits(self._list_commits()).values())

    def read(self, commit_keys: Iterable[str]) -> dict[str, CommitRecord]:
        """The records of these commit keys, such as the run's status rows name. Missing ones are left out."""
        return self._read_commits(commit_keys)

    def pending(
        self,
        tasks: Sequence[SlideTask],
        *,
        hints: HintReader,
        policy: Admission,
        identity: IdentityReader | None = None,
        retry_failed: bool = True,
        decode_timeout_s: float | None = None,
    ) -> Pending:
        """What of the cohort is left to do.

        A task is done if a commit has its resolution, its sha256 where it names one (`matching`), and its source: an
        equal hint, or, the hint having changed, an equal identity where `identity` can say it. Else it is to do, though
        the worker that opens the slide may find its commit. `retry_failed=False` gives up slides that failed before,
        unless their source, the task or the policy that refused them has changed since, or their failure told nothing
        of them (`failures.RecordedFailure.could_differ`, which `decode_timeout_s`, the present limit, is for). Raises
        InputError if a slide id occurs twice.
        """
        if repeated := [slide_id for slide_id, times in Counter(task.slide_id for task in tasks).items() if times > 1]:
            raise InputError(f"slide ids occur more than once: {', '.join(sorted(repeated))}")
        present = {task.slide_id: task for task in tasks}
        seen: dict[SlideId, SourceHint | None] = {}
        entries = self._manifest_entries()
        matches = self._match_manifest(present, entries, hints, policy, seen)
        unmatched = {slide_id: task for slide_id, task in present.items() if slide_id not in matches}
        self._remember({slide_id: entries[slide_id] for slide_id in unmatched if slide_id in entries})
        matches |= self._match_commits(unmatched, hints, policy, identity, seen)

        refused = {
            slide_id: row for slide_id, record in matches.items() if (row := refusal(record, policy)) is not None
        }
        todo = [task for task in tasks if task.slide_id not in matches]
        if not retry_failed:
            refused |= self._failed_before(todo, hints, policy, seen, decode_timeout_s)
        return Pending(
            todo=[task for task in todo if task.slide_id not in refused],
            done={
                slide_id: matches[slide_id] for slide_id in present if slide_id in matches and slide_id not in refused
            },
            given_up=[refused[slide_id] for slide_id in present if slide_id in refused],
            hints=seen,
        )

    def cohort_entries(self, pending: Pending, rows: Iterable[StatusRow]) -> dict[SlideId, CommitRecord | None]:
        """What the next manifest should say of this cohort, after a run returned its status rows.

        The matching commit of every slide that has one, with its present hint and the sha256 its worker verified, so
        that it is not opened again; None for a slide whose former entry no longer matches. A slide whose source could
        not be seen at all keeps what it had: an unmounted disk must not empty a manifest.

        Raises StorageError for commits that the rows name and that are not there: the store was moved or emptied.
        """
        entries: dict[SlideId, CommitRecord | None] = dict(pending.done)
        # those that are done have their record: a rerun of a whole cohort reads no commit again
        keys = {row.slide_id: row.commit_key for row in rows if row.commit_key and row.slide_id not in entries}
        records = self._read_commits(keys.values())
        if gone := sorted(slide_id for slide_id, key in keys.items() if key not in records):
            raise StorageError(
                f"{len(gone)} slides were committed, and their commits are not in {self.storage.uri} any more: "
                f"{', '.join(gone[:10])}; was the store moved or emptied, or were they removed meanwhile? Run again "
                "to embed what is missing"
            )
        named = {task.slide_id: task.sha256 for task in pending.todo if task.sha256 is not None}
        open_ids = [task.slide_id for task in pending.todo] + [row.slide_id for row in pending.given_up]
        for slide_id in open_ids:
            record = records.get(keys.get(slide_id, ""))
            hint = pending.hints.get(slide_id)
            if record is not None:
                if slide_id in named:  # a row with a commit: its worker had the sha256 checked before anything else
                    record = record.with_sha256(named[slide_id].strip().lower())
                entries[slide_id] = record.with_hint(hint) if hint is not None else record
            elif hint is not None:
                entries[slide_id] = None
        return entries

    def record_failure(
        self,
        task: SlideTask,
        row: StatusRow,
        policy: Admission,
        hint: SourceHint | None = None,
        decode_timeout_s: float | None = None,
    ) -> str:
        """Keep a failure under `attempts/`, where it never blocks a later success; the key it got."""
        feature_set = self.feature_set.fingerprint
        return failures.record_failure(self.storage, feature_set, task, row, policy, hint, decode_timeout_s)

    def _match_manifest(
        self,
        tasks: dict[SlideId, SlideTask],
        entries: Mapping[SlideId, CommitRecord],
        hints: HintReader,
        policy: Admission,
        seen: dict[SlideId, SourceHint | None],
    ) -> dict[SlideId, CommitRecord]:
        known = [task for slide_id, task in tasks.items() if slide_id in entries]
        self._look(known, hints, seen)
        matches = {
            task.slide_id: find_match(
                task, [entries[task.slide_id]], hint=seen[task.slide_id], default_mpp=policy.default_mpp
            )
            for task in known
        }
        return {slide_id: record for slide_id, record in matches.items() if record is not None}

    def _match_commits(
        self,
        tasks: dict[SlideId, SlideTask],
        hints: HintReader,
        policy: Admission,
        identity: IdentityReader | None,
        seen: dict[SlideId, SourceHint | None],
    ) -> dict[SlideId, CommitRecord]:
        if not tasks:
            return {}
        keys: dict[SlideId, list[str]] = defaultdict(list)
        for key in self._list_commits():
            place = layout.parse_commit_key(key)
            if place is not None and place.slide_id in tasks:
                keys[place.slide_id].append(key)
        records = self._read_commits(key for slide_keys in keys.values() for key in slide_keys)
        candidates = [tasks[slide_id] for slide_id in keys]
        self._look(candidates, hints, seen)

        def match(task: SlideTask) -> CommitRecord | None:
            own = [records[key] for key in keys[task.slide_id] if key in records]
            hint = seen[task.slide_id]
            return find_match(task, own, hint=hint, default_mpp=policy.default_mpp, identity=identity)

        matches = zip(candidates, map_all(match, candidates), strict=True)
        return {task.slide_id: record for task, record in matches if record is not None}

    def _failed_before(
        self,
        tasks: Sequence[SlideTask],
        hints: HintReader,
        policy: Admission,
        seen: dict[SlideId, SourceHint | None],
        decode_timeout_s: float | None,
    ) -> dict[SlideId, StatusRow]:
        self._look(tasks, hints, seen)
        recorded = failures.last_failures(self.storage, self.feature_set.fingerprint, tasks, seen)
        return {
            slide_id: failure.row
            for slide_id, failure in recorded.items()
            if not failure.could_differ(policy, decode_timeout_s=decode_timeout_s, is_there=seen[slide_id] is not None)
        }

    def _look(self, tasks: Iterable[SlideTask], hints: HintReader, seen: dict[SlideId, SourceHint | None]) -> None:
        unseen = [task for task in tasks if task.slide_id not in seen]
        for task, hint in zip(unseen, map_all(hints, unseen), strict=True):
            seen[task.slide_id] = hint

    def _manifest_entries(self) -> dict[SlideId, CommitRecord]:
        version = newest_version(self.storage, self.feature_set.fingerprint)
        if version is None:
            return {}
        return read_manifest(self.storage, self.feature_set.fingerprint, version=version).entries

    def _remember(self, entries: Mapping[SlideId, CommitRecord]) -> None:
        """These need not be read again; their hints may be newer than those of the commits."""
        self._records |= {record.commit_key: record for record in entries.values()}

    def _list_commits(self) -> list[str]:
        entries = self.storage.list(layout.commits_prefix(self.feature_set.fingerprint))
        return [entry.key for entry in entries if layout.parse_commit_key(entry.key) is not None]

    def _read_commits(self, keys: Iterable[str]) -> dict[str, CommitRecord]:
        keys = list(keys)
        for key, data in read_all(self.storage, [key for key in keys if key not in self._records]).items():
            self._records[key] = CommitRecord.from_json(data, self.storage.locate(key))
        return {key: self._records[key] for key in keys if key in self._records}
