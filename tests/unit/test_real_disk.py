"""The disk of this machine, as the seam promises it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from protocol.errors import ConfigError, StorageBroken, StorageFull
from runtime import real
from runtime.real import RealDisk

DISK = RealDisk()


def error_of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_file_is_written_and_read_anywhere(tmp_path: Path) -> None:
    file = DISK.open_write(tmp_path / "file")
    file.write(b"world", 6)
    file.write(memoryview(b"hello,"), 0)
    file.sync()
    target = bytearray(20)
    assert file.read_into(memoryview(target), 0) == 11 and target[:11] == b"hello,world"
    assert file.read_into(memoryview(target)[:5], 6) == 5 and target[:5] == b"world"
    assert file.read_into(memoryview(target), 11) == 0
    status = file.status()
    assert (status.kind, status.size_bytes) == ("file", 11)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    file.close()
    file.close()
    again = DISK.open_write(tmp_path / "file")
    assert again.status().size_bytes == 11, "kept when it is there"
    again.close()


def test_what_need_not_stay_in_memory_is_still_in_the_file(tmp_path: Path) -> None:
    file = DISK.open_write(tmp_path / "file")
    data = os.urandom(1 << 20)
    file.write(data, 0)
    file.sync()
    file.uncache(0, len(data))
    target = memoryview(bytearray(len(data)))
    assert file.read_into(target, 0) == len(data) and target == data
    file.close()
    file.uncache(0, len(data))  # a hint: nobody hears of it


def test_a_file_grows_with_room_reserved_and_shrinks(tmp_path: Path) -> None:
    file = DISK.open_write(tmp_path / "file")
    file.write(b"abc", 0)
    file.resize(100_000)
    assert file.status().size_bytes == 100_000
    file.resize(2)
    target = bytearray(5)
    assert file.read_into(memoryview(target), 0) == 2
    file.close()


def test_in_memory_room_is_looked_for_and_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "_is_memory", lambda device: True)
    file = DISK.open_write(tmp_path / "file")
    file.resize(50 * 1024 * 1024)
    status = (tmp_path / "file").stat()
    assert status.st_size == 50 * 1024 * 1024 and status.st_blocks * 512 < 1024 * 1024
    room = DISK.free_bytes(tmp_path)
    with pytest.raises(StorageFull):
        file.resize(50 * 1024 * 1024 + 2 * room)
    assert (tmp_path / "file").stat().st_size == 50 * 1024 * 1024
    file.close()


def test_what_is_in_memory_is_known_by_its_device() -> None:
    shared, other = Path("/dev/shm"), Path("/proc")
    assert real._is_memory(shared.stat().st_dev)
    assert not real._is_memory(other.stat().st_dev)
    assert not real._is_memory(os.makedev(4095, 255))


def test_where_room_cannot_be_reserved_the_file_grows_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error_of(errno.EOPNOTSUPP)

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = DISK.open_write(tmp_path / "file")
    file.resize(5000)
    assert file.status().size_bytes == 5000
    file.close()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, StorageBroken),
        (errno.EROFS, StorageBroken),
    ],
)
def test_every_write_that_fails_is_full_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error_of(number)

    file = DISK.open_write(tmp_path / "file")
    (tmp_path / "source").write_bytes(b"x")
    with monkeypatch.context() as patch:
        for name in ("pwrite", "posix_fallocate", "ftruncate", "link", "write"):
            patch.setattr(os, name, fail)
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, fail)
        patch.setattr(Path, "mkdir", fail)
        for attempt in (
            lambda: file.write(b"x", 0),
            lambda: file.resize(10),
            lambda: DISK.rename(tmp_path / "source", tmp_path / "target"),
            lambda: DISK.link_new(tmp_path / "source", tmp_path / "target"),
            lambda: DISK.remove(tmp_path / "source"),
            lambda: DISK.make_folder(tmp_path / "new"),
        ):
            with pytest.raises(expected):
                attempt()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(expected):
            DISK.write_small(tmp_path / "small", b"x")
    file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source"], "no torn beginning is left"


def test_a_failed_sync_is_broken_storage_whatever_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error_of(errno.ENOSPC)

    file = DISK.open_write(tmp_path / "file")
    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageBroken):
        file.sync()
    with pytest.raises(StorageBroken):
        DISK.sync_folder(tmp_path)
    file.close()


def test_links_pipes_and_folders_are_not_opened_as_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    for name in ("link", "pipe", "socket", "absent", "."):
        with pytest.raises(OSError):
            DISK.open_read(tmp_path / name)
    followed = DISK.open_read(tmp_path / "link", follow=True)
    assert followed.status().kind == "file"
    followed.close()
    with pytest.raises(StorageBroken):
        DISK.open_write(tmp_path / "link")
    kinds = {name: DISK.status(tmp_path / name).kind for name in DISK.list_folder(tmp_path)}
    assert kinds == {"file": "file", "link": "link", "pipe": "other", "socket": "other"}
    assert DISK.status(tmp_path).kind == "folder"


def test_descriptors_are_not_left_open_by_what_was_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(OSError):
            DISK.open_read(tmp_path / "pipe")
        with pytest.raises(OSError):
            DISK.open_read(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_small_file_is_replaced_as_a_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "small"
    DISK.write_small(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    DISK.write_small(path, b"two", mode=0o644)
    assert path.stat().st_mode & 0o777 == 0o644 and DISK.read_small(path) == b"two"
    assert DISK.list_folder(tmp_path) == ["small"]
    with pytest.raises(OSError, match="more than 2 bytes"):
        DISK.read_small(path, 2)
    with pytest.raises(FileNotFoundError):
        DISK.read_small(tmp_path / "absent")


def test_a_small_file_is_durable_before_it_has_its_name_and_the_name_before_we_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        steps.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    DISK.write_small(tmp_path / "small", b"x")
    assert steps == ["sync file", "rename", "sync folder"]


def test_threads_that_write_the_same_small_file_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "small"

    def write(letter: bytes) -> None:
        for _ in range(20):
            DISK.write_small(path, letter * 5000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 5000, b"b" * 5000, b"c" * 5000)
    assert DISK.list_folder(tmp_path) == ["small"]


def test_folders_are_made_with_their_parents_and_may_be_there(tmp_path: Path) -> None:
    DISK.make_folder(tmp_path / "a" / "b")
    DISK.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageBroken):
        DISK.make_folder(tmp_path / "file" / "c")


def test_a_public_folder_has_the_mode_of_this_users_new_folders(tmp_path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    DISK.make_folder(tmp_path / "a" / "b", public=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o777 & ~mask


def test_threads_that_ask_for_the_umask_together_leave_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = os.umask(0o027)
    try:
        inside = threading.Barrier(2)
        set_umask = os.umask

        def slow_umask(new: int) -> int:
            before = set_umask(new)
            if new == 0o077:
                # Long enough for whoever else may come to be here, too.
                with contextlib.suppress(threading.BrokenBarrierError):
                    inside.wait(0.2)
            return before

        monkeypatch.setattr(real.os, "umask", slow_umask)
        real._read_umask.cache_clear()
        seen: list[int] = []
        threads = [threading.Thread(target=lambda: seen.append(real._umask())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        monkeypatch.undo()
        assert seen == [0o027, 0o027] and os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
        real._read_umask.cache_clear()


def test_renaming_replaces_linking_does_not_and_removing_twice_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    assert not DISK.link_new(tmp_path / "a", tmp_path / "b")
    assert DISK.link_new(tmp_path / "a", tmp_path / "c") and (tmp_path / "c").read_bytes() == b"a"
    DISK.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a" and DISK.list_folder(tmp_path) == ["b", "c"]
    DISK.remove(tmp_path / "b")
    DISK.remove(tmp_path / "b")
    assert DISK.list_folder(tmp_path) == ["c"]
    assert DISK.free_bytes(tmp_path) > 0


def test_a_secret_that_others_can_touch_is_refused_with_the_right_mode(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    DISK.write_small(path, b"secret")
    assert DISK.read_secret(path) == b"secret"
    for mode in (0o640, 0o604, 0o666, 0o610):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=rf"key\.pem: mode {mode:04o}.*0600"):
            DISK.read_secret(path)


async def test_a_socket_that_died_before_we_took_it_does_not_stop_the_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = real.TcpNetwork()
    listener = await network.listen("127.0.0.1", 0)
    assert isinstance(listener, real.TcpListener)
    real_socket = listener._socket
    failures = [errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.EPROTO]

    class Flaky:
        async def accept(self) -> object:
            if failures:
                raise error_of(failures.pop(0))
            return await real_socket.accept()

        def close(self) -> None:
            real_socket.close()

    monkeypatch.setattr(listener, "_socket", Flaky())
    monkeypatch.setattr(real, "ACCEPT_PAUSE_SECONDS", 0.01)
    host, port = real_socket.getsockname()
    client = await network.dial(host, port)
    stream = await listener.accept()
    assert not failures
    for thing in (client, stream, listener):
        thing.close()


def test_a_published_file_has_the_mode_of_this_users_new_files(tmp_path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    DISK.open_write(tmp_path / "part").close()
    DISK.publish(tmp_path / "part")
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(StorageBroken, match="chmod"):
        DISK.publish(tmp_path / "absent")
    (tmp_path / "link").symlink_to("part")
    with pytest.raises(StorageBroken, match="chmod"):
        DISK.publish(tmp_path / "link")


def test_a_file_system_without_modes_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise error_of(errno.EPERM)

    DISK.open_write(tmp_path / "part").close()
    monkeypatch.setattr(real.os, "fchmod", refuse)
    DISK.publish(tmp_path / "part")
