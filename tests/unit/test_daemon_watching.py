"""Watched folders with real daemons, a real storage node and real files; time is the test's."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from support.daemon_node import SECONDS_MAX, World, call
from support.storage_node import some_bytes

from daemon.app import Daemon
from daemon.config import DaemonConfig
from daemon.watching import FAILED_SECONDS
from protocol.errors import CommandError, ConfigError, NotFound, StorageFull
from runtime.database import SqliteDatabase
from runtime.places import Places
from runtime.real import RealDisk
from runtime.seam import File, FileStatus


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(SECONDS_MAX * 10):
        while not condition():
            await trio.sleep(0.5)


def stored(daemon: Daemon) -> list[str]:
    return sorted(event["name"] for event in daemon.events.since() if event["event"] == "put stored")


async def test_files_that_stay_unchanged_are_put_once(world: World, autojump_clock: object) -> None:
    folder = world.folder / "watched"
    (folder / "sub").mkdir(parents=True)
    (folder / "early").write_bytes(some_bytes(1000))
    async with world.running():
        async with world.daemon(watch=(folder,)) as daemon:
            (folder / "sub" / "late").write_bytes(some_bytes(2000))
            (folder / ".hidden").write_bytes(b"x")
            await until(lambda: stored(daemon) == ["early", "sub/late"])
            await until(lambda: daemon.watching.to_json()[0]["done"] == 2)
            (folder / "early").write_bytes(some_bytes(1500))
            await until(lambda: stored(daemon) == ["early", "early", "sub/late"])
            await until(lambda: daemon.watching.to_json()[0]["putting"] == 0)
        async with world.daemon(watch=(folder,)) as daemon:
            (folder / "later").write_bytes(some_bytes(700))
            await until(lambda: stored(daemon) == ["later"])


async def test_moved_and_deleted_files_do_not_confuse_it(world: World, autojump_clock: object) -> None:
    folder = world.folder / "watched"
    folder.mkdir()
    (folder / "a").write_bytes(some_bytes(1000))
    (folder / "b").write_bytes(some_bytes(1200))
    async with world.running(), world.daemon() as daemon:
        answer = await call(daemon, "watch_add", path=str(folder))
        assert [one["path"] for one in answer["folders"]] == [str(folder)]
        await until(lambda: daemon.watching.to_json()[0]["done"] == 2)
        (folder / "a").rename(folder / "moved")
        (folder / "b").unlink()
        await until(lambda: "moved" in stored(daemon))
        await until(lambda: daemon.watching.to_json()[0]["done"] == 1)
        (folder / "b").write_bytes(some_bytes(1200))
        await until(lambda: stored(daemon).count("b") == 2)
        folder.rename(world.folder / "elsewhere")
        await until(lambda: daemon.watching.to_json()[0]["trouble"] == "No such file or directory")
        (world.folder / "elsewhere").rename(folder)
        await until(lambda: not daemon.watching.to_json()[0]["trouble"])
        assert stored(daemon) == ["a", "b", "b", "moved"]


async def test_folders_are_added_listed_and_removed(world: World, autojump_clock: object) -> None:
    folder, fixed = world.folder / "watched", world.folder / "fixed"
    folder.mkdir()
    fixed.mkdir()
    async with world.daemon(watch=(fixed,)) as daemon:
        await call(daemon, "watch_add", path=str(folder))
        await call(daemon, "watch_add", path=str(folder))
        with pytest.raises(CommandError, match="watched because the settings"):
            await call(daemon, "watch_remove", path=str(fixed))
        with pytest.raises(CommandError):
            await call(daemon, "watch_add", path=str(folder / "absent"))
        with pytest.raises(CommandError, match="absolute"):
            await call(daemon, "watch_add", path="relative")
    async with world.daemon(watch=(fixed,)) as daemon:
        listed = (await call(daemon, "watch_list"))["folders"]
        assert [(one["path"], one["configured"]) for one in listed] == [(str(fixed), True), (str(folder), False)]
        assert len((await call(daemon, "watch_remove", path=str(folder)))["folders"]) == 1
        with pytest.raises(NotFound):
            await call(daemon, "watch_remove", path=str(folder))


async def test_a_disk_that_is_not_mounted_for_a_while_is_not_put_again(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.folder / "watched"
    disk, elsewhere = folder / "disk", world.folder / "elsewhere"
    (disk / "sub").mkdir(parents=True)
    (disk / "sub" / "kept").write_bytes(some_bytes(1000))
    (disk / "deleted").write_bytes(some_bytes(1200))
    number = {disk: 7}
    status = RealDisk.status

    def status_on_disk(self: RealDisk, path: Path) -> FileStatus:
        found = status(self, path)
        return replace(found, device=number[disk]) if disk in (path, *path.parents) and disk in number else found

    monkeypatch.setattr(RealDisk, "status", status_on_disk)
    async with world.running(), world.daemon(watch=(folder,)) as daemon:

        async def until_looked_at(name: str) -> None:
            (folder / name).write_bytes(name.encode())
            await until(lambda: name in stored(daemon))

        await until(lambda: daemon.watching.to_json()[0]["done"] == 2)
        disk.rename(elsewhere)
        disk.mkdir()
        del number[disk]
        await until_looked_at("while it is away")
        assert daemon.watching.to_json()[0]["done"] == 3
        disk.rmdir()
        elsewhere.rename(disk)
        number[disk] = 8
        await until_looked_at("when it is back")
        assert stored(daemon) == ["disk/deleted", "disk/sub/kept", "when it is back", "while it is away"]
        assert daemon.watching.to_json()[0]["done"] == 4
        (disk / "deleted").unlink()
        await until(lambda: daemon.watching.to_json()[0]["done"] == 3)


async def test_what_is_below_a_folder_that_cannot_be_read_for_a_while_is_not_put_again(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.folder / "watched"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(some_bytes(1000))
    broken: list[Path] = []
    list_folder = RealDisk.list_folder

    def list_what_works(self: RealDisk, path: Path) -> list[str]:
        if path in broken:
            raise OSError(errno.ESTALE, "Stale file handle")
        return list_folder(self, path)

    monkeypatch.setattr(RealDisk, "list_folder", list_what_works)
    async with world.running(), world.daemon(watch=(folder,)) as daemon:
        await until(lambda: daemon.watching.to_json()[0]["done"] == 1)
        broken.append(folder / "sub")
        (folder / "a").write_bytes(b"a")
        await until(lambda: "a" in stored(daemon))
        broken.clear()
        (folder / "b").write_bytes(b"b")
        await until(lambda: "b" in stored(daemon))
        assert stored(daemon) == ["a", "b", "sub/file"] and daemon.watching.to_json()[0]["done"] == 3


async def test_a_full_disk_of_our_own_ends_nothing(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.folder / "watched"
    folder.mkdir()
    (folder / "early").write_bytes(some_bytes(1000))
    (folder / "deleted").write_bytes(some_bytes(1100))
    async with world.running(), world.daemon(watch=(folder,)) as daemon:
        await until(lambda: daemon.watching.to_json()[0]["done"] == 2)
        transaction = SqliteDatabase.transaction
        with monkeypatch.context() as full:

            async def refuse(self: SqliteDatabase, work: Callable[[Any], Any]) -> Any:
                if self is daemon.watching._database:
                    raise StorageFull("daemon.db: database or disk is full")
                return await transaction(self, work)

            full.setattr(SqliteDatabase, "transaction", refuse)
            (folder / "deleted").unlink()
            (folder / "late").write_bytes(some_bytes(1300))
            await until(lambda: "full" in daemon.watching.to_json()[0]["trouble"])
            assert daemon.watching.to_json()[0]["done"] == 1
        await until(lambda: stored(daemon) == ["deleted", "early", "late"])
        await until(lambda: daemon.watching.to_json()[0]["trouble"] == "")


async def test_files_that_cannot_be_put_are_told_of_until_they_can(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.folder / "watched"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(name.encode())
    locked = {folder / "b", folder / "c"}
    open_below = RealDisk.open_below

    def open_what_is_not_locked(self: RealDisk, below: Path, path: Path) -> File:
        if path in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_below(self, below, path)

    monkeypatch.setattr(RealDisk, "open_below", open_what_is_not_locked)
    async with world.running(), world.daemon(watch=(folder,)) as daemon:
        await until(lambda: "may not read it" in daemon.watching.to_json()[0]["trouble"])
        await until(lambda: daemon.watching.to_json()[0]["trouble"].endswith("; and 1 more"))
        (folder / "b").unlink()
        await until(
            lambda: daemon.watching.to_json()[0]["trouble"].endswith(
                "c: the daemon may not read it (Permission denied)"
            )
        )
        locked.clear()
        await until(lambda: stored(daemon) == ["a", "c"])
        await until(lambda: daemon.watching.to_json()[0]["trouble"] == "")


async def test_a_put_that_somebody_cancelled_is_left_alone_until_the_file_changes(
    world: World, autojump_clock: object
) -> None:
    folder = world.folder / "watched"
    folder.mkdir()
    (folder / "file").write_bytes(some_bytes(1000))
    async with world.daemon(watch=(folder,)) as daemon:  # without a storage node: it waits
        await until(lambda: len(daemon.puts.active()) == 1)
        await call(daemon, "cancel", id=daemon.puts.active()[0].id)
        await until(lambda: daemon.watching.to_json()[0]["putting"] == 0)
        await trio.sleep(2 * FAILED_SECONDS)
        assert daemon.puts.active() == []
        (folder / "file").write_bytes(some_bytes(1001))
        await until(lambda: len(daemon.puts.active()) == 1)


def test_hooks_that_cannot_be_are_wrong_settings(tmp_path: Path) -> None:
    places = Places.of(tmp_path, "daemon")
    with pytest.raises(ConfigError, match="no absolute path"):
        DaemonConfig(places=places, hook_command=("notify-send",))
    with pytest.raises(ConfigError, match="address such as"):
        DaemonConfig(places=places, hook_url="ftp://x")
