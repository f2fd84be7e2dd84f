"""Slides at `s3://`: by ranges, whole, in sets and from the node's cache they are the slides of local files."""

import os
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.decoding import AtHand
from cluster.object_ranges import ObjectChangedError, read_object_part
from cluster.s3 import S3Client, S3Place
from cluster.staging import at_hand, decode_staged
from cluster.storage import S3Storage, object_hint
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.decode import decode_slide
from mhim_core.embed.facts import PlanFacts
from mhim_core.embed.registry import load_encoder
from mhim_core.embed.slide_encoder import SlideEncoder
from mhim_core.errors import NotFoundError, SlideError, StorageError
from mhim_core.slides import ranged_file
from mhim_core.slides.remote import RemoteOptions, RemoteReads
from mhim_core.slides.source_identity import file_sha256, source_hint
from mhim_core.slides.spec import ColourMethod, SlidePolicy, TileSpec
from mhim_core.slides.staging import sweep_staged
from mhim_core.store.schema import encode_features
from mhim_core.types import FailureReason, SlideId, SlideTask

pytestmark = pytest.mark.s3

IS_MOTO = "MHIM_TEST_S3_ENDPOINT" not in os.environ
SPEC, POLICY = TileSpec(tile_px=64), SlidePolicy()
RANGES = RemoteOptions(reads=RemoteReads.ranges)
CACHED = RemoteOptions(cache_bytes=2**30)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 × 4,000 px of glass with tissue in a corner; about 1 MB."""
    rng = np.random.default_rng(0)
    pixels = np.full((4_000, 4_000, 3), 243, np.uint8)
    pixels[1::3, ::5] -= rng.integers(0, 14, pixels[1::3, ::5].shape, dtype=np.uint8)
    pixels[200:900, 300:1_300] = np.clip(np.array([205, 130, 175]) + rng.integers(-25, 25, (700, 1_000, 1)), 0, 255)
    path = tmp_path_factory.mktemp("slides") / "a.tiff"
    write_pyramid(path, pixels, mpp=(0.5, 0.5), downsamples=(1, 4, 16), tile_px=128)
    return path


@pytest.fixture
def far(slide: Path, bucket: str) -> SlideTask:
    S3Storage(bucket).put("a.tiff", slide.read_bytes())
    return SlideTask(SlideId("a"), f"s3://{bucket}/a.tiff")


def decoded(task: SlideTask, folder: Path, remote: RemoteOptions, spec: TileSpec = SPEC) -> list[Any]:
    items = decode_staged(task, spec=spec, policy=POLICY, staging_dir=str(folder), remote=remote)
    assert isinstance(next(items), AtHand)
    return list(items)


def feature_file(items: list[Any]) -> bytes:
    """The bytes that a store would hold."""
    (features,) = SlideEncoder([load_encoder("hed-texture")])(iter(items[1:]), items[0])
    return encode_features(features)


@pytest.mark.parametrize(
    "remote",
    [RemoteOptions(), RANGES, RemoteOptions(reads=RemoteReads.copy), CACHED],
    ids=["auto", "ranges", "copy", "cached"],
)
def test_feature_files_of_remote_slides_are_those_of_local_ones(
    far: SlideTask, slide: Path, tmp_path: Path, remote: RemoteOptions
) -> None:
    task = far._replace(uri=str(slide))
    local = list(decode_slide(slide, task, source_hint(slide), spec=SPEC, policy=POLICY))
    items = decoded(far, tmp_path, remote)
    assert isinstance(items[0], PlanFacts)
    assert items[0].reading.source == local[0].reading.source
    assert (items[0].reading.hint, items[0].reading.view) == (object_hint(far.uri), local[0].reading.view)
    assert feature_file(items) == feature_file(local)
    assert {path.name for path in tmp_path.iterdir()} <= {"mhim-slide-cache"}


@pytest.mark.parametrize("colour", list(ColourMethod), ids=str)
def test_colours_and_quality_of_slides_read_by_ranges_are_those_of_local_ones(
    far: SlideTask, slide: Path, tmp_path: Path, proxy: Any, colour: ColourMethod
) -> None:
    spec = TileSpec(tile_px=64, colour=colour, quality=True, min_sharpness=1.0, max_pen=0.5)
    local = list(decode_slide(slide, far, source_hint(slide), spec=spec, policy=POLICY))
    plain = list(decode_slide(slide, far, source_hint(slide), spec=SPEC, policy=POLICY))
    items = decoded(far, tmp_path, RANGES, spec)
    assert 0 < proxy.num_bytes < 0.8 * slide.stat().st_size
    assert items[0].reading.view == local[0].reading.view
    assert feature_file(items) == feature_file(local)
    for here, there in zip(local[1:], items[1:], strict=True):
        assert np.array_equal(here.tiles, there.tiles)
        assert all(np.array_equal(values, there.columns[name]) for name, values in here.columns.items())
    is_recoloured = not np.array_equal(local[1].tiles[0], plain[1].tiles[0])
    assert is_recoloured == (colour is not ColourMethod.none), "or nothing is compared"


def test_by_ranges_glass_stays_in_the_bucket(far: SlideTask, slide: Path, tmp_path: Path, proxy: Any) -> None:
    decoded(far, tmp_path, RANGES)
    assert 0 < proxy.num_bytes < 0.8 * slide.stat().st_size
    before = proxy.num_bytes
    decoded(far._replace(sha256=file_sha256(slide)), tmp_path, RANGES)
    assert proxy.num_bytes - before == slide.stat().st_size, "the whole file is hashed"
    before = proxy.num_bytes
    items = list(
        decode_staged(far, spec=TileSpec(tile_px=64, backend="openslide"), policy=POLICY, staging_dir=str(tmp_path))
    )
    assert len(items) > 2
    assert proxy.num_bytes - before == slide.stat().st_size, "only one backend says what it is about to read"


@pytest.mark.fault(53)
def test_the_cache_is_filled_once_by_all_who_read_it_and_serves_the_next(
    far: SlideTask, slide: Path, tmp_path: Path, proxy: Any
) -> None:
    with ThreadPoolExecutor(3) as pool:
        firsts = [items[0] for items in pool.map(lambda _: decoded(far, tmp_path, CACHED), range(3))]
    decoded(far, tmp_path, CACHED)
    assert len({facts.reading.source for facts in firsts}) == 1
    assert proxy.num_bytes == slide.stat().st_size
    changed = slide.read_bytes() + b"x"
    S3Storage(far.uri.split("/")[2]).put("a.tiff", changed)
    decoded(far, tmp_path, CACHED)
    assert proxy.num_bytes == slide.stat().st_size + len(changed), "another etag is another slide"


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    "knows_conditions",
    [True, pytest.param(False, marks=pytest.mark.skipif(not IS_MOTO, reason="a dropped signed header is refused"))],
    ids=["conditional", "unconditional"],
)
@pytest.mark.parametrize(
    ("remote", "number"),
    [(RANGES, 12), (RemoteOptions(reads=RemoteReads.copy), 3), (CACHED, 3)],
    ids=["ranges", "copy", "cached"],
)
def test_an_object_that_is_replaced_while_it_is_read_fails_by_name_and_leaves_nothing(
    far: SlideTask,
    slide: Path,
    tmp_path: Path,
    proxy: Any,
    remote: RemoteOptions,
    number: int,
    knows_conditions: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranged_file, "MAX_SPAN_BYTES", 2**16)
    proxy.drops_conditions = not knows_conditions
    bucket = far.uri.split("/")[2]

    def replace(num_gets: int) -> None:
        if num_gets == number:
            S3Storage(bucket).put("a.tiff", bytes(reversed(slide.read_bytes())))

    proxy.after_get = replace
    with pytest.raises(SlideError, match="changed while it was read") as failure:
        decoded(far, tmp_path, remote)
    assert failure.value.reason is FailureReason.READ
    assert {path.name for path in tmp_path.rglob("*")} <= {"mhim-slide-cache", "books.lock"}


@pytest.mark.fault(7)
def test_requests_that_fail_amid_a_slide_are_repeated(far: SlideTask, slide: Path, tmp_path: Path, proxy: Any) -> None:
    proxy.faults = ["ok", 503, "ok", "lost", "reset", *["ok", 503] * 6]
    items = decoded(far, tmp_path, RANGES)
    local = list(decode_slide(slide, far, source_hint(slide), spec=SPEC, policy=POLICY))
    assert feature_file(items) == feature_file(local)


def test_a_part_is_as_long_as_asked_and_of_the_version_asked_for(bucket: str) -> None:
    storage = S3Storage(bucket)
    storage.put("a", b"0123456789")
    hint = object_hint(storage.locate("a"))
    assert read_object_part(hint, 3, 4) == b"3456"
    with pytest.raises(StorageError, match="cannot read"):
        read_object_part(hint, 6, 5)
    with pytest.raises(ObjectChangedError):
        read_object_part(hint._replace(version="0" * 32), 3, 4)
    with pytest.raises(NotFoundError):
        read_object_part(hint._replace(uri=storage.locate("b")), 3, 4)


def test_a_store_that_finds_no_etag_to_match_is_asked_without_one(bucket: str, proxy: Any) -> None:
    storage = S3Storage(bucket)
    storage.put("a", b"0123456789")
    hint = object_hint(storage.locate("a"))
    proxy.faults = [412]
    assert read_object_part(hint, 3, 4) == b"3456"
    storage.put("a", b"9876543210")
    proxy.faults = [412]
    with pytest.raises(ObjectChangedError):
        read_object_part(hint, 3, 4)


def put_object(bucket: str, key: str, data: bytes) -> None:
    """Under any name, also one that is no key of ours."""
    place = S3Place(bucket, key)
    S3Client().call("write", place, lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=data))


def relative(task: SlideTask, folder: Path, remote: RemoteOptions = RANGES) -> dict[str, bytes]:
    with at_hand(task, str(folder), remote) as slide:
        files = [path for path in slide.path.parent.rglob("*") if path.is_file() and path.name[0] != "."]
        assert slide.path in files
        return {str(path.relative_to(slide.path.parent)): path.read_bytes() for path in files}


@pytest.mark.parametrize("remote", [RANGES, CACHED], ids=["copy", "cached"])
def test_a_mrxs_comes_with_its_folder_and_a_vms_with_what_it_names(
    bucket: str, tmp_path: Path, remote: RemoteOptions
) -> None:
    storage = S3Storage(bucket)
    key_file = b"[Virtual Microscope Specimen]\r\nImageFile=a-1.jpg\r\nMapFile=a map.jpg\r\n"
    for key, data in {
        "s/m.mrxs": b"mrxs",
        "s/m/Slidedat.ini": b"ini",
        "s/m/Data0000.dat": b"0" * 3_000,
        "s/m2/Data0000.dat": b"another's",
        "s/a.vms": key_file,
        "s/a-1.jpg": b"1",
        "s/a map.jpg": b"map",
        "s/b.jpg": b"another's",
        "s/v.vsi": b"vsi",
        "s/_v_/stack1/frame_t.ets": b"ets",
        "s/v/x.ets": b"another's",
    }.items():
        put_object(bucket, key, data)
    task = SlideTask(SlideId("m"), storage.locate("s/m.mrxs"))
    whole = {"slide.mrxs": b"mrxs", "slide/Slidedat.ini": b"ini", "slide/Data0000.dat": b"0" * 3_000}
    assert relative(task, tmp_path, remote) == whole
    vms = task._replace(uri=storage.locate("s/a.vms"))
    assert relative(vms, tmp_path, remote) == {"slide.vms": key_file, "a-1.jpg": b"1", "a map.jpg": b"map"}
    vsi = task._replace(uri=storage.locate("s/v.vsi"))
    assert relative(vsi, tmp_path, remote) == {"slide.vsi": b"vsi", "_slide_/stack1/frame_t.ets": b"ets"}


def dicom_head(uid: str, nested: str = "") -> bytes:
    def element(uid: str) -> bytes:
        value = uid.encode() + b"\0" * (len(uid) % 2)
        return b"\x20\x00\x0e\x00UI" + struct.pack("<H", len(value)) + value

    return b"\0" * 128 + b"DICM" + (element(nested) if nested else b"") + element(uid) + b"pixels"


def test_a_dicom_slide_comes_with_its_series_and_without_the_others_of_the_folder(bucket: str, tmp_path: Path) -> None:
    storage = S3Storage(bucket)
    files = {
        "d/1.dcm": dicom_head("1.2.3", nested="9.9"),
        "d/2.dcm": dicom_head("1.2.3"),
        "d/3.dcm": dicom_head("1.2.34"),
        "d/4.DCM": dicom_head("1.2.3"),
        "d/5.dcm": b"unknown to us",
        "d/notes.txt": b"1.2.3",
        "d/deeper/6.dcm": dicom_head("1.2.3"),
    }
    for key, data in files.items():
        storage.put(key, data)
    task = SlideTask(SlideId("d"), storage.locate("d/1.dcm"))
    found = relative(task, tmp_path)
    assert found.pop("slide.dcm") == files["d/1.dcm"]
    assert sorted(found.values()) == sorted(files[f"d/{name}"] for name in ("2.dcm", "4.DCM", "5.dcm"))
    assert all(name.endswith(".dcm") for name in found)


def test_a_dicom_series_in_a_bucket_is_the_slide_that_it_is_on_a_disk(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from toy_dicom import write_series

    pixels = np.full((1_100, 1_500, 3), 243, np.uint8)
    noise = np.random.default_rng(0).integers(-25, 25, (700, 1_000, 1))
    pixels[200:900, 300:1_300] = np.clip(np.array([205, 130, 175]) + noise, 0, 255)
    (tmp_path / "local").mkdir()
    first, *_ = write_series(tmp_path / "local", pixels, mpp=0.5, series="1.2.3.4")
    write_series(tmp_path / "local", pixels[::-1], mpp=0.5, series="1.2.3.5")
    for path in (tmp_path / "local").iterdir():
        S3Storage(bucket).put(path.name, path.read_bytes())
    task = SlideTask(SlideId("d"), str(first))
    local = list(decode_slide(first, task, source_hint(first), spec=SPEC, policy=POLICY))
    remote = decoded(task._replace(uri=f"s3://{bucket}/{first.name}"), tmp_path / "staging", RemoteOptions())
    assert len(local[0].coords_l0_px) > 50
    assert feature_file(remote) == feature_file(local)
    assert remote[0].reading.source == local[0].reading.source


def test_a_key_that_leaves_the_slide_s_folder_is_refused(bucket: str, tmp_path: Path) -> None:
    storage = S3Storage(bucket)
    for key in ("m.mrxs", "m/../../evil"):
        put_object(bucket, key, b"x")
    with (
        pytest.raises(SlideError) as failure,
        at_hand(SlideTask(SlideId("m"), storage.locate("m.mrxs")), str(tmp_path)),
    ):
        pass
    assert failure.value.reason is FailureReason.OPEN
    assert [path for path in tmp_path.rglob("*") if path.name == "evil"] == []


@pytest.mark.fault(42)
@pytest.mark.parametrize("remote", [RANGES, CACHED], ids=["ranges", "cached"])
def test_a_killed_reader_leaves_nothing_but_what_is_whole(
    far: SlideTask, tmp_path: Path, remote: RemoteOptions
) -> None:
    script = (
        "import sys, time\n"
        "from cluster.staging import at_hand\n"
        "from mhim_core.slides.remote import RemoteOptions, RemoteReads\n"
        "from mhim_core.types import SlideId, SlideTask\n"
        f"remote = RemoteOptions(reads=RemoteReads({remote.reads.value!r}), cache_bytes={remote.cache_bytes})\n"
        "with at_hand(SlideTask(SlideId('a'), sys.argv[1]), sys.argv[2], remote) as slide:\n"
        "    print(slide.path, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, far.uri, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        assert path.exists()
        process.send_signal(signal.SIGKILL)
    sweep_staged(tmp_path, process.pid)
    assert path.exists() == bool(remote.cache_bytes)
    assert list(tmp_path.rglob("mhim-staged-*")) == []
    assert decoded(far, tmp_path, remote)
