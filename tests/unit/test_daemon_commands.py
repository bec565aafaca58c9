"""The control methods: what they answer, what they refuse, and what they leave behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from support.daemon_node import SECONDS_MAX, World
from support.runtimes import memory_runtime
from support.storage_node import manifest_of, some_bytes

from daemon.app import Daemon, opened
from daemon.commands import methods_of
from daemon.config import DaemonConfig
from daemon.walking import find_files
from protocol.errors import CommandError, ConfigError, NotFound
from protocol.limits import MIB
from runtime.places import Places
from runtime.real import RealDisk


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Caller:
    """Calls methods and remembers the notifications."""

    def __init__(self, daemon: Daemon) -> None:
        self.notices: list[tuple[str, dict[str, Any]]] = []
        self._methods = methods_of(daemon)

    async def __call__(self, method: str, **params: Any) -> Any:
        with trio.fail_after(SECONDS_MAX):
            return await self._methods[method](params, self._notify)

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        self.notices.append((method, params))


async def test_put_tells_progress_and_ends_with_results(world: World, autojump_clock: object) -> None:
    data = some_bytes(4 * MIB)
    async with world.tracker.running(), world.site.storage(), world.daemon() as daemon:
        world.tracker.assigned = world.site.address
        call = Caller(daemon)
        answer = await call("put", paths=[str(world.file("film", data))])
        (result,) = answer["results"]
        assert result["state"] == "stored" and result["tag"] == str(manifest_of(data).tag)
        assert result["size"] == len(data) and result["name"] == "film" and result["instant"] is False
        assert result["link"].startswith("upswarm:") and result["seconds"] >= 0
        assert result["pushed"] == {daemon.node: len(data)}
        states = [params["state"] for method, params in call.notices if method == "progress"]
        assert states[-1] == "stored" and set(states) <= {"hashing", "asking", "sending", "committing", "stored"}
        last = call.notices[-1][1]
        assert last["bytes_stored"] == last["bytes_total"] == len(data) and last["safe"] is True
        again = await call("put", paths=[str(world.file("copy", data))])
        assert again["results"][0]["instant"] is True


async def test_put_of_a_folder_puts_every_file_below_it_under_its_relative_name(
    world: World, autojump_clock: object
) -> None:
    async with world.tracker.running(), world.site.storage(), world.daemon() as daemon:
        world.tracker.assigned = world.site.address
        for name in ("a.txt", "sub/b.txt", "sub/deep/c.txt"):
            world.file(f"tree/{name}", name.encode())
        (world.folder / "files" / "tree" / "link").symlink_to("a.txt")
        answer = await Caller(daemon)("put", paths=[str(world.folder / "files" / "tree")])
        assert {result["name"] for result in answer["results"]} == {"a.txt", "sub/b.txt", "sub/deep/c.txt"}
        assert {result["state"] for result in answer["results"]} == {"stored"}
        assert [one["path"].rsplit("/", 1)[1] for one in answer["skipped"]] == ["link"]


async def test_put_without_waiting_answers_at_once(world: World, autojump_clock: object) -> None:
    async with world.daemon() as daemon:
        answer = await Caller(daemon)("put", paths=[str(world.file("film", b"x"))], wait="no")
        assert answer["results"][0]["state"] == "hashing" and answer["results"][0]["id"] == "p1"


async def test_put_returns_when_it_is_safe_if_that_is_asked(world: World, autojump_clock: object) -> None:
    data = some_bytes(6 * MIB)
    cap = {"up_bytes_per_second": 300_000}
    async with world.tracker.running(), world.site.storage():
        world.tracker.assigned = world.site.address
        async with world.daemon("bert", **cap) as bert, world.daemon("anna", **cap) as anna:
            await Caller(bert)("share", paths=[str(world.file("theirs", data))])
            await world.tracker.wait(lambda: world.tracker.holds("bert", manifest_of(data).tag))
            answer = await Caller(anna)("put", paths=[str(world.file("mine", data))], wait="safe")
            (result,) = answer["results"]
            assert result["safe"] is True and result["state"] in ("sending", "committing")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("put", {}),
        ("put", {"paths": []}),
        ("put", {"paths": ["relative"]}),
        ("put", {"paths": ["/a/../b"]}),
        ("put", {"paths": ["/a\0b"]}),
        ("put", {"paths": "/a"}),
        ("put", {"paths": ["/tmp"], "wait": "perhaps"}),
        ("put", {"paths": ["/tmp"], "name": "../evil"}),
        ("put", {"paths": ["/tmp"], "name": ""}),
        ("put", {"paths": ["/a", "/b"], "name": "both"}),
        ("put", {"paths": ["/a"], "nmae": "x"}),
        ("get", {}),
        ("get", {"what": 3}),
        ("get", {"what": "x", "output": "relative"}),
        ("get", {"what": "upswarm:nonsense"}),
        ("ls", {"stored": "yes"}),
        ("limit", {"up": -1}),
        ("limit", {"up": 0}),
        ("limit", {"up": "fast"}),
        ("limit", {"up": True}),
        ("limit", {"sideways": 1}),
        ("cancel", {}),
        ("status", {"verbose": True}),
    ],
)
async def test_wrong_parameters_are_usage_errors(
    world: World, autojump_clock: object, method: str, params: dict[str, Any]
) -> None:
    async with world.daemon() as daemon:
        with pytest.raises(CommandError) as caught:
            await Caller(daemon)(method, **params)
        assert caught.value.exit_code == 2 and caught.value.sentence


async def test_what_is_not_there_is_not_found(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.daemon() as daemon:
        with trio.fail_after(SECONDS_MAX):
            await daemon.tracker_link.wait_connected()
        call = Caller(daemon)
        for method, params in (
            ("put", {"paths": ["/nonexistent/file"]}),
            ("get", {"what": "no such name"}),
            ("show", {"tag": "no such name"}),
            ("unshare", {"what": "no such name"}),
            ("cancel", {"id": "p99"}),
            ("pause", {"id": "g99"}),
            ("check", {"tag": "no such name"}),
        ):
            with pytest.raises(NotFound):
                await call(method, **params)


async def test_limits_and_pause_survive_a_restart(world: World, autojump_clock: object) -> None:
    async with world.daemon(up_bytes_per_second=5e6) as daemon:
        call = Caller(daemon)
        assert (await call("limit"))["now"] == {"up": 5e6, "down": "off", "help": "off"}
        assert (await call("limit", up="off", down=2e6, help=1000))["now"] == {"up": "off", "down": 2e6, "help": 1000.0}
        await call("pause")
        assert daemon.engine.statistics().paused
    async with world.daemon(up_bytes_per_second=5e6) as daemon:
        call = Caller(daemon)
        assert (await call("limit"))["now"] == {"up": "off", "down": 2e6, "help": 1000.0}
        assert daemon.engine.statistics().paused and (await call("status"))["paused"]
        await call("resume")
        assert not daemon.engine.statistics().paused


async def test_a_paused_daemon_puts_nothing_until_it_is_resumed(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.site.storage(), world.daemon() as daemon:
        world.tracker.assigned = world.site.address
        call = Caller(daemon)
        await call("pause")
        await call("put", paths=[str(world.file("film", b"x" * 100))], wait="no")
        await trio.sleep(60)
        (put,) = daemon.puts.active()
        assert put.bytes_stored == 0
        await call("resume")
        with trio.fail_after(SECONDS_MAX):
            while not put.state.final:
                await put.changed.wait()
        assert put.state.value == "stored"


async def test_share_and_unshare(world: World, autojump_clock: object) -> None:
    async with world.tracker.running(), world.daemon() as daemon:
        call = Caller(daemon)
        path = world.file("film", b"x" * 100)
        tag = manifest_of(b"x" * 100).tag
        (result,) = (await call("share", paths=[str(path)]))["results"]
        assert result["state"] == "shared" and result["tag"] == str(tag)
        await world.tracker.wait(lambda: world.tracker.holds("anna", tag))
        assert [(row["tag"], row["local"]) for row in (await call("ls", local=True))["files"]] == [(str(tag), "shared")]
        assert (await call("unshare", what=str(path)))["paths"] == [str(path)]
        await world.tracker.wait(lambda: not world.tracker.holds("anna", tag))
        assert path.exists()


async def test_check_finds_what_changed(world: World, autojump_clock: object) -> None:
    async with world.daemon() as daemon:
        call = Caller(daemon)
        good, bad = world.file("good", b"good"), world.file("bad", b"bad!")
        await call("share", paths=[str(good), str(bad)])
        assert (await call("check"))["ok"] is True
        os.utime(good, (1, 1))
        bad.write_bytes(b"BAD!")
        answer = await call("check")
        assert answer["ok"] is False
        assert {Path(one["path"]).name: one["ok"] for one in answer["files"]} == {"good": True, "bad": False}
        assert [file.path for file in daemon.library.files()] == [good]


async def test_events_are_numbered_and_can_be_followed(world: World, autojump_clock: object) -> None:
    async with world.daemon() as daemon:
        call = Caller(daemon)
        await call("share", paths=[str(world.file("film", b"x"))])
        events = (await call("events"))["events"]
        assert [event["event"] for event in events] == ["file shared"]
        async with trio.open_nursery() as following:
            following.start_soon(lambda: Caller.__call__(call, "events", follow=True))
            await trio.sleep(1)
            await call("limit", up=5)
            await trio.sleep(1)
            following.cancel_scope.cancel()
        numbers = [params["number"] for method, params in call.notices if method == "event"]
        assert numbers == [1, 2]


async def test_status_show_peers_doctor_and_version_answer(world: World, autojump_clock: object) -> None:
    data = some_bytes(2 * MIB)
    async with world.tracker.running(), world.site.storage(), world.daemon() as daemon:
        world.tracker.assigned = world.site.address
        call = Caller(daemon)
        await call("put", paths=[str(world.file("film", data))])
        status = await call("status")
        assert status["node"] == daemon.node and status["tracker"]["connected"] and status["safe"]
        assert status["traffic"]["sent_own_bytes"] + status["traffic"]["sent_help_bytes"] == len(data)
        await world.tracker.wait(lambda: world.tracker.holds("storage", manifest_of(data).tag))
        show = await call("show", tag=str(manifest_of(data).tag))
        assert show["state"] == "stored" and show["local"] == "put" and show["chunks"] == 2
        assert (await call("show", tag="film"))["tag"] == show["tag"]
        roles = {link["role"] for link in (await call("peers"))["links"]}
        assert roles == {"tracker", "storage"}
        assert await call("nodes") == {"nodes": []} and await call("storage_nodes") == {"nodes": []}
        assert {check["check"] for check in (await call("doctor"))["checks"]} >= {"tracker", "room", "puts"}
        assert (await call("version"))["program"] == "daemon"


async def test_leaving_forgets_the_key_and_stops_the_daemon(world: World, autojump_clock: object) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with world.daemon() as daemon:
            identity = daemon.config.places.identity
            assert (await Caller(daemon)("leave"))["left"] is True
            await trio.sleep(2)
            assert not daemon.config.places.control_socket.exists()
    assert not (identity / "certificate.pem").exists() and not (identity / "key.pem").exists()


async def test_a_second_daemon_on_the_same_state_is_refused(world: World, autojump_clock: object) -> None:
    async with world.daemon() as daemon:
        with pytest.raises(ConfigError, match="already running"):
            async with opened(daemon.config, memory_runtime(name="second")):
                pass


async def test_who_has_not_joined_is_told_how(tmp_path: Path) -> None:
    config = DaemonConfig(places=Places.of(tmp_path, "daemon"), mdns=False)
    with pytest.raises(ConfigError, match="upswarm join"):
        async with opened(config, memory_runtime()):
            pass


def test_a_folder_with_nothing_to_put_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".film.00112233.upswarm-part").write_bytes(b"x")
    with pytest.raises(NotFound):
        find_files(RealDisk(), tmp_path, None)


def test_a_name_goes_before_the_names_of_a_folders_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "A\u030a").write_bytes(b"x")
    (tmp_path / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    found, skipped = find_files(RealDisk(), tmp_path, "holiday")
    assert [file.name for file in found] == ["holiday/sub/\u00c5"]
    assert sorted(one.path.name for one in skipped) == [os.fsdecode(b"caf\xe9"), "pipe"]


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "nowhere"},
        {"advertise": ("example.org:0",)},
        {"advertise": ("10.0.0.1:1",) * 9},
        {"up_bytes_per_second": -1.0},
        {"name": "x" * 100},
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DaemonConfig(places=Places.of(tmp_path, "daemon"), **settings)
