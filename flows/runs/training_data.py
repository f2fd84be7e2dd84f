"""The data of a training: the store's features and the table's targets, checked against each other.

Nothing is trained on features of a file, resolution or patient other than those in the table.
"""

import threading
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from flows.config.commands import TrainConfig
from flows.runs.cohort import load_split_files
from flows.runs.hardness_sampling import Sampling
from flows.runs.training_places import TrainingPlaces
from mhim_core.cohort.split_files import splits_from_files
from mhim_core.cohort.split_notes import require_split_column, split_notes
from mhim_core.cohort.splits import Split, make_splits
from mhim_core.cohort.table import Cohort, CohortRow, require_patients
from mhim_core.cohort.tasks import infer_task, targets_of
from mhim_core.errors import CohortError, InputError, SlideError, StorageError
from mhim_core.features import SourceIdentity, has_places
from mhim_core.fingerprint import neutral_values
from mhim_core.slides.source_identity import source_identity
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet, choose_feature_set
from mhim_core.store.manifest import Manifest, read_manifest
from mhim_core.store.matching import sha256_matches
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import decode_features
from mhim_core.store.verify import file_findings, first_damage, list_sizes
from mhim_core.task import Task
from mhim_core.types import SlideId, Status


class TrainingData(NamedTuple):
    """What is trained on, and what is left out."""

    task: Task
    slides: tuple[CohortRow, ...]
    """The slides with a target and tiles."""
    splits: tuple[Split, ...]
    excluded: dict[str, int]
    notes: tuple[str, ...]
    """One sentence for each thing that was assumed or left out."""
    sampling: Sampling | None = None
    """How often each training bag is drawn; None: once an epoch."""


def training_data(config: TrainConfig, cohort: Cohort, manifest: Manifest) -> TrainingData:
    """Raises InputError or a subclass if table, store and keys do not allow a training."""
    require_patients(cohort)
    inferred = infer_task(cohort.rows, config.target)
    targets = targets_of(cohort.rows, inferred.task)
    excluded = _excluded(cohort, manifest, targets)
    slides = tuple(row for row in cohort.rows if row.slide_id in targets and row.slide_id in manifest.bags())
    if not slides:
        raise InputError(
            f"no slide of {cohort.name} is both labelled and embedded with tiles; run `mhim embed` with the same table"
        )
    _check_sources(slides, manifest)
    notes = list(inferred.notes)
    if any(excluded.values()):
        left_out = ", ".join(f"{number} {reason}" for reason, number in excluded.items())
        notes.append(f"{len(slides)} slides to train on; left out: {left_out}")
    seed, protocol = config.fit.seed, config.protocol
    if protocol.split_files:
        files, partial = load_split_files(protocol.split_files), protocol.partial_splits
        predefined = splits_from_files(slides, files, inferred.task, config.splits, seed, cohort.rows, partial=partial)
        return TrainingData(inferred.task, slides, predefined.splits, excluded, (*notes, *predefined.notes))
    require_split_column(cohort, config.splits)
    splits = make_splits(slides, inferred.task, config.splits, seed)
    notes += split_notes(slides, inferred.task, config.splits)
    return TrainingData(inferred.task, slides, splits, excluded, tuple(notes))


def choose_features(config: TrainConfig, places: TrainingPlaces) -> FeatureSet:
    """The store's feature set that the keys name; where they name none, the one that the run was started with."""
    choice = config.features
    wanted, tiling = choice.feature_set, choice.tiling
    if wanted is None and choice.encoder is None and not tiling:
        pin = places.pin
        wanted = None if pin is None else pin.feature_set  # the open choice was made when the run was started
    return choose_feature_set(
        places.store, encoder_id=choice.encoder, tiling=tiling, fingerprint=wanted, neutral=neutral_values(TileSpec)
    )


def choose_manifest(places: TrainingPlaces, feature_set: FeatureSet) -> Manifest:
    """The version that the run was started with, or at the first start the newest."""
    pin = places.pin
    if pin is None or pin.feature_set != feature_set.fingerprint:  # another set is refused when the run is opened
        return read_manifest(places.store, feature_set.fingerprint)
    return read_manifest(places.store, pin.feature_set, pin.version, pin.sha256)


def check_files(store: Storage, entries: Mapping[SlideId, CommitRecord], manifest: Manifest) -> None:
    """Before hours of work: every feature file is there and as long as committed, by a listing.

    Their sha256 is compared when they are read, and by `check_contents`.

    Raises StorageError (6) naming the first ten slides and what repairs them.
    """
    sizes = list_sizes(store, entries.values(), len(manifest.entries))
    lost = sorted(file_findings(store, entries.values(), sizes), key=lambda finding: finding.slide_id)
    if not lost:
        return
    listed = "; ".join(f"{finding.slide_id} ({finding.fault}: {finding.message})" for finding in lost[:_MAX_NAMED])
    more = f"; and {len(lost) - _MAX_NAMED} more" if len(lost) > _MAX_NAMED else ""
    raise StorageError(
        f"{len(lost)} of {len(entries)} feature files to train on are lost in {store.uri}: {listed}{more}; `mhim store "
        f"repair store={store.uri} cohort=<the table with these slides>` makes them again"
    )


def check_places(store: Storage, manifest: Manifest, data: TrainingData, aggregator: str) -> None:
    """For an aggregator that needs coordinates: whether another tool's features have them, by reading one slide's.

    Our own embeddings always do; workers look at every slide that they read. Raises InputError naming the slide.
    """
    records = (manifest.entries[row.slide_id] for row in data.slides)
    record = next((record for record in records if record.reading.is_imported), None)
    if record is None:
        return
    table = decode_features(store.get(record.key), slide_id=record.slide_id, dim=record.dim)
    if not has_places(table.coords_l0_px):
        raise InputError(
            f"aggregator={aggregator} walks from tile to tile, and the features of {record.slide_id} were imported "
            "without coordinates; mammil_graph=path takes their stored order as one path, which ignores the tissue"
        )


def check_contents(store: Storage, records: Sequence[CommitRecord], stop: threading.Event) -> None:
    """Beside the first fit: the sha256 of feature files that only a later one will read.

    Raises StorageError (6) naming the first slide.
    """
    if damage := first_damage(store, records, stop):
        raise StorageError(
            f"slide {damage.slide_id}, which a later fit reads: {damage.message} ({store.locate(damage.key)}); the "
            f"fits so far are kept; `mhim store repair store={store.uri} deep=true cohort=<its table>` makes it again"
        )


_MAX_NAMED = 10


def _check_sources(slides: Sequence[CohortRow], manifest: Manifest) -> None:
    """Raises CohortError if features are not the table's slides': one file under two ids, another file or mpp."""
    ids_of: dict[SourceIdentity, list[str]] = {}
    strangers = []
    for slide in slides:
        reading = manifest.entries[slide.slide_id].reading
        ids_of.setdefault(reading.source, []).append(slide.slide_id)
        is_unstated = reading.is_imported and not reading.mpp.x
        if slide.mpp is not None and not is_unstated and (reading.mpp.x, reading.mpp.y) != (slide.mpp, slide.mpp):
            strangers.append(f"{slide.slide_id} (embedded at {reading.mpp.x:g} µm/px, the table says {slide.mpp:g})")
        elif not sha256_matches(reading.source_sha256, slide.sha256):
            strangers.append(f"{slide.slide_id} (no embedding is verified to be of the sha256 that the table names)")
        elif reading.is_imported:
            continue  # its source is a file of another tool, not the slide
        elif slide.uri != reading.hint.uri and _is_another_file(slide.uri, reading.source):
            strangers.append(f"{slide.slide_id} (embedded from another file than {slide.uri})")
    twins = [ids for ids in ids_of.values() if len(ids) > 1]
    if twins:
        listed = "; ".join(" = ".join(ids) for ids in twins[:20])
        raise CohortError(f"one slide file under several ids, by content: {listed}; keep one id of each")
    if strangers:
        listed = "; ".join(strangers[:20])
        raise CohortError(f"the store's features are not of this table's slides: {listed}; run `mhim embed` with it")


def _is_another_file(uri: str, source: SourceIdentity) -> bool:
    """True only if the file can be read and differs: slides may be offline during training."""
    try:
        return "://" not in uri and source_identity(uri) != source
    except SlideError:
        return False


def _excluded(cohort: Cohort, manifest: Manifest, targets: Container[SlideId]) -> dict[str, int]:
    entries = manifest.entries
    labelled = [row.slide_id for row in cohort.rows if row.slide_id in targets]
    return {
        "unlabelled": len(cohort.rows) - len(labelled),
        "not embedded": sum(slide_id not in entries for slide_id in labelled),
        "without tissue": sum(
            slide_id in entries and entries[slide_id].status is Status.EMPTY for slide_id in labelled
        ),
    }
