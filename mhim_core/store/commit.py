"""Committing one slide: put the file under its content's name, then claim the slide with one conditional put.

Stopped anywhere, this leaves no commit or a whole one; at worst a file that no commit names. Two attempts may compute
different bytes (a GPU's sums vary): the first commit wins, and whoever comes later adopts it.
"""

import functools
import importlib.metadata
from typing import NamedTuple

from mhim_core.errors import ConflictError, NotFoundError, SlideError
from mhim_core.features import MppUsed, SlideFeatures, SourceIdentity
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.storage import Storage
from mhim_core.store import layout
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord, commit_digest, make_record
from mhim_core.store.schema import check_features, encode_features
from mhim_core.types import FailureReason, SlideId


class Committed(NamedTuple):
    """This attempt's features are the slide's."""

    record: CommitRecord


class AlreadyCommitted(NamedTuple):
    """Another attempt's features of the same source at the same resolution are; ours were dropped."""

    record: CommitRecord


def find_commit(
    storage: Storage,
    feature_set: FeatureSet,
    slide_id: SlideId,
    source: SourceIdentity,
    mpp: MppUsed,
    source_sha256: str = "",
    regions: str = "",
) -> CommitRecord | None:
    """The commit of exactly these source bytes at this resolution, or None: worth a look before encoding.

    `regions`: digest of the slide's annotation and mask; "" where none are used.

    Raises SlideError(source_hash_mismatch) if it was made of bytes of another sha256 than `source_sha256` (verified;
    "": unknown), ConflictError if its key holds something else.
    """
    key = layout.commit_key(feature_set.fingerprint, slide_id, commit_digest(source, mpp, regions))
    try:
        data = storage.get(key)
    except NotFoundError:
        return None
    record = CommitRecord.from_json(data, storage.locate(key))
    reading = record.reading
    committed = (record.slide_id, reading.source, reading.mpp, reading.regions, record.feature_set, record.dim)
    if committed != (slide_id, source, mpp, regions, feature_set.fingerprint, feature_set.dim):
        raise ConflictError(f"{storage.locate(key)} holds a commit of another source or feature set than its name says")
    verified = record.reading.source_sha256
    if source_sha256 and verified and source_sha256 != verified:
        raise SlideError(
            FailureReason.SOURCE_HASH_MISMATCH,
            f"slide {slide_id}: committed from a file of sha256 {verified}; the present one has "
            f"{source_sha256} though size and sampled blocks are equal: give it another slide id or another store",
        )
    return record


def commit(storage: Storage, feature_set: FeatureSet, features: SlideFeatures) -> Committed | AlreadyCommitted:
    """Make these features the slide's, once. Running it again, or from several places at once, is harmless.

    Raises SlideError(bad_features) if they break the contract or are not of this feature set, StorageError if the store
    cannot be reached, and what `find_commit` raises.
    """
    check_features(features)
    _check_belongs(feature_set, features)
    present = _find_own(storage, feature_set, features)
    if present is not None:
        return AlreadyCommitted(present)
    key, digest, num_bytes = "", "", 0
    if len(features.features):
        data = encode_features(features)
        digest, num_bytes = sha256(data), len(data)
        key = layout.features_key(feature_set.fingerprint, features.slide_id, digest)
        storage.put(key, data)
    record = make_record(feature_set, features, key=key, sha256=digest, num_bytes=num_bytes, committed_by=_program())
    if storage.put_if_absent(record.commit_key, record.to_json()):
        return Committed(record)
    present = _find_own(storage, feature_set, features)
    if present is None:
        raise ConflictError(f"{storage.locate(record.commit_key)} was taken and then removed by another process")
    # equal bytes: the reply to our own put was lost, or another attempt computed the same
    return Committed(record) if present == record else AlreadyCommitted(present)


def _find_own(storage: Storage, feature_set: FeatureSet, features: SlideFeatures) -> CommitRecord | None:
    reading = features.reading
    return find_commit(
        storage,
        feature_set,
        features.slide_id,
        reading.source,
        reading.mpp,
        reading.source_sha256,
        reading.regions,
    )


def _check_belongs(feature_set: FeatureSet, features: SlideFeatures) -> None:
    dim = features.features.shape[1]
    if dim != feature_set.dim:
        finding = f"features of length {dim}, the encoder {feature_set.encoder_id} promises {feature_set.dim}"
    elif canonical_json(features.encoder) != canonical_json(feature_set.encoder):
        finding = f"features of encoder {features.encoder.get('id')!r}, not of the set's {feature_set.encoder_id!r}"
    elif canonical_json(features.cut.tiling) != canonical_json(feature_set.tiling):
        finding = "features of another tiling than the feature set's"
    else:
        return
    raise SlideError(FailureReason.BAD_FEATURES, f"slide {features.slide_id}: {finding}")


@functools.cache
def _program() -> str:
    try:
        return f"mhim {importlib.metadata.version('mhim')}"
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "mhim unknown"
