"""A feature set: all slides' features under one tiling and one encoder, named by the fingerprint of both.

Only what changes the numbers is fingerprinted. Policies that admit or refuse a slide, workers, caches, paths and hosts
are in none, so changing them never invalidates what is embedded.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from mhim_core.errors import ConflictError, InputError, IntegrityError
from mhim_core.fingerprint import canonical_json, fingerprint, to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.storage import Storage
from mhim_core.store import layout
from mhim_core.store.schema import SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Tiling × encoder × schema. All dicts are plain JSON. Raises InputError if the card lacks `id` or `dim`."""

    tiling: dict[str, Any]
    """The tiling's identity: tile spec and tissue algorithm."""
    encoder: dict[str, Any]
    """The encoder's whole card, provenance included."""
    encoder_identity: dict[str, Any]
    """The part of the card that changes the numbers; only this is fingerprinted."""

    def __post_init__(self) -> None:
        if not isinstance(self.encoder.get("id"), str) or not isinstance(self.encoder.get("dim"), int):
            raise InputError(f"an encoder card needs `id` (text) and `dim` (integer); found {sorted(self.encoder)}")

    @property
    def encoder_id(self) -> str:
        return str(self.encoder["id"])

    @property
    def dim(self) -> int:
        """D: the length of a feature."""
        return int(self.encoder["dim"])

    @cached_property
    def tiling_fingerprint(self) -> str:
        return fingerprint(self.tiling)

    @cached_property
    def encoder_fingerprint(self) -> str:
        return fingerprint(self.encoder_identity)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits: the set's name in the store."""
        return fingerprint({"schema_version": SCHEMA_VERSION, "tiling": self.tiling, "encoder": self.encoder_identity})

    @cached_property
    def tiling_settings(self) -> dict[str, Any]:
        """The tiling's leaves by dotted path, such as `spec.target_mpp`."""
        return dict(_leaves(self.tiling))

    def describe(self, settings: Collection[str] | None = None) -> str:
        """One line for display: fingerprint, encoder, dimension and the named tiling settings (None: all)."""
        shown = [
            f"{path}={value}" for path, value in self.tiling_settings.items() if settings is None or path in settings
        ]
        usual = {"runtime": "torch", "precision": "float32"}
        by = [self.encoder[name] for name, value in usual.items() if self.encoder.get(name, value) != value]
        return "  ".join([self.fingerprint[:16], f"{self.encoder_id} (D={self.dim})", *by, *shown])

    def to_json(self) -> bytes:
        return canonical_json({"schema_version": SCHEMA_VERSION} | to_plain(self))

    @classmethod
    def from_json(cls, data: bytes) -> "FeatureSet":
        """The set of `to_json`. Raises IntegrityError if the bytes are not one of this schema version."""
        try:
            fields = parse_json(data)
            version = fields.pop("schema_version")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"not a feature set: {error}") from error
        if version != SCHEMA_VERSION:
            raise IntegrityError(f"feature set of schema version {version}; this mhim reads {SCHEMA_VERSION}")
        return read_record(cls, fields, "the feature set's record")


def register(storage: Storage, feature_set: FeatureSet) -> None:
    """Record what the fingerprint stands for, once. A card whose provenance alone differs changes nothing.

    Raises ConflictError if the key holds something else.
    """
    key = layout.feature_set_key(feature_set.fingerprint)
    if not storage.put_if_absent(key, feature_set.to_json()):
        present = FeatureSet.from_json(storage.get(key))
        if present.fingerprint != feature_set.fingerprint:
            raise ConflictError(f"{storage.locate(key)} describes another feature set than its name says")


def is_registered(storage: Storage, fingerprint: str) -> bool:
    """Does the store know a feature set of this fingerprint?"""
    key = layout.feature_set_key(fingerprint)
    return any(entry.key == key for entry in storage.list(layout.FEATURE_SETS))


def list_feature_sets(storage: Storage) -> list[FeatureSet]:
    """Every registered set, sorted by fingerprint. Raises IntegrityError if one is not what its name says."""
    feature_sets = []
    for entry in storage.list(layout.FEATURE_SETS):
        feature_set = FeatureSet.from_json(storage.get(entry.key))
        if layout.feature_set_key(feature_set.fingerprint) != entry.key:
            raise IntegrityError(f"{storage.locate(entry.key)} does not match its name")
        feature_sets.append(feature_set)
    return feature_sets


def _no_features(storage: Storage) -> str:
    """The sentence for a store without any: what else lies there, and what to do."""
    foreign = next((entry.key for entry in storage.list("") if entry.key.endswith((".h5", ".pt"))), None)
    if foreign is None:
        return f"{storage.uri} holds no features; run `mhim embed` first"
    return (
        f"{storage.uri} holds no features of mhim, but files of another tool, such as {foreign}: `mhim import` brings "
        "them into a store (docs/from_another_tool.md)"
    )


def choose_feature_set(
    storage: Storage,
    *,
    encoder_id: str | None = None,
    tiling: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    neutral: Mapping[str, Any] = MappingProxyType({}),
) -> FeatureSet:
    """The one set that fits: `encoder_id` exactly, each setting of `tiling`, the fingerprint's first digits.

    A tiling setting is named by its path or its last part (`spec.target_mpp` or `target_mpp`). `neutral`: by name what
    a setting is in a set that does not state it (`neutral_values` of its class). Raises InputError, listing what is
    there, if none fits or the choice is open.
    """
    present = list_feature_sets(storage)
    if not present:
        raise InputError(_no_features(storage))
    wanted = dict(tiling or {})
    fitting = [
        candidate
        for candidate in present
        if (encoder_id is None or candidate.encoder_id == encoder_id)
        and (fingerprint is None or candidate.fingerprint.startswith(fingerprint))
        and all(_has_setting(candidate, name, value, neutral) for name, value in wanted.items())
    ]
    if len(fitting) == 1:
        return fitting[0]
    asked = {"encoder": encoder_id, "feature_set": fingerprint, **wanted}
    choice = ", ".join(f"{key}={value}" for key, value in asked.items() if value is not None) or "no choice given"
    finding = f"{len(fitting)} feature sets fit; say which" if fitting else "no feature set fits; present"
    listing = "\n".join(f"  {line}" for line in _listing(fitting or present))
    raise InputError(f"{storage.uri} ({choice}): {finding}:\n{listing}")


def _has_setting(feature_set: FeatureSet, name: str, value: Any, neutral: Mapping[str, Any]) -> bool:
    settings = feature_set.tiling_settings
    stated = [setting for path, setting in settings.items() if path == name or path.endswith(f".{name}")]
    return value in stated if stated else name in neutral and neutral[name] == value


def _listing(feature_sets: list[FeatureSet]) -> list[str]:
    """One line each, with the settings in which they differ."""
    first = feature_sets[0].tiling_settings
    differing = {
        path
        for feature_set in feature_sets[1:]
        for path in first.keys() | feature_set.tiling_settings.keys()
        if first.get(path) != feature_set.tiling_settings.get(path)
    }
    return [feature_set.describe(differing if len(feature_sets) > 1 else None) for feature_set in feature_sets]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in sorted(value):
        if isinstance(value[key], Mapping):
            yield from _leaves(value[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value[key]
