"""What a sweep keeps beside the runs of its configurations.

sweep.json              what identifies it (configurations, halving, feature set), the pinned manifest (put-if-absent)
costs.json              seconds of every fit so far
outcomes.json           what became of every configuration, once all fits are done
leaderboard.csv, .parquet, .html
winner.json             the winner, its validation and, computed at the end, its test metrics
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.config.sweep import SweepConfig
from flows.runs.folder import RUN, SWEEP, Pin, PinnedFeatures
from flows.sweeps.configurations import Configuration
from mhim_core.errors import ConflictError, IntegrityError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint, to_plain
from mhim_core.records import parse_object, read_record
from mhim_core.storage import Storage
from mhim_core.train.sweep_grid import say
from mhim_core.train.sweep_plan import TrialOutcome

COSTS, OUTCOMES = "costs.json", "outcomes.json"
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SweepIdentity:
    """What makes two sweeps the same, beside the identities of their runs."""

    configurations: Sequence[str]
    """Their names: the settings, in the order of the grid."""
    halving: int
    rungs: Sequence[int]
    feature_set: str
    """Fingerprint."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What the workers found."""

    schema: int = _SCHEMA
    sweep: str
    """Fingerprint of the sweep's identity."""
    metric_name: str
    """What the fits are compared by; loss: the validation loss."""
    outcomes: tuple[TrialOutcome, ...]


def pinned_features(storage: Storage) -> Pin | None:
    """What the sweep in this folder was started with; None: there is none yet."""
    record = maybe_object(storage, SWEEP)
    if record is None:
        return None
    if record.get("schema") != _SCHEMA:
        raise IntegrityError(f"{storage.locate(SWEEP)} has schema {record.get('schema')}; this mhim reads {_SCHEMA}")
    return Pin(**record["pin"])


def start_sweep(
    storage: Storage, config: SweepConfig, points: Sequence[Configuration], features: PinnedFeatures
) -> str:
    """Create the sweep in its folder or open it; the fingerprint of its identity.

    Raises ConflictError (5) if the folder holds another sweep or a run. What else differs, the runs' own records tell.
    """
    if maybe_object(storage, RUN) is not None:
        raise ConflictError(f"{storage.uri} holds a run of mhim train; choose another out=")
    identity = to_plain(
        SweepIdentity(
            configurations=[point.name for point in points],
            halving=config.halving,
            rungs=config.rung_epochs,
            feature_set=features.feature_set.fingerprint,
        )
    )
    ref = features.manifest.ref
    record = {
        "schema": _SCHEMA,
        "identity": identity,
        "settings": {point.name: {key: say(value) for key, value in point.setting.items()} for point in points},
        "pin": Pin(features.feature_set.fingerprint, ref.version, ref.sha256),
    }
    storage.put_if_absent(SWEEP, canonical_json(record))
    present = maybe_object(storage, SWEEP)
    assert present is not None
    if present["identity"] != identity:
        differing = [name for name, value in identity.items() if present["identity"].get(name) != value]
        raise ConflictError(
            f"{storage.uri} holds another sweep (it differs in {', '.join(differing)}); choose another out=, or give "
            "the same keys to resume it"
        )
    return fingerprint(identity)


def read_result(storage: Storage, sweep: str) -> SweepResult | None:
    """What became of the sweep with this fingerprint; None: it is not done."""
    raw = maybe_object(storage, OUTCOMES)
    if raw is None:
        return None
    result = read_record(SweepResult, raw, storage.locate(OUTCOMES))
    return result if result.sweep == sweep and result.schema == _SCHEMA else None


def maybe_object(storage: Storage, key: str) -> dict[str, Any] | None:
    """A JSON object; None: it is not there. Raises IntegrityError if it is damaged."""
    try:
        return parse_object(storage.get(key), storage.locate(key))
    except NotFoundError:
        return None


class Costs:
    """Seconds by configuration and fit, kept in the sweep's folder as they accrue."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._seconds: dict[str, dict[str, float]] = maybe_object(storage, COSTS) or {}

    def add(self, configuration: str, fit: str, seconds: float) -> None:
        """What a fit took since it was last started or gone on with."""
        fits = self._seconds.setdefault(configuration, {})
        fits[fit] = round(fits.get(fit, 0.0) + seconds, 3)
        self._storage.put(COSTS, canonical_json(self._seconds))

    def of(self, configuration: str, stage: str) -> float:
        """Of all its fits of that stage, by the last part of their names."""
        fits = self._seconds.get(configuration, {})
        return sum(seconds for fit, seconds in fits.items() if fit.rpartition("/")[2] == stage)
