"""The whole walk of a store, on a folder, a bucket, and a bucket that fails: the same commits, manifests and bags."""

import multiprocessing
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.storage import S3Storage, open_storage
from mhim_core.errors import IntegrityError
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.storage import LocalStorage, Storage
from mhim_core.store.bags import ParquetBags
from mhim_core.store.commit import AlreadyCommitted, Committed, commit
from mhim_core.store.contents import list_contents
from mhim_core.store.feature_sets import FeatureSet, choose_feature_set, register
from mhim_core.store.garbage import find_garbage, remove_garbage
from mhim_core.store.layout import features_prefix
from mhim_core.store.ledger import Ledger
from mhim_core.store.manifest import ManifestRef, read_manifest, write_manifest
from mhim_core.store.removal import find_holdings, remove_slides
from mhim_core.store.verify import audit
from mhim_core.types import BagId, FailureReason, SlideId, SlideTask, Status, StatusRow

pytestmark = pytest.mark.s3

CARD = {"id": "toy", "dim": 4}
SET = FeatureSet(tiling={"target_mpp": 0.5}, encoder=CARD, encoder_identity=CARD)
SLIDES = [f"s{number:02d}" for number in range(8)]


@dataclass
class Policy:
    max_upsample: float = 1.1
    default_mpp: float | None = None
    max_mpp_factor: float = 4.0


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.thorough), "failing bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return LocalStorage(tmp_path / "store")
    bucket = request.getfixturevalue("bucket")
    if request.param == "failing bucket":
        proxy = request.getfixturevalue("proxy")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        kinds = {3: "lost", 11: 503, 17: "reset"}
        proxy.faults = [kinds.get(number % 20, "ok") for number in range(2000)]
    return open_storage(f"s3://{bucket}/store")


def features(slide_id: str, seed: int = 0) -> SlideFeatures:
    num_tiles = int(slide_id[1:]) % 4
    rng = np.random.default_rng([int(slide_id[1:]), seed])
    x = np.arange(num_tiles, dtype=np.int32) * 512
    return SlideFeatures(
        slide_id=SlideId(slide_id),
        features=rng.standard_normal((num_tiles, 4)).astype(np.float16),
        coords_l0_px=np.stack([x, np.zeros_like(x)], axis=1),
        tissue_share=np.ones(num_tiles, np.float32),
        background_share=np.zeros(num_tiles, np.float32),
        reading=SlideReading(
            source=SourceIdentity(10, slide_id),
            hint=hint(task(slide_id)),
            source_sha256="",
            mpp=MppUsed(0.5, 0.5, "slide"),
            effective_mpp=(0.5, 0.5),
            upsample=1.0,
            backend=BACKEND_OF_0_1,
        ),
        cut=TileCut(tiling=SET.tiling, tile_size_l0_px=(256, 256), width_l0_px=1024, height_l0_px=256),
        encoder=SET.encoder,
    )


def task(slide_id: str) -> SlideTask:
    return SlideTask(SlideId(slide_id), f"/slides/{slide_id}.svs")


def hint(slide: SlideTask) -> SourceHint:
    return SourceHint(slide.uri, 10, "1")


def embed(storage: Storage, slide_ids: list[str], stop_after: int | None = None) -> ManifestRef | None:
    """One run: resume, commit what is left, write the manifest; `stop_after`: killed after so many commits."""
    ledger = Ledger(storage, SET)
    register(storage, SET)
    pending = ledger.pending([task(slide_id) for slide_id in slide_ids], hints=hint, policy=Policy())
    rows = []
    for number, slide in enumerate(pending.todo):
        if number == stop_after:
            return None
        record = commit(storage, SET, features(slide.slide_id)).record
        rows.append(StatusRow(slide.slide_id, record.status, commit_key=record.commit_key))
    return write_manifest(storage, SET, ledger.cohort_entries(pending, rows))


@pytest.mark.fault(5)
def test_a_run_killed_half_way_ends_in_the_clean_run_s_manifest(storage: Storage, tmp_path: Path) -> None:
    clean = LocalStorage(tmp_path / "clean")
    expected = embed(clean, SLIDES)
    assert embed(storage, SLIDES, stop_after=3) is None
    pending = Ledger(storage, SET).pending([task(slide_id) for slide_id in SLIDES], hints=hint, policy=Policy())
    assert [pending_task.slide_id for pending_task in pending.todo] == SLIDES[3:]
    assert embed(storage, SLIDES) == expected
    assert embed(storage, SLIDES) == expected
    assert [entry.key for entry in storage.list("")] == [entry.key for entry in clean.list("")]


def test_bags_of_a_pinned_manifest_are_the_committed_features(storage: Storage) -> None:
    ref = embed(storage, SLIDES)
    assert ref is not None
    feature_set = choose_feature_set(storage, encoder_id="toy")
    manifest = read_manifest(storage, feature_set.fingerprint, version=ref.version, sha256_pin=ref.sha256)
    bags = ParquetBags(storage, manifest.entries)
    assert bags.lengths() == {slide_id: int(slide_id[1:]) % 4 for slide_id in SLIDES if int(slide_id[1:]) % 4}
    for bag_id in bags.lengths():
        np.testing.assert_array_equal(bags.read(bag_id).numpy(), features(bag_id).features.astype(np.float32))
    key = manifest.entries[SlideId("s01")].key
    data = storage.get(key)
    storage.put(key, data[:150] + bytes([data[150] ^ 1]) + data[151:])
    with pytest.raises(IntegrityError, match="slide s01"):
        bags.read(BagId("s01"))


@pytest.mark.fault(11)
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_two_runs_started_together_end_in_one_commit_a_slide_and_a_manifest_of_both(storage: Storage) -> None:
    """Two processes, as two drivers are."""
    fork = multiprocessing.get_context("fork")  # a new interpreter would import for seconds
    runs = [fork.Process(target=embed, args=(storage, cohort)) for cohort in (SLIDES[:5], SLIDES[3:])]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert sorted(read_manifest(storage, SET.fingerprint).entries) == SLIDES
    assert sorted(record.slide_id for record in Ledger(storage, SET).known()) == SLIDES


@pytest.mark.fault(51)
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_slide_is_removed_while_a_run_that_has_it_already_goes_on(storage: Storage) -> None:
    embed(storage, SLIDES[:4])
    run = multiprocessing.get_context("fork").Process(target=embed, args=(storage, SLIDES))
    run.start()
    remove_slides(storage, [SlideId("s03")], older_manifests=True)
    run.join()
    embed(storage, SLIDES[4:])
    left = find_holdings(storage, [SlideId("s03")])
    assert (len(left.commits), len(left.files)) in ((0, 0), (1, 1))  # (1, 1): the run began after the removal
    entries = read_manifest(storage, SET.fingerprint).entries
    assert (SlideId("s03") in entries) == bool(left.commits)
    assert entries.keys() >= {*SLIDES} - {"s03"}
    assert audit(storage, deep=True).lost == ()
    remove_slides(storage, [SlideId("s03")], older_manifests=True)
    assert not [entry.key for entry in storage.list("") if "s03" in entry.key]


def test_a_store_is_counted_and_cleared_of_what_nobody_needs(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(storage, SLIDES)
    before = [entry.key for entry in storage.list("")]
    (contents,) = list_contents(storage)
    assert contents.totals is not None
    assert contents.totals[:3] == (8, 2, 12)
    orphan = f"{features_prefix(SET.fingerprint)}/s03/{'0' * 64}.parquet"
    for key in (orphan, "probe/left"):
        storage.put(key, b"left")
    assert find_garbage(storage).objects == ()
    monkeypatch.setattr("mhim_core.store.garbage.MIN_AGE_S", -60.0)  # the servers' clocks go by seconds
    found = find_garbage(storage)
    assert [item.key for item in found.objects] == [orphan, "probe/left"]
    assert remove_garbage(storage, found.objects) == 2
    assert [entry.key for entry in storage.list("")] == before


def test_differing_attempts_at_one_slide_agree_on_the_first(storage: Storage) -> None:
    barrier = threading.Barrier(3)
    results: list[Any] = []

    def work(seed: int) -> None:
        made = features("s03", seed)
        barrier.wait()
        results.append(commit(storage, SET, made))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(result).__name__ for result in results) == [
        AlreadyCommitted.__name__,
        AlreadyCommitted.__name__,
        Committed.__name__,
    ]
    assert len({result.record.sha256 for result in results}) == 1


def test_failures_are_numbered_and_given_up_when_asked(storage: Storage) -> None:
    ledger = Ledger(storage, SET)
    row = StatusRow(SlideId("s01"), Status.FAILED, FailureReason.READ, stage="tiles", message="why")
    for _ in range(2):
        ledger.record_failure(task("s01"), row, Policy(), hint(task("s01")))
    pending = ledger.pending([task("s01")], hints=hint, policy=Policy(), retry_failed=False)
    assert pending.given_up == [row]
    commit(storage, SET, features("s01"))
    assert set(ledger.pending([task("s01")], hints=hint, policy=Policy(), retry_failed=False).done) == {"s01"}


def test_a_failing_bucket_was_really_failing(proxy: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.faults = ["lost" if number % 5 == 2 else "ok" for number in range(500)]
    storage = S3Storage(bucket, "store")
    embed(storage, SLIDES)
    assert storage.num_retries > 3
    assert len(Ledger(storage, SET).known()) == len(SLIDES)
