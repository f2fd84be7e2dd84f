"""Failures that a store has recorded, of slides that it never committed."""

import os
from pathlib import Path

from mhim_core.storage import LocalStorage
from mhim_core.types import SlideId
from mhim_core.view.failed import FailedBefore, recorded_failures

SET = "a" * 64


def test_the_newest_failure_of_each_slide_without_a_commit(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    records = [("s1", "b", 1, "open"), ("s1", "b", 2, "read"), ("s1", "c", 1, "no_mpp"), ("s2", "b", 1, "open")]
    for when, (slide_id, digest, number, reason) in enumerate(records):
        key = f"attempts/{SET}/{slide_id}/{digest * 64}/{number:04d}.json"
        storage.put(key, f'{{"row": {{"reason": "{reason}", "message": "why"}}}}'.encode())
        os.utime(tmp_path / key, (when, when))
    storage.put(f"attempts/{SET}/s3/{'b' * 64}/0001.json", b"damaged")
    found = recorded_failures(storage, SET, {SlideId("s2")})
    assert found == {"s1": FailedBefore("no_mpp", "why"), "s3": FailedBefore("failed", "its record cannot be read")}
