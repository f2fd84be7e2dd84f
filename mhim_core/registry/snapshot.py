"""The cohort's labelled slides at one time, as retrainings compare them.

A snapshot is a digest a slide: patient, target, site, resolution, and the file's content. Patients of the holdout, who
may not be trained on, are in none, and a slide that cannot be embedded stays in it unchanged: so neither triggers a
retraining. Snapshots lie at `flows/data/<name>/<fingerprint, 16 digits>.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from mhim_core.cohort.rows import CohortRow
from mhim_core.errors import IntegrityError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json, fingerprint, to_plain
from mhim_core.json_files import SCHEMA, read_json
from mhim_core.registry.names import check_name
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import Storage
from mhim_core.types import SlideId

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
        return canonical_json({"schema": SCHEMA, "slides": self.slides, "policy": self.policy})


def snapshot(
    rows: Sequence[CohortRow],
    contents: Mapping[SlideId, SourceIdentity],
    policy: SlidePolicy,
    regions: Mapping[SlideId, str] = MappingProxyType({}),
    *,
    takes_unannotated: bool = False,
) -> Snapshot:
    """Of the rows that have a target; their order and the place of their files do not matter.

    `regions`: digests of annotations and masks, of slides whose tiles depend on them; `takes_unannotated`: slides that
    should have one and have none are let in.
    """
    slides = {
        row.slide_id: fingerprint(
            {
                "patient": row.patient_id,
                "target": (row.label, row.time, row.event),
                "site": row.site,
                "mpp": row.mpp,
                "sha256": row.sha256,
                "source": contents.get(row.slide_id),
                **({"regions": regions[row.slide_id]} if regions.get(row.slide_id) else {}),
            }
        )[:_DIGITS]
        for row in rows
        if row.is_labelled
    }
    admission = to_plain(policy) | ({"unannotated": "whole"} if takes_unannotated else {})
    return Snapshot(slides=dict(sorted(slides.items())), policy=admission)


def keep_snapshot(records: Storage, name: str, data: Snapshot) -> None:
    records.put_if_absent(_key(name, data.fingerprint), data.to_bytes())


def read_snapshot(records: Storage, name: str, data: str) -> Snapshot | None:
    """The snapshot of this fingerprint, or None. Raises IntegrityError if the file holds another."""
    key = _key(name, data)
    raw = read_json(records, key)
    if raw is None:
        return None
    known = Snapshot(slides=raw.get("slides", {}), policy=raw.get("policy", {}))
    if known.fingerprint != data:
        raise IntegrityError(f"{records.locate(key)} is not the snapshot that its name says")
    return known


def _key(name: str, data: str) -> str:
    return f"flows/data/{check_name(name)}/{data[:16]}.json"
