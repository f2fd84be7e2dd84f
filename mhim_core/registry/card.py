"""A model folder's card: what the model predicts, from which features, how it was made and how good it is.

It names no patient and no slide: the training patients are kept as digests, which answer "is this patient among
them?" for anyone who has the id, and nothing more. They are pseudonyms, not secrets: short ids can be guessed by
trying them all.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mhim_core.errors import IntegrityError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json, fingerprint, to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.task import Task
from mhim_core.train.prediction import PredictWith

SCHEMA = 1
VERSION_DIGITS = 16
MAX_MEMBERS = 10_000
"""Seeds × folds; each is a file that is read."""
_DIGEST_DIGITS = 24


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of the models that vote, and what validation chose for it."""

    file: str
    """Its safetensors file below the model folder."""
    sha256: str
    """Of that file."""
    seed: int
    fold: int
    stage: str
    append_recycled: bool
    """Whether inference appends recycled tokens."""
    temperature: float | None
    """Divides the logits of calibrated probabilities; None where validation could not choose it, or the task has no
    classes."""
    threshold: float | None
    """Two classes: predict the second from this probability on; None as above."""
    reason: str = ""
    """Why validation could not choose; empty: it did, or had nothing to choose."""
    best_epoch: int = 0
    validation: dict[str, Any] = field(default_factory=dict)
    """{metric name: value} by which the epoch was chosen, and the loss."""
    predict_with: PredictWith = field(default=PredictWith.student, metadata={"neutral": PredictWith.student})
    """student or teacher: that model of `file`; pair: the student, joined with the one of `plain_file`. The stage-1
    model of a run with MHIM is a file of its own, and so the student of its `file`."""
    plain_file: str = field(default="", metadata={"neutral": ""})
    """Of a pair: the stage-1 model's safetensors file; otherwise empty."""
    plain_sha256: str = field(default="", metadata={"neutral": ""})
    """Of that file."""

    def __post_init__(self) -> None:
        is_pair = self.predict_with is PredictWith.pair
        if self.predict_with is PredictWith.plain or {bool(self.plain_file), bool(self.plain_sha256)} != {is_pair}:
            raise ValueError(f"a member of {self.predict_with} with the stage-1 file {self.plain_file or 'none'}")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}: it must be above 0")
        if self.threshold is not None and not -math.inf < self.threshold < math.inf:
            raise ValueError(f"threshold {self.threshold} is no number")

    @property
    def model_name(self) -> str:
        """As evaluations name such a model: mhim, mhim teacher, plain or pair."""
        return self.stage if self.predict_with is PredictWith.student else self.predict_with.model_name

    @property
    def files(self) -> dict[str, str]:
        """sha256 by file: one, or of a pair two."""
        return {self.file: self.sha256} | ({self.plain_file: self.plain_sha256} if self.plain_file else {})


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The slides and patients of training and validation, as digests.

    With a warm start, those of the model that it started from are among them, and so on back to the first one.
    """

    cohort: str
    """Fingerprint of slides, patients, targets and folds."""
    feature_set: str
    manifest_version: int
    manifest_sha256: str
    num_slides: int
    """Of its own training."""
    num_patients: int
    patients: tuple[str, ...]
    """Digests of patient ids, sorted."""
    sources: tuple[str, ...]
    """Digests of the slides' contents, sorted."""
    salt: str = field(default="", metadata={"neutral": ""})
    """Of the digests; empty: `cohort`. A warm start keeps the salt of the model before."""

    @classmethod
    def of(
        cls,
        *,
        cohort: str,
        feature_set: str,
        manifest_version: int,
        manifest_sha256: str,
        patients: Iterable[str],
        sources: Iterable[SourceIdentity],
        before: "TrainedOn | None" = None,
    ) -> "TrainedOn":
        """From ids and contents in plain text, none of which are kept. `before`: of the model that it started from."""
        patients, sources = set(patients), set(sources)
        salt = cohort if before is None else before.own_salt
        patient_digests = {_digest(salt, patient) for patient in patients}
        source_digests = {_digest(salt, source_text(source)) for source in sources}
        if before is not None:
            patient_digests, source_digests = patient_digests | before._patients, source_digests | before._sources
        return cls(
            cohort=cohort,
            feature_set=feature_set,
            manifest_version=manifest_version,
            manifest_sha256=manifest_sha256,
            num_slides=len(sources),
            num_patients=len(patients),
            patients=tuple(sorted(patient_digests)),
            sources=tuple(sorted(source_digests)),
            salt="" if before is None else salt,
        )

    @property
    def own_salt(self) -> str:
        """The salt of its digests: `salt`, or without a warm start the cohort's fingerprint."""
        return self.salt or self.cohort

    def knows_patient(self, patient_id: str) -> bool:
        """Whether the patient is in the training data, by the salted digest of the id."""
        return _digest(self.own_salt, patient_id) in self._patients

    def knows_source(self, source: SourceIdentity) -> bool:
        """Whether a slide of this content is in the training data."""
        return _digest(self.own_salt, source_text(source)) in self._sources

    @cached_property
    def _patients(self) -> frozenset[str]:
        return frozenset(self.patients)

    @cached_property
    def _sources(self) -> frozenset[str]:
        return frozenset(self.sources)


def source_text(source: SourceIdentity) -> str:
    return f"{source.num_bytes}:{source.digest}"


def _digest(salt: str, text: str) -> str:
    return hashlib.sha256(f"{salt}/{text}".encode()).hexdigest()[:_DIGEST_DIGITS]


@dataclass(frozen=True, kw_only=True)
class RegistryCard:
    """A registered model's card. Dicts are plain JSON."""

    task: Task
    unit: str
    """slide or patient: what a bag is."""
    members: tuple[Member, ...]
    """The models whose mean is the prediction, in order; at least one."""
    encoder: dict[str, Any]
    """The tile encoder's whole card."""
    encoder_identity: dict[str, Any]
    """The part of it that changes the numbers."""
    tiling: dict[str, Any]
    """The tiling's identity: tile spec and tissue algorithm."""
    recipe: dict[str, Any]
    """method, model, mhim, fit, splits, target, prediction, seeds: the keys of mhim train that made it."""
    trained_on: TrainedOn
    estimate: dict[str, Any] = field(default_factory=dict)
    """Figures of the cross-validation, where there was one; no part of the identity."""
    holdout: dict[str, Any] = field(default_factory=dict)
    """Figures on the frozen holdout, where it was read before registering; no part of the identity."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that made it."""
    created_by: str = ""
    """The flow, or the command."""
    intended_use: str = "Research use only."
    started_from: str = ""
    """The model whose weights its training started from, as name@version or a run's fingerprint; empty: from none."""

    def __post_init__(self) -> None:
        if not 0 < len(self.members) <= MAX_MEMBERS:
            raise ValueError(f"a model has at least one member and {MAX_MEMBERS} at most, not {len(self.members)}")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.task.classes

    @property
    def files(self) -> dict[str, str]:
        """sha256 by file."""
        return {file: sha256 for member in self.members for file, sha256 in member.files.items()}

    @property
    def threshold(self) -> float | None:
        """Two classes: the mean of the members' thresholds, 0.5 for a member without; None for other tasks.

        The mean probability lies above it exactly if the members' probabilities lie above their own thresholds on
        average.
        """
        if len(self.classes) != 2:
            return None
        thresholds = [0.5 if member.threshold is None else member.threshold for member in self.members]
        return sum(thresholds) / len(thresholds)

    @property
    def version(self) -> str:
        """A digest of the content: equal for equal weights, choices, features, recipe and training data."""
        identity = {name: value for name, value in to_plain(self).items() if name in _IDENTITY}
        return fingerprint(identity | {"schema": SCHEMA})[:VERSION_DIGITS]

    def to_bytes(self, name: str) -> bytes:
        """The card's file, which also states name and version."""
        own = {"schema": SCHEMA, "name": name, "version": self.version, "files": self.files}
        return canonical_json(to_plain(self) | own)

    @classmethod
    def from_bytes(cls, data: bytes, where: str, name: str = "") -> "RegistryCard":
        """Raises IntegrityError naming `where` if the bytes are not a card, or not of the version it names.

        `name`: of the model that it must be a card of; empty: any.
        """
        try:
            raw = parse_json(data)
            schema, own_name, version, files = (raw.pop(key) for key in ("schema", "name", "version", "files"))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{where} is not a model's card: {type(error).__name__}: {error}") from error
        if schema != SCHEMA:
            raise IntegrityError(f"{where} has schema {schema}; this mhim reads {SCHEMA}")
        if name and own_name != name:
            raise IntegrityError(f"{where} is the card of {own_name!r}, not of {name}")
        card = read_record(cls, raw, where)
        if (card.version, card.files) != (version, files):
            raise IntegrityError(f"{where} was changed: it says version {version}, its content {card.version}")
        # the version covers the identity alone, and an encoder is made of its whole card
        if changed := [name for name, value in card.encoder_identity.items() if card.encoder.get(name) != value]:
            raise IntegrityError(f"{where} was changed: its encoder is not that of its identity ({', '.join(changed)})")
        return card


_IDENTITY = ("task", "unit", "members", "encoder_identity", "tiling", "recipe", "trained_on")
