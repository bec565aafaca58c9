from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from daemon.events import Events
from daemon.telling import tell_hooks
from runtime import hooks as hooks_module
from runtime.hooks import Hooks
from runtime.observing import observe
from runtime.real import RealClock

EVENT = {"number": 3, "event": "put stored", "name": "a b; rm -rf $HOME", "tag": "x" * 10, "pushed": {}}
WRITER = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + '\\n' + os.environ['UPSWARM_NAME'])"


async def test_a_command_gets_the_event_and_no_shell(tmp_path: Path) -> None:
    target = tmp_path / "said"
    with trio.fail_after(20):
        await Hooks((sys.executable, "-c", WRITER, str(target)), "").tell(EVENT)
    said, name = target.read_text().split("\n")
    assert json.loads(said) == EVENT and name == EVENT["name"]


@pytest.mark.parametrize("command", [("/nonexistent/program",), (sys.executable, "-c", "raise SystemExit(3)")])
async def test_a_hook_that_fails_ends_nothing(command: tuple[str, ...]) -> None:
    with trio.fail_after(20):
        await Hooks(command, "").tell(EVENT)


async def test_a_hook_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks_module, "HOOK_SECONDS_MAX", 0.2)
    with trio.fail_after(20):
        await Hooks((sys.executable, "-c", "import time; time.sleep(60)"), "").tell(EVENT)


async def test_an_address_gets_a_post() -> None:
    got: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        data = b""
        while b'"pushed"' not in data:
            data += await stream.receive_some(4096)
        got.append(data)
        await stream.send_all(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            port = listener.socket.getsockname()[1]
            await Hooks((), f"http://127.0.0.1:{port}/hook").tell(EVENT)
            nursery.cancel_scope.cancel()
    head, _, body = got[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook ") and json.loads(body) == EVENT


async def test_nobody_at_the_address_is_a_line_in_the_log() -> None:
    with trio.fail_after(20):
        await Hooks((), "http://127.0.0.1:1/").tell(EVENT)


async def test_ends_of_transfers_are_told_in_order(autojump_clock: MockClock) -> None:
    events = Events(RealClock())
    told: list[str] = []

    async def tell(event: Any) -> None:
        await trio.sleep(1)
        told.append(f"{event['event']} {event['id']}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_hooks, events, tell)
        events.add("put hashed", id="p1")
        for number in range(3):
            events.add("put stored" if number % 2 else "get failed", id=str(number))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert told == ["get failed 0", "put stored 1", "get failed 2"]


async def test_a_change_below_a_folder_wakes(tmp_path: Path) -> None:
    woken = trio.Event()
    (tmp_path / "sub").mkdir()

    async def write() -> None:
        # Notices begin at some time after the start; what is written before that nobody is told of.
        number = 0
        while not woken.is_set():
            number += 1
            (tmp_path / "sub" / "file").write_text(str(number))
            await trio.sleep(0.1)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(observe, [tmp_path, tmp_path / "absent"], woken.set)
            nursery.start_soon(write)
            await woken.wait()
            nursery.cancel_scope.cancel()
