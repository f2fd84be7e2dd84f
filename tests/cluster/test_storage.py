"""Storage from an address: folder and bucket alike, and what an object store does to those who trust it."""

import multiprocessing
import os
import pickle
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cluster import s3
from cluster.s3 import S3Client, S3Place, parse_s3_uri
from cluster.storage import (
    S3Storage,
    download,
    object_hint,
    object_hints,
    object_identity,
    open_storage,
    read_bytes,
    require_put_if_absent,
    shared_client,
    supports_put_if_absent,
)
from mhim_core.errors import ConfigError, ConflictError, MhimError, NotFoundError, SlideError, StorageError
from mhim_core.slides.source_identity import source_identity
from mhim_core.storage import LocalStorage, Storage
from mhim_core.types import FailureReason

pytestmark = pytest.mark.s3

IS_MOTO = "MHIM_TEST_S3_ENDPOINT" not in os.environ
"""Which takes any signature."""


@pytest.fixture(autouse=True)
def fresh_connections() -> Iterator[None]:
    shared_client.cache_clear()
    yield
    shared_client.cache_clear()


@pytest.fixture(params=["folder", "bucket", "whole bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "store"))
    bucket = request.getfixturevalue("bucket")
    return open_storage(f"s3://{bucket}/some/prefix/" if request.param == "bucket" else f"s3://{bucket}")


@pytest.fixture
def faulty(proxy: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    return S3Storage(bucket, "run")


# the contract, for every kind


def test_what_is_put_is_got_and_replaced(storage: Storage) -> None:
    storage.put("a/b", b"one")
    storage.put("a/b", b"")
    storage.put("a/b", b"two")
    assert storage.get("a/b") == b"two"
    assert storage.locate("a/b") == f"{storage.uri}/a/b"


def test_a_missing_key_is_not_found_and_deleting_it_is_no_error(storage: Storage) -> None:
    storage.put("a/b", b"")
    for key in ("nothing", "a"):
        with pytest.raises(NotFoundError, match=key):
            storage.get(key)
    storage.delete("nothing")
    storage.delete("a/b")
    with pytest.raises(NotFoundError):
        storage.get("a/b")


def test_only_the_first_put_if_absent_writes(storage: Storage) -> None:
    assert storage.put_if_absent("a", b"first")
    assert not storage.put_if_absent("a", b"second")
    assert not storage.put_if_absent("a", b"first")
    assert storage.get("a") == b"first"
    storage.delete("a")
    assert storage.put_if_absent("a", b"third")


def test_one_of_many_concurrent_conditional_puts_wins(storage: Storage) -> None:
    barrier = threading.Barrier(6)
    won: list[int] = []

    def work(number: int) -> None:
        barrier.wait()
        if storage.put_if_absent("deep/key", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.get("deep/key") == str(won[0]).encode()


def test_listing_is_sorted_complete_fresh_and_by_folder(storage: Storage) -> None:
    assert list(storage.list("")) == []
    for key in ("b/2", "b/10", "bb/1", "a", "x=1+2/y"):
        storage.put(key, key.encode())
    assert [(entry.key, entry.num_bytes) for entry in storage.list("b")] == [("b/10", 4), ("b/2", 3)]
    assert [entry.key for entry in storage.list("")] == ["a", "b/10", "b/2", "bb/1", "x=1+2/y"]
    assert all(abs(entry.modified_s - time.time()) < 600 for entry in storage.list(""))
    storage.delete("b/2")
    assert [entry.key for entry in storage.list("b")] == ["b/10"]
    assert list(storage.list("none")) == []


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "", ".hidden", "a/../b", "a b"])
def test_keys_that_could_leave_the_root_are_refused(storage: Storage, key: str) -> None:
    with pytest.raises(ConfigError):
        storage.get(key)
    with pytest.raises(ConfigError):
        storage.put_if_absent(key, b"")


def test_it_travels_to_another_process(storage: Storage) -> None:
    storage.put("a", b"x")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.uri == storage.uri
    assert copy.get("a") == b"x"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(copy.get, ("a",)) == b"x"


def test_the_probe_finds_conditional_puts_and_leaves_nothing(storage: Storage) -> None:
    assert supports_put_if_absent(storage)
    assert list(storage.list("")) == []


@pytest.mark.skipif(not IS_MOTO, reason="about moto: a proxy that drops a signed header is refused by other servers")
@pytest.mark.fault(12)
def test_a_server_that_ignores_conditions_is_refused(proxy: Any, bucket: str) -> None:
    storage = S3Storage(bucket)
    require_put_if_absent(storage)
    proxy.drops_conditions = True
    with pytest.raises(ConflictError):
        require_put_if_absent(storage)
    assert list(storage.list("")) == []


@pytest.mark.fault(12)
def test_the_probe_finds_a_store_that_overwrites(tmp_path: Path) -> None:
    class Overwriting(LocalStorage):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            self.put(key, data)
            return True

    class Ignoring(Overwriting):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            return super().put_if_absent(key, data) and data == b"first"

    assert not supports_put_if_absent(Overwriting(tmp_path))
    assert not supports_put_if_absent(Ignoring(tmp_path))
    remote = Ignoring(tmp_path)
    remote.uri = "s3://bucket/prefix"
    with pytest.raises(ConflictError, match="ignores `If-None-Match"):
        require_put_if_absent(remote)
    require_put_if_absent(LocalStorage(tmp_path))


# addresses


def test_addresses_open_what_they_name(tmp_path: Path) -> None:
    assert isinstance(open_storage(str(tmp_path)), LocalStorage)
    assert open_storage("relative").uri == str(Path.cwd() / "relative")
    assert open_storage("s3://bucket/a/b/").uri == "s3://bucket/a/b"
    assert open_storage("s3://bucket").uri == "s3://bucket"
    assert open_storage("s3://bucket/a").locate("k") == "s3://bucket/a/k"


@pytest.mark.parametrize("uri", ["", "s3://", "s3:///key", "gs://b/k", "http://x", "s3://bucket/../other", "a\0b"])
def test_addresses_of_no_storage_are_bad_configuration(uri: str) -> None:
    with pytest.raises(ConfigError):
        open_storage(uri)


def test_only_s3_addresses_have_a_bucket() -> None:
    assert parse_s3_uri("s3://bucket/some dir/a#1?.svs") == ("bucket", "some dir/a#1?.svs")
    with pytest.raises(ConfigError):
        parse_s3_uri("/local/file")


# listing over pages


@pytest.mark.parametrize(
    ("key", "media_type"),
    [
        ("report.html", "text/html; charset=utf-8"),
        ("report/overview/s1.webp", "image/webp"),
        ("a.json", "application/json"),
        ("features/ab.parquet", "binary/octet-stream"),
    ],
)
def test_a_bucket_knows_what_a_browser_can_show(bucket: str, key: str, media_type: str) -> None:
    storage = S3Storage(bucket)
    storage.put(key, b"x")
    place = storage._place(key)
    head = storage.client.call("read", place, lambda s3: s3.head_object(Bucket=place.bucket, Key=place.key))
    assert head["ContentType"] == media_type


def test_a_listing_of_several_pages_is_whole(bucket: str) -> None:
    storage = S3Storage(bucket)
    pages: list[str] = []
    call = storage.client.call

    def small_pages(action: str, place: s3.S3Place, request: Any) -> Any:
        pages.append(action)
        request.args[0]["MaxKeys"] = 3
        return call(action, place, request)

    keys = [f"k/{number:02d}" for number in range(10)]
    for key in keys:
        storage.put(key, b"")
    storage.client.call = small_pages  # type: ignore[assignment,method-assign]
    assert [entry.key for entry in storage.list("k")] == keys
    assert len(pages) == 4


# a store that misbehaves


@pytest.mark.parametrize("fault", [503, 500, "reset", "lost"])
@pytest.mark.fault(9)
def test_passing_faults_are_waited_out_and_counted(faulty: S3Storage, proxy: Any, fault: int | str) -> None:
    proxy.faults = [fault, fault, "ok", fault, "ok", fault, "ok", fault, "ok"]
    faulty.put("a", b"x")
    assert faulty.get("a") == b"x"
    assert [entry.key for entry in faulty.list("")] == ["a"]
    faulty.delete("a")
    assert faulty.num_retries == 5
    assert proxy.num_requests == 9


@pytest.mark.parametrize("faults", [["lost"], ["lost", 503], [503, "lost", "reset"], [409]])
@pytest.mark.fault(8)
def test_a_conditional_put_whose_reply_was_lost_is_our_own(
    faulty: S3Storage, proxy: Any, faults: list[int | str]
) -> None:
    proxy.faults = faults
    assert faulty.put_if_absent("a", b"ours")
    assert faulty.get("a") == b"ours"


@pytest.mark.fault(8)
def test_a_lost_reply_does_not_claim_what_another_wrote(faulty: S3Storage, proxy: Any) -> None:
    faulty.put("a", b"theirs")
    proxy.faults = ["reset"]
    assert not faulty.put_if_absent("a", b"ours")


@pytest.mark.fault(7)
def test_a_store_that_fails_one_request_in_twenty_loses_and_doubles_nothing(faulty: S3Storage, proxy: Any) -> None:
    proxy.faults = [503 if number % 20 == 7 else "ok" for number in range(400)]
    keys = [f"k/{number:03d}" for number in range(60)]
    assert all(faulty.put_if_absent(key, key.encode()) for key in keys)
    assert [entry.key for entry in faulty.list("k")] == keys
    assert all(faulty.get(key) == key.encode() for key in keys)
    assert faulty.num_retries > 0


@pytest.mark.fault(9)
def test_endless_throttling_ends_after_the_retry_limit(
    faulty: S3Storage, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "RETRY_LIMIT_S", 4.0)
    proxy.always = 503
    started_s = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot write s3://.*SlowDown"):
        faulty.put("a", b"")
    assert time.monotonic() - started_s < 60
    assert faulty.num_retries >= 1


@pytest.mark.fault(10)
def test_denied_access_is_told_at_once_and_names_bucket_and_action(faulty: S3Storage, proxy: Any, bucket: str) -> None:
    faulty.put("a", b"x")
    proxy.always = 403
    for act, verb in (
        (lambda: faulty.get("a"), "read"),
        (lambda: faulty.put("a", b""), "write"),
        (lambda: faulty.put_if_absent("b", b""), "write"),
        (lambda: list(faulty.list("")), "list"),
        (lambda: faulty.delete("a"), "delete"),
    ):
        started_s = time.monotonic()
        with pytest.raises(StorageError, match=f"cannot {verb} s3://{bucket}/run.*denies") as caught:
            act()
        assert time.monotonic() - started_s < 3
        assert not isinstance(caught.value, NotFoundError)
        assert_without_secrets(caught.value)
    proxy.always = None
    assert faulty.get("a") == b"x"


def test_a_missing_bucket_is_a_storage_error(s3_environment: None) -> None:
    storage = S3Storage("no-such-bucket", "p")
    for act in (lambda: storage.get("a"), lambda: storage.put_if_absent("a", b""), lambda: list(storage.list(""))):
        with pytest.raises(StorageError, match="no-such-bucket does not exist") as caught:
            act()
        assert not isinstance(caught.value, NotFoundError)


def test_an_address_where_nobody_listens_is_told_within_seconds(
    s3_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(s3, "FIRST_RETRY_LIMIT_S", 1.0)
    with pytest.raises(StorageError, match=r"cannot read s3://bucket/a: no connection.*AWS_ENDPOINT_URL"):
        S3Storage("bucket").get("a")


def test_missing_credentials_are_told_at_once(s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    started_s = time.monotonic()
    with pytest.raises(StorageError, match="no credentials"):
        S3Storage("bucket").put("a", b"")
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("code", ["UserSuspended", "QuotaExceeded"])
@pytest.mark.fault(10)
def test_a_403_of_a_store_s_own_code_is_denied_access_too(s3_environment: None, code: str) -> None:
    """Those of radosgw."""
    reply: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def refuse(_: object) -> None:
        raise ClientError(reply, "PutObject")

    client = S3Client()
    with pytest.raises(StorageError, match=f"denies access .{code}"):
        client.call("write", S3Place("bucket", "a"), refuse)
    assert client.num_retries == 0


@pytest.mark.fault(9)
def test_a_store_that_takes_requests_and_answers_none_is_told_from_one_that_drops_them(
    s3_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(s3, "RETRY_LIMIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"no answer for 0\.2 s"):
            S3Storage("bucket").get("a")


@pytest.mark.skipif(IS_MOTO, reason="moto checks no signatures; `make test-s3` has a server that does")
@pytest.mark.parametrize(
    ("name", "code"), [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")]
)
@pytest.mark.fault(10)
def test_wrong_credentials_are_told_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    storage = S3Storage(bucket)
    storage.put("a", b"x")
    monkeypatch.setenv(name, "wrong")
    for act in (lambda: storage.get("a"), lambda: storage.put_if_absent("b", b""), lambda: list(storage.list(""))):
        with pytest.raises(StorageError, match=f"denies access .{code}"):
            act()
    with pytest.raises(StorageError, match="denies access"):
        object_hint(storage.locate("a"))
    assert storage.num_retries == 0


def test_secrets_do_not_travel_with_a_storage(bucket: str) -> None:
    storage = S3Storage(bucket)
    storage.put("a", b"")
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in pickle.dumps(storage)


def assert_without_secrets(error: MhimError) -> None:
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(error)
    assert os.environ["AWS_ACCESS_KEY_ID"] not in str(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_connection(bucket: str) -> None:
    storage = S3Storage(bucket)
    storage.put("a", b"x")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(storage.get, ("a",)).get(timeout=30) == b"x"
    assert storage.get("a") == b"x"


# single objects


@pytest.mark.parametrize("num_bytes", [0, 1, 65_536, 2_000_000])
def test_an_object_has_the_identity_of_the_same_file_and_is_not_read_whole(
    faulty: S3Storage, proxy: Any, tmp_path: Path, num_bytes: int
) -> None:
    data = random.Random(num_bytes).randbytes(num_bytes)
    (tmp_path / "a.svs").write_bytes(data)
    faulty.put("a.svs", data)
    before = proxy.num_requests
    assert object_identity(f"{faulty.uri}/a.svs") == source_identity(tmp_path / "a.svs")
    assert proxy.num_requests - before == {0: 1, 1: 2, 65_536: 2, 2_000_000: 11}[num_bytes]
    with pytest.raises(NotFoundError):
        object_identity(f"{faulty.uri}/b.svs")


def test_an_object_is_downloaded_whole_or_not_at_all(bucket: str, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    S3Storage(bucket).put("slides/a.svs", data)
    download(f"s3://{bucket}/slides/a.svs", tmp_path / "a.svs")
    assert (tmp_path / "a.svs").read_bytes() == data
    assert read_bytes(f"s3://{bucket}/slides/a.svs") == data
    with pytest.raises(NotFoundError):
        download(f"s3://{bucket}/slides/b.svs", tmp_path / "b.svs")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svs"]


@pytest.mark.parametrize("fault", [503, "reset"])
def test_a_download_is_tried_again(faulty: S3Storage, proxy: Any, tmp_path: Path, fault: int | str) -> None:
    faulty.put("a", b"x" * 100_000)
    proxy.faults = [fault, fault]
    download(faulty.locate("a"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"x" * 100_000


def test_a_full_disk_is_no_space_and_leaves_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3Storage(bucket).put("a", b"x")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SlideError) as caught:
        download(f"s3://{bucket}/a", tmp_path / "a")
    assert caught.value.reason is FailureReason.NO_SPACE
    assert list(tmp_path.iterdir()) == []


def test_an_object_s_hint_changes_with_its_content_and_only_then(bucket: str) -> None:
    storage = S3Storage(bucket)
    uri = storage.locate("a")
    storage.put("a", b"one")
    first = object_hint(uri)
    assert (first.uri, first.num_bytes) == (uri, 3)
    storage.put("a", b"one")
    assert object_hint(uri) == first
    storage.put("a", b"two")
    assert object_hint(uri) != first
    with pytest.raises(NotFoundError):
        object_hint(storage.locate("b"))


def test_hints_of_one_folder_come_from_its_listing_and_equal_those_asked_one_by_one(proxy: Any, bucket: str) -> None:
    keys = [f"slides/ä {index:02} + b.svs" for index in range(40)] + ["slides/deeper/a.svs", "b.svs"]
    for key in keys:
        S3Client().call(
            "write", S3Place(bucket, key), lambda s3, key=key: s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        )
    uris = [f"s3://{bucket}/{key}" for key in keys]
    absent = [f"s3://{bucket}/slides/gone.svs", f"s3://{bucket}/other/gone.svs"]
    before = proxy.num_requests
    hints = object_hints([*uris, *absent])
    assert proxy.num_requests - before == 1 + 4  # a page of slides/; one HEAD for each that lies alone or is not there
    assert hints == {uri: object_hint(uri) for uri in uris}


def test_who_may_not_list_still_sees_each_object(proxy: Any, bucket: str) -> None:
    storage = S3Storage(bucket)
    for index in range(8):
        storage.put(f"slides/{index}.svs", b"x")
    uris = [storage.locate(f"slides/{index}.svs") for index in range(8)]
    proxy.faults = [403]
    assert list(object_hints(uris)) == uris


def test_a_local_file_is_read_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert read_bytes(str(tmp_path / "a")) == b"x"
    with pytest.raises(NotFoundError):
        read_bytes(str(tmp_path / "b"))
    with pytest.raises(StorageError):
        read_bytes(str(tmp_path))


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/null"):
        with pytest.raises(StorageError, match=f"{path}: .*not a file"):
            read_bytes(path)


def test_a_process_connects_once_however_many_storages_it_opens(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, made = s3._connect, []
    monkeypatch.setattr(s3, "_CONNECTIONS", {})
    monkeypatch.setattr(s3, "_connect", lambda: made.append(1) or connect())
    for prefix in ("a", "b", "a"):
        storage = open_storage(f"s3://{bucket}/{prefix}")
        storage.put("x", b"1")
        assert pickle.loads(pickle.dumps(storage)).get("x") == b"1"
    assert len(made) == 1
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    open_storage(f"s3://{bucket}/a").get("x")
    assert len(made) == 2, "other credentials are another connection"
