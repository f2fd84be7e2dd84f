"""The records of a judgement: the assessment, named by its content, and the claim that it is the one that counts.

A claim, of data against a champion, is put if absent, so that the data are judged once even if two flows try.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mhim_core.errors import ConflictError, NotFoundError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.json_files import SCHEMA, read_json
from mhim_core.records import parse_object
from mhim_core.registry.names import check_name
from mhim_core.storage import Storage


class Claim(NamedTuple):
    """Which judgement of some data against a champion counts."""

    flow: str
    """Fingerprint of the flow that made it."""
    assessment: str
    """sha256 of the assessment, which lies in that flow's folder."""

    def to_bytes(self) -> bytes:
        return canonical_json({"schema": SCHEMA} | self._asdict())


def read_claim(registry: Storage, marker: str) -> Claim | None:
    """None where the data were not judged."""
    record = read_json(registry, marker)
    return None if record is None else Claim(str(record["flow"]), str(record["assessment"]))


def put_claim(registry: Storage, marker: str, claim: Claim) -> Claim:
    """Record which judgement counts, unless that is recorded already; the claim that stands."""
    registry.put_if_absent(marker, claim.to_bytes())
    first = read_claim(registry, marker)
    assert first is not None
    return first


def marker_key(name: str, version: str, data: str, period: Sequence[int] | None) -> str:
    """The key for data judged against a champion. `period`: where its age alone is the reason, once in each."""
    age = "" if period is None else "-" + "-".join(map(str, period))
    return f"flows/judged/{check_name(name)}/{version}-{data[:16]}{age}.json"


def assessment_key(folder: str, digest: str) -> str:
    return f"{folder}/assessment-{digest[:16]}.json"


def keep_assessment(storage: Storage, folder: str, record: bytes) -> str:
    """Store an assessment under its content, in the folder of the flow that made it; its sha256."""
    digest = sha256(record)
    storage.put_if_absent(assessment_key(folder, digest), record)
    return digest


def read_assessment(storage: Storage, folder: str, digest: str) -> bytes:
    """Raises ConflictError where it is missing or changed: the data were judged, but the decision is lost."""
    key = assessment_key(folder, digest)
    try:
        record = storage.get(key)
    except NotFoundError:
        raise ConflictError(f"{storage.locate(key)} is gone, and its content with it") from None
    if sha256(record) != digest:
        raise ConflictError(f"{storage.locate(key)} is not the assessment that was made")
    return record


def judged_base(storage: Storage, folder: str, digest: str) -> int:
    """The number of the champion that the challenger of this assessment was judged against."""
    assessment = parse_object(read_assessment(storage, folder, digest), f"assessment {digest[:16]}")
    return int(assessment["champion"]["number"])
