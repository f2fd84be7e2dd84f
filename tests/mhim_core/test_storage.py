"""The local storage: atomic, conditional, and never outside its root."""

import errno
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from mhim_core.errors import ConfigError, NotFoundError, StorageError
from mhim_core.storage import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


def test_what_is_put_is_got_and_replaced(storage: LocalStorage) -> None:
    storage.put("a/b", b"one")
    storage.put("a/b", b"two")
    assert storage.get("a/b") == b"two"
    assert storage.locate("a/b") == str(storage.root / "a/b")


def test_a_missing_key_is_not_found_and_deleting_it_is_no_error(storage: LocalStorage) -> None:
    storage.delete("nothing")
    storage.put("folder/key", b"")
    for key in ("nothing", "folder", "folder/key/below"):
        with pytest.raises(NotFoundError):
            storage.get(key)


def test_only_the_first_put_if_absent_writes(storage: LocalStorage) -> None:
    assert storage.put_if_absent("a", b"first")
    assert not storage.put_if_absent("a", b"second")
    assert storage.get("a") == b"first"


def test_one_of_many_concurrent_conditional_puts_wins(storage: LocalStorage) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def work(number: int) -> None:
        barrier.wait()
        if storage.put_if_absent("deep/key", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.get("deep/key") == str(won[0]).encode()
    assert [path.name for path in (storage.root / "deep").iterdir()] == ["key"]


def test_listing_is_sorted_complete_and_by_folder(storage: LocalStorage) -> None:
    assert list(storage.list("")) == []
    for key in ("b/2", "b/10", "bb/1", "a"):
        storage.put(key, key.encode())
    (storage.root / "b" / ".tmp-left-behind").write_bytes(b"x")
    assert [(entry.key, entry.num_bytes) for entry in storage.list("b")] == [("b/10", 4), ("b/2", 3)]
    assert [entry.key for entry in storage.list("")] == ["a", "b/10", "b/2", "bb/1"]
    assert list(storage.list("none")) == []


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "", ".hidden", "a/../b", "a\0", "a b", "x" * 1000, "a/"])
@pytest.mark.fault(27)
def test_keys_that_could_leave_the_root_are_refused(storage: LocalStorage, key: str) -> None:
    for act in (
        storage.get,
        storage.delete,
        lambda key: storage.put(key, b""),
        lambda key: storage.put_if_absent(key, b""),
    ):
        with pytest.raises(ConfigError):
            act(key)


def test_a_root_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        LocalStorage(tmp_path / "file" / "store").put("a", b"")


@pytest.mark.fault(14)
def test_a_failed_write_leaves_nothing(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write in (storage.put, storage.put_if_absent):
        with pytest.raises(StorageError, match="No space left"):
            write("folder/a", b"x" * 1000)
    assert list((storage.root / "folder").iterdir()) == []


def test_it_travels_to_other_processes(storage: LocalStorage) -> None:
    storage.put("a", b"x")
    assert pickle.loads(pickle.dumps(storage)).get("a") == b"x"


def test_a_file_where_a_folder_should_be_is_a_storage_error_not_a_taken_key(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("taken", b"1")
    with pytest.raises(StorageError, match="in the way"):
        storage.put("taken/below", b"2")
    with pytest.raises(StorageError, match="in the way"):
        storage.put_if_absent("taken/below", b"2")


def test_what_a_file_is_in_the_way_of_is_not_there_to_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    LocalStorage(tmp_path / "file").delete("key")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_key_with_a_line_break_at_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        LocalStorage(tmp_path).put("key\n", b"1")


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A file system without hard links, such as exFAT."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    return monkeypatch


def test_without_hard_links_only_the_first_put_if_absent_writes(
    storage: LocalStorage, no_links: pytest.MonkeyPatch
) -> None:
    assert storage.put_if_absent("folder/a", b"first")
    assert not storage.put_if_absent("folder/a", b"second")
    assert storage.get("folder/a") == b"first"
    assert [path.name for path in (storage.root / "folder").iterdir()] == ["a"]


def test_without_any_atomic_way_it_is_told_why(storage: LocalStorage, no_links: pytest.MonkeyPatch) -> None:
    no_links.setattr("ctypes.CDLL", lambda *_, **__: object())
    with pytest.raises(StorageError, match="neither hard links nor"):
        storage.put_if_absent("folder/a", b"first")
    assert list((storage.root / "folder").iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o027, 0o077])
def test_whom_files_are_shared_with_is_for_the_umask_to_say(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        storage = LocalStorage(tmp_path / "store")
        storage.put("a/put", b"")
        storage.put_if_absent("a/once", b"")
    finally:
        os.umask(before)
    modes = {name: (storage.root / name).stat().st_mode & 0o777 for name in ("a", "a/put", "a/once")}
    assert modes == {"a": 0o777 & ~umask, "a/put": 0o666 & ~umask, "a/once": 0o666 & ~umask}


@pytest.mark.fault(45)
def test_nothing_is_written_through_a_link_that_another_user_has_planted(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "target").write_bytes(b"theirs")
    storage.put("names/first", b"")
    (storage.root / "names/promotions").symlink_to(elsewhere)
    storage.put("names/promotions/own", b"by a link of this user's own")
    assert (elsewhere / "own").exists()

    stranger = 54321
    monkeypatch.setattr(
        "mhim_core.storage._owner", lambda path: stranger if path.name == "promotions" else path.lstat().st_uid
    )
    for write in (storage.put, storage.put_if_absent):
        for key in ("names/promotions/000001.json", "names/promotions/deeper/000001.json"):
            with pytest.raises(StorageError, match=f"names/promotions: it is a link to {elsewhere} .*{stranger}"):
                write(key, b"ours")
    with pytest.raises(StorageError, match="it is a link to"):
        storage.delete("names/promotions/target")
    with pytest.raises(StorageError, match="it is a link to"):
        storage.sweep("names/promotions", 0)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["own", "target"]
    assert storage.put_if_absent("names/second", b""), "the other folders are in use"


def test_what_lies_behind_a_link_is_listed_once_and_a_loop_ends(storage: LocalStorage, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deeper").mkdir(parents=True)
    for name in ("a", "deeper/b"):
        (elsewhere / name).write_bytes(b"x")
    storage.put("own/c", b"x")
    (storage.root / "linked").symlink_to(elsewhere)
    (storage.root / "own/loop").symlink_to(storage.root)
    (elsewhere / "back").symlink_to(elsewhere)
    assert [entry.key for entry in storage.list("")] == ["linked/a", "linked/deeper/b", "own/c"]
    assert [entry.key for entry in storage.list("linked/deeper")] == ["linked/deeper/b"]


def test_a_folder_or_a_link_that_cannot_be_looked_at_is_told_and_not_empty(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("commits/x/a", b"")
    storage.put("commits/y/b", b"")
    (storage.root / "commits/z").symlink_to(storage.root / "nowhere")
    with pytest.raises(StorageError, match=r"z is a link to .*nowhere, which is not there"):
        list(storage.list("commits"))
    (storage.root / "commits/z").unlink()
    scandir = os.scandir

    def refusing(folder: str) -> Any:
        if str(folder).endswith("x"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(StorageError, match=r"cannot list .*x: Permission denied"):
        list(storage.list("commits"))
    assert [entry.key for entry in storage.list("commits/y")] == ["commits/y/b"]
    assert list(storage.list("absent")) == list(storage.list("commits/y/b")) == []


@pytest.mark.fault(45)
def test_an_object_whose_name_is_a_link_replaces_it_or_is_taken_and_the_root_may_be_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    storage = LocalStorage(tmp_path / "root")
    for name in ("one", "two"):
        (tmp_path / "real" / name).symlink_to(target)
    (tmp_path / "real/three").symlink_to(tmp_path / "nowhere")
    assert not storage.put_if_absent("one", b"ours")
    assert not storage.put_if_absent("three", b"ours")
    storage.put("two", b"ours")
    assert (target.read_bytes(), storage.get("two"), (tmp_path / "nowhere").exists()) == (b"theirs", b"ours", False)


def test_a_pipe_or_a_device_is_refused_at_once_and_a_folder_is_no_key(storage: LocalStorage) -> None:
    storage.put("folder/file", b"x")
    os.mkfifo(storage.root / "pipe")
    (storage.root / "device").symlink_to("/dev/null")
    for key in ("pipe", "device"):
        with pytest.raises(StorageError, match=f"{key}: .*not a file"):
            storage.get(key)
    with pytest.raises(NotFoundError):
        storage.get("folder")
    num_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError):
        storage.get("pipe")
    assert len(os.listdir("/proc/self/fd")) == num_open
