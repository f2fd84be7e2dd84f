"""How long `mhim store verify` takes for the records of a large store, beside the latency of the store itself.

    python benchmarks/verify_store.py [--slides 100000] [--local] [--out FILE]

Prints one JSON object. The store lies in memory, so that the figures are the command's own work, and answers in pages
of 1000 keys, which are counted: at 100 ms each, they are what an object store adds. `--local`: a folder on this disk
as well, its feature files sparse. One slide in a thousand has lost its feature file, another its commit; a run checks
a third of the slides before it trains.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mhim_core.errors import NotFoundError
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideReading, SourceHint, SourceIdentity
from mhim_core.storage import Entry, LocalStorage, Storage
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.manifest import write_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.store.verify import Fault, audit, file_findings, list_sizes
from mhim_core.types import SlideId, Status

NUM_BYTES = 15_600_000
"""Of a feature file: 12,000 tiles × 1,024."""
PAGE = 1000


class MemoryStorage:
    """An object store in memory. An object is its bytes, or only its length."""

    uri = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes | int] = {}
        self.num_pages = self.num_reads = 0

    def get(self, key: str) -> bytes:
        self.num_reads += 1
        data = self.objects.get(key)
        if not isinstance(data, bytes):
            raise NotFoundError(key)
        return data

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def put_if_absent(self, key: str, data: bytes) -> bool:
        is_free = key not in self.objects
        self.objects.setdefault(key, data)
        return is_free

    def list(self, prefix: str) -> Iterator[Entry]:
        for number, key in enumerate(sorted(key for key in self.objects if key.startswith(f"{prefix}/"))):
            self.num_pages += number % PAGE == 0
            data = self.objects[key]
            yield Entry(key, len(data) if isinstance(data, bytes) else data, 0.0)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def locate(self, key: str) -> str:
        return key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=100_000)
    parser.add_argument("--local", action="store_true", help="a folder on this disk too")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON there too")
    args = parser.parse_args()
    memory = MemoryStorage()
    records = fill(memory, args.slides)
    figures = {"slides": args.slides, "cpus": os.cpu_count(), "memory": measure(memory, records)}
    figures["memory"] |= {"pages": memory.num_pages, "reads": memory.num_reads}
    if args.local:
        with tempfile.TemporaryDirectory() as folder:
            for key, data in memory.objects.items():
                path = Path(folder, key)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                if isinstance(data, bytes):
                    path.write_bytes(data)
                else:
                    os.truncate(path, data)
            figures["local"] = measure(LocalStorage(folder), records)
    text = json.dumps(figures)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


def fill(storage: MemoryStorage, num_slides: int) -> list[CommitRecord]:
    """Commits and feature files of so many slides in one manifest, then the losses."""
    card = {"id": "benchmark", "dim": 1024}
    feature_set = FeatureSet(tiling={"target_mpp": 0.5}, encoder=card, encoder_identity=card)
    register(storage, feature_set)
    records = [record_of(feature_set, number) for number in range(num_slides)]
    write_manifest(storage, feature_set, {record.slide_id: record for record in records})
    for number, record in enumerate(records):
        if number % 1000 != 1:
            storage.put(record.commit_key, record.to_json())
        if number % 1000 != 2:
            storage.objects[record.key] = record.num_bytes
    return records


def record_of(feature_set: FeatureSet, number: int) -> CommitRecord:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    reading = SlideReading(
        source=SourceIdentity(10**9, digest),
        hint=SourceHint(f"/slides/{number}.svs", 10**9, "1"),
        source_sha256="",
        mpp=MppUsed(0.25, 0.25, "slide"),
        effective_mpp=(0.5, 0.5),
        upsample=1.0,
        backend=BACKEND_OF_0_1,
    )
    record = CommitRecord(
        slide_id=SlideId(f"slide-{number:06d}"),
        status=Status.OK,
        key="",
        sha256=digest,
        num_bytes=NUM_BYTES,
        num_tiles=12_000,
        dim=1024,
        dtype="float16",
        reading=reading,
        num_bad_tiles=0,
        feature_set=feature_set.fingerprint,
        tiling=feature_set.tiling_fingerprint,
        encoder=feature_set.encoder_fingerprint,
        versions={"mhim": "0.1.0"},
        committed_by="mhim 0.1.0",
    )
    return dataclasses.replace(record, key=record.features_key)


def measure(storage: Storage, records: list[CommitRecord]) -> dict[str, float]:
    start_s = time.perf_counter()
    result = audit(storage)
    audit_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    third = records[::3]
    lost = file_findings(storage, third, list_sizes(storage, third, len(records)))
    return {
        "verify_s": round(audit_s, 2),
        "before_training_s": round(time.perf_counter() - start_s, 2),
        "missing": result.count(Fault.MISSING),
        "missing_for_training": len(lost),
    }


if __name__ == "__main__":
    main()
