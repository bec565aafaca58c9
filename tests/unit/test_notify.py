from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from runtime.notify import ServiceManager


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def listening(path: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    receiver.settimeout(5)
    return receiver


def test_without_a_manager_every_word_is_free() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        manager = ServiceManager.of_environment(environment)
        assert not manager.listens
        manager.ready()
        manager.stopping()


@pytest.mark.parametrize("abstract", [False, True])
def test_words_arrive_one_datagram_each(tmp_path: Path, abstract: bool) -> None:
    name = f"upswarm-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with listening("\0" + name if abstract else name) as receiver:
        manager = ServiceManager.of_environment({"NOTIFY_SOCKET": "@" + name if abstract else name})
        manager.ready("listens on 127.0.0.1:1\nWATCHDOG=trigger")
        manager.reloading()
        manager.stopping()
        assert receiver.recv(1000) == b"READY=1\nSTATUS=listens on 127.0.0.1:1 WATCHDOG=trigger", (
            "one line, whatever it says"
        )
        reloading = receiver.recv(1000).split(b"\n")
        assert reloading[0] == b"RELOADING=1" and reloading[1].startswith(b"MONOTONIC_USEC=")
        assert receiver.recv(1000) == b"STOPPING=1"


def test_a_manager_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    manager = ServiceManager.of_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    manager.ready()
    assert not manager.listens


async def test_the_watchdog_is_fed_three_times_an_interval(autojump_clock: MockClock) -> None:
    said: list[tuple[float, bytes]] = []
    manager = ServiceManager(lambda data: said.append((trio.current_time(), data)), watchdog_seconds=60)
    start = trio.current_time()
    with trio.move_on_after(61):
        await manager.feed_watchdog()
    assert [(round(when - start), data) for when, data in said] == [(at, b"WATCHDOG=1") for at in (0, 20, 40, 60)]


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "-1"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": str(os.getpid() + 1)}],
)
async def test_nobody_watches_unless_the_environment_means_us(environment: dict[str, str], tmp_path: Path) -> None:
    manager = ServiceManager.of_environment({"NOTIFY_SOCKET": str(tmp_path / "n"), **environment})
    await manager.feed_watchdog()


async def test_the_environment_says_how_often(tmp_path: Path, autojump_clock: MockClock) -> None:
    with listening(str(tmp_path / "notify")) as receiver:
        manager = ServiceManager.of_environment(
            {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
        )
        with trio.move_on_after(2.5):
            await manager.feed_watchdog()
        assert [receiver.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
