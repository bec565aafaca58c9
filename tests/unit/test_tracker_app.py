"""The tracker as a program: its ready line, its state, how it stops, and what it refuses to start with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from support.memory_discovery import MemoryLan
from support.pairs import node
from support.tracker_world import join, start_tracker

from protocol.errors import ConfigError
from protocol.ids import Role
from runtime.discovery import Announcement, LanNode
from runtime.identity import swarm_of
from runtime.real import real_runtime
from tracker import app
from tracker.config import TrackerConfig

CONFIG = TrackerConfig(listen="127.0.0.1:0", http=None, heartbeat_seconds=0.5, mdns=False)


async def refused(config: TrackerConfig) -> str:
    """Start a tracker that cannot start and return why not."""
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True) as caught:
        await app.run(config, real_runtime())
    (error,) = caught.value.exceptions
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    return str(error)


async def test_members_and_node_id_survive_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[Any] = []
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            world = await start_tracker(tmp_path, nursery, monkeypatch)
            if not before:
                await join(await world.invite(), "ada")
                before = [world.node, await world.command("nodes")]
            assert [world.node, await world.command("nodes")] == before
            assert before[1]["nodes"][0]["state"] == "away"
            nursery.cancel_scope.cancel()


async def test_a_second_tracker_on_the_same_state_is_refused(tmp_path: Path, nursery: trio.Nursery) -> None:
    config = replace(CONFIG, home=tmp_path)

    async def start(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        await app.run(config, real_runtime(), task_status=task_status)

    await nursery.start(start)
    assert str(tmp_path) in await refused(config)


async def test_an_address_in_use_is_refused_in_words(tmp_path: Path) -> None:
    listener = await real_runtime().network.listen("127.0.0.1", 0)
    for taken in ({"listen": listener.address}, {"http": listener.address}):
        reason = await refused(replace(CONFIG, home=tmp_path, **taken))
        assert listener.address in reason and "in use" in reason
    listener.close()


async def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:

        async def start(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
            await app.run(replace(CONFIG, home=tmp_path), real_runtime(), task_status=task_status)

        await nursery.start(start)
        nursery.cancel_scope.cancel()
    keys = list(tmp_path.rglob("key.pem"))
    assert len(keys) == 2
    for key in keys:
        key.chmod(0o644)
        assert "0600" in await refused(replace(CONFIG, home=tmp_path))
        key.chmod(0o600)


async def test_the_lan_hears_where_the_tracker_is(tmp_path: Path, nursery: trio.Nursery) -> None:
    lan = MemoryLan()

    async def start(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        config = replace(CONFIG, home=tmp_path)
        await app.run(config, real_runtime(), discovery=lan.discovery(), task_status=task_status)

    ready = await nursery.start(start)
    authority = (tmp_path / "tracker" / "authority" / "certificate.pem").read_bytes()
    listener = Announcement(swarm_of(x509.load_pem_x509_certificate(authority)), node("ada"), Role.PEER, ())
    found, seen = trio.open_memory_channel[LanNode](1)
    nursery.start_soon(lan.discovery().run, listener, found.send_nowait, lambda _: None)
    with trio.fail_after(5):
        assert await seen.receive() == LanNode(ready["node"], Role.TRACKER, (ready["listen"],))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_stdout_has_one_line(tmp_path: Path, number: signal.Signals) -> None:
    flags = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns", "--home", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "upswarm", "tracker", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["ready"] == "tracker" and set(ready) == {"ready", "listen", "http", "node"}
            process.send_signal(number)
            rest, log = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0 and rest == b"", log
    assert b"Traceback" not in log


def test_a_start_that_fails_says_why_and_exits_with_2(tmp_path: Path) -> None:
    flags = ["--listen", "127.0.0.1:0", "--no-mdns", "--http", "off", "--home", str(tmp_path / "home")]
    (tmp_path / "home").write_text("a file where a folder should be")
    done = subprocess.run([sys.executable, "-m", "upswarm", "tracker", *flags], capture_output=True, timeout=60)
    assert done.returncode == 2 and done.stdout == b"" and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("listen", "4100", "HOST:PORT"),
        ("listen", "::1:4100", "brackets"),
        ("http", "localhost", "HOST:PORT"),
        ("advertise", ("tracker.example",), "HOST:PORT"),
        ("advertise", ("tracker.example:0",), "cannot be dialled"),
        ("advertise", tuple(f"10.0.0.{n}:1" for n in range(9)), "at most 8"),
        ("heartbeat_seconds", 0.01, "between"),
        ("heartbeat_seconds", 3600.0, "between"),
        ("heartbeat_seconds", float("nan"), "between"),
        ("name", "x" * 65, "64 bytes"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_name(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TrackerConfig(**{setting: value})
    assert f"[tracker] {setting}" in str(caught.value)
