"""The commit record: everything known of one committed slide, small enough to read by the thousand."""

from dataclasses import dataclass, field, replace

from mhim_core.errors import IntegrityError
from mhim_core.features import MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity
from mhim_core.fingerprint import FLAT, canonical_json, fingerprint, to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.store import layout
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.schema import DTYPE, SCHEMA_VERSION
from mhim_core.types import SlideId, Status, StatusRow


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """One committed slide. `empty` (no tissue) has no file: key and sha256 are "" and the counts 0."""

    slide_id: SlideId
    status: Status
    """ok | empty."""
    key: str
    """Where the feature file lies."""
    sha256: str
    num_bytes: int
    num_tiles: int
    dim: int
    dtype: str
    reading: SlideReading = field(metadata={FLAT: True})
    num_bad_tiles: int
    feature_set: str
    """Fingerprint of tiling × encoder × schema."""
    tiling: str
    """The tiling's fingerprint alone."""
    encoder: str
    """The encoder's fingerprint alone."""
    versions: dict[str, str]
    committed_by: str
    """`mhim <version>`."""

    @property
    def digest(self) -> str:
        return commit_digest(self.reading.source, self.reading.mpp, self.reading.regions)

    @property
    def commit_key(self) -> str:
        return layout.commit_key(self.feature_set, self.slide_id, self.digest)

    @property
    def features_key(self) -> str:
        """What `key` must be of a slide with tiles."""
        return layout.features_key(self.feature_set, self.slide_id, self.sha256)

    def with_hint(self, hint: SourceHint) -> "CommitRecord":
        """The same commit, its source seen at another place or time."""
        return replace(self, reading=replace(self.reading, hint=hint))

    def with_sha256(self, source_sha256: str) -> "CommitRecord":
        """The same commit, its source's sha256 verified since. Commits are immutable: a manifest's entry says it."""
        return replace(self, reading=replace(self.reading, source_sha256=source_sha256))

    def to_json(self) -> bytes:
        return canonical_json({"schema_version": SCHEMA_VERSION} | to_plain(self))

    @classmethod
    def from_json(cls, data: bytes | str, origin: str) -> "CommitRecord":
        """The record of `to_json`; `origin` (a place, for people) is named when it is none: IntegrityError."""
        try:
            values = parse_json(data)
            version = values.pop("schema_version")
            layout.check_slide_id(SlideId(values["slide_id"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{origin}: not a commit record: {error!r}") from error
        if version != SCHEMA_VERSION:
            raise IntegrityError(f"{origin}: commit of schema version {version}; this mhim reads {SCHEMA_VERSION}")
        return read_record(cls, values, origin)


def commit_digest(source: SourceIdentity, mpp: MppUsed, regions: str = "") -> str:
    """What a commit of a slide is of: these source bytes at this resolution, stated by this party, and these regions.

    Who stated it counts: once an override is removed, whether the slide itself says the same is only known by opening
    it, and the commit that settles this needs a key of its own (the feature file stays one, its bytes are the same).
    """
    return fingerprint({"source": source, "mpp": mpp} | ({"regions": regions} if regions else {}))


def skipped_row(record: CommitRecord) -> StatusRow:
    """The status row of a slide that an earlier run committed."""
    is_empty = record.status is Status.EMPTY
    view = record.reading.view
    seen = view.describe() if is_empty and view is not None else ""
    return StatusRow(record.slide_id, Status.SKIPPED, message=seen, commit_key=record.commit_key, is_empty=is_empty)


def make_record(
    feature_set: FeatureSet, features: SlideFeatures, *, key: str, sha256: str, num_bytes: int, committed_by: str
) -> CommitRecord:
    """The record of these features under this set; their own agreement is the caller's to check."""
    num_tiles, dim = features.features.shape
    return CommitRecord(
        slide_id=features.slide_id,
        status=Status.OK if num_tiles else Status.EMPTY,
        key=key,
        sha256=sha256,
        num_bytes=num_bytes,
        num_tiles=num_tiles,
        dim=dim,
        dtype=DTYPE,
        reading=features.reading,
        num_bad_tiles=features.num_bad_tiles,
        feature_set=feature_set.fingerprint,
        tiling=feature_set.tiling_fingerprint,
        encoder=feature_set.encoder_fingerprint,
        versions=dict(features.versions),
        committed_by=committed_by,
    )
