"""Watched folders with real daemons, a real storage node and real files; time is the test's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from support.daemon_node import SECONDS_MAX, World, call
from support.storage_node import some_bytes

from daemon.app import Daemon
from daemon.config import DaemonConfig
from protocol.errors import CommandError, ConfigError, NotFound
from runtime.places import Places


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


def test_hooks_that_cannot_be_are_wrong_settings(tmp_path: Path) -> None:
    places = Places.of(tmp_path, "daemon")
    with pytest.raises(ConfigError, match="no absolute path"):
        DaemonConfig(places=places, hook_command=("notify-send",))
    with pytest.raises(ConfigError, match="address such as"):
        DaemonConfig(places=places, hook_url="ftp://x")
