"""Whoever judges first counts, and what was judged can be followed or is refused."""

import json
from pathlib import Path

import pytest

from mhim_core.errors import ConflictError
from mhim_core.registry.claims import (
    Claim,
    assessment_key,
    judged_base,
    keep_assessment,
    put_claim,
    read_assessment,
    read_claim,
)
from mhim_core.storage import LocalStorage

FOLDER = "flows/retrain/lung/0123456789abcdef"


def test_the_first_claim_counts_whoever_comes_second(tmp_path: Path) -> None:
    registry = LocalStorage(tmp_path)
    assert read_claim(registry, "m.json") is None
    first, second = Claim("flow-a", "1" * 64), Claim("flow-b", "2" * 64)
    assert put_claim(registry, "m.json", first) == first
    assert put_claim(registry, "m.json", second) == first
    assert read_claim(registry, "m.json") == first


def test_an_assessment_is_read_back_by_its_content(tmp_path: Path) -> None:
    registry = LocalStorage(tmp_path)
    record = json.dumps({"champion": {"number": 7}}).encode()
    digest = keep_assessment(registry, FOLDER, record)
    assert read_assessment(registry, FOLDER, digest) == record
    assert judged_base(registry, FOLDER, digest) == 7


def test_an_assessment_that_is_gone_or_changed_is_a_conflict(tmp_path: Path) -> None:
    registry = LocalStorage(tmp_path)
    digest = keep_assessment(registry, FOLDER, b"{}")
    registry.put(assessment_key(FOLDER, digest), b"{ }")
    with pytest.raises(ConflictError, match="is not the assessment"):
        read_assessment(registry, FOLDER, digest)
    registry.delete(assessment_key(FOLDER, digest))
    with pytest.raises(ConflictError, match="is gone"):
        read_assessment(registry, FOLDER, digest)
