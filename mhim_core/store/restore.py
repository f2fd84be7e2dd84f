"""Writing a lost slide again, to the bytes that were committed, or not at all.

A commit is never changed: runs pin its sha256. Features that come out otherwise, because the source, a package or a
device is another, are therefore refused, and the store stays as it is.
"""

from dataclasses import replace

from mhim_core.errors import IntegrityError, NotFoundError, SlideError
from mhim_core.features import SlideFeatures, SlideReading
from mhim_core.fingerprint import sha256
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord, make_record
from mhim_core.store.schema import encode_features
from mhim_core.types import FailureReason, Status


def check_source(committed: CommitRecord, reading: SlideReading) -> None:
    """Raises SlideError(source_hash_mismatch) if the source, or its resolution, is not what was committed."""
    if reading.source != committed.reading.source:
        finding = "its file has changed since, so the committed features cannot be made again"
    elif (reading.mpp.x, reading.mpp.y) != (committed.reading.mpp.x, committed.reading.mpp.y):
        finding = f"its resolution is {reading.mpp.x:g} µm/px; committed were {committed.reading.mpp.x:g}"
    elif reading.regions != committed.reading.regions:
        finding = "its annotation or mask is another than that of the committed features"
    else:
        return
    raise SlideError(FailureReason.SOURCE_HASH_MISMATCH, f"slide {committed.slide_id}: {finding}")


def restore(
    storage: Storage, feature_set: FeatureSet, features: SlideFeatures, committed: CommitRecord
) -> CommitRecord:
    """Write the feature file and the commit again where they are not as committed; the commit as it now stands.

    Raises SlideError(bad_features), before anything is written, if the features are other bytes than the committed.
    """
    check_source(committed, features.reading)
    # what the file says of its making is what the commit says: a later version that computes the same restores it
    features = replace(features, versions=committed.versions)
    data = encode_features(features) if len(features.features) else b""
    digest = sha256(data) if data else ""
    if digest != committed.sha256:
        raise SlideError(
            FailureReason.BAD_FEATURES,
            f"slide {committed.slide_id}: embedded again it gives other bytes (sha256 {digest[:16]}) than the "
            f"committed ({committed.sha256[:16]}), which {_named(committed.versions)} made; nothing was written",
        )
    if data and _content(storage, committed.key) != data:
        storage.put(committed.key, data)
    present = _content(storage, committed.commit_key)
    try:
        if present is not None:
            record = CommitRecord.from_json(present, committed.commit_key)
            if (record.commit_key, record.sha256) == (committed.commit_key, committed.sha256):
                return record
    except IntegrityError:
        pass  # damaged: written again below
    reading = replace(features.reading, hint=committed.reading.hint, mpp=committed.reading.mpp)
    record = make_record(
        feature_set,
        replace(features, reading=replace(reading, source_sha256=committed.reading.source_sha256)),
        key=committed.key,
        sha256=committed.sha256,
        num_bytes=len(data),
        committed_by=committed.committed_by,
    )
    assert record.status is (Status.OK if data else Status.EMPTY)
    storage.put(record.commit_key, record.to_json())
    return record


def _content(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get(key)
    except NotFoundError:
        return None


def _named(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in sorted(versions.items())) or "unknown packages"
