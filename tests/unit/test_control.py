from __future__ import annotations

import json
import os
import socket as stdlib_socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import CommandError, ConfigError, LinkLost, NotFound, StorageBroken
from runtime import control
from runtime.control import ControlServer, Notify, may_command


class Client:
    """The plainest client: sends bytes, reads lines."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, *requests: Any) -> None:
        await self.stream.send_all(b"".join(json.dumps(request).encode() + b"\n" for request in requests))

    async def line(self) -> Any:
        while b"\n" not in self._received:
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    async def call(self, method: str, params: Any = None, number: Any = 1) -> Any:
        request = {"jsonrpc": "2.0", "id": number, "method": method}
        if params is not None:
            request["params"] = params
        await self.send(request)
        return await self.line()


Connect = Callable[[], Any]


@asynccontextmanager
async def serving(path: Path, **methods: Any) -> AsyncIterator[Connect]:
    async def connect() -> Client:
        clients.append(Client(await trio.open_unix_socket(path)))
        return clients[-1]

    clients: list[Client] = []
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(20):
                await nursery.start(ControlServer(path, methods).run)
                yield connect
            nursery.cancel_scope.cancel()
    finally:
        for client in clients:
            client.stream.socket.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c" / "control.sock"


async def echo(params: dict[str, Any], notify: Notify) -> Any:
    return params


async def test_a_call_is_answered_with_its_id(path: Path) -> None:
    async with serving(path, echo=echo) as connect:
        client = await connect()
        assert await client.call("echo", {"a": "ü"}, "x7") == {"jsonrpc": "2.0", "id": "x7", "result": {"a": "ü"}}
        assert (await client.call("echo", None, 2))["result"] == {}


async def test_socket_and_folder_are_ours_alone_and_the_socket_goes_with_the_server(path: Path) -> None:
    async with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


async def test_notifications_precede_the_result(path: Path) -> None:
    async def work(params: dict[str, Any], notify: Notify) -> Any:
        for done in range(3):
            await notify("progress", {"done": done})
        return "end"

    async with serving(path, work=work) as connect:
        client = await connect()
        await client.send({"jsonrpc": "2.0", "id": 1, "method": "work"})
        lines = [await client.line() for _ in range(4)]
        assert [line.get("params", {}).get("done") for line in lines] == [0, 1, 2, None]
        assert "id" not in lines[0] and lines[0]["method"] == "progress" and lines[3]["result"] == "end"


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (NotFound("no such tag"), "not-found", 4),
        (CommandError("refused", "not yours", 6), "refused", 6),
        (LinkLost("gone"), "link-lost", 5),
    ],
)
async def test_our_errors_travel_as_code_sentence_and_exit_code(
    path: Path, error: Exception, code: str, exit_code: int
) -> None:
    async def fail(params: dict[str, Any], notify: Notify) -> Any:
        raise error

    async def fail_inside(params: dict[str, Any], notify: Notify) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail, params, notify)

    async with serving(path, fail=fail, fail_inside=fail_inside) as connect:
        client = await connect()
        for method in ("fail", "fail_inside"):
            answer = await client.call(method)
            data = {"code": code, "exit_code": exit_code}
            assert answer["error"] == {"code": -32000, "message": str(error), "data": data}


async def test_a_bug_in_a_method_is_an_internal_error_and_service_goes_on(path: Path) -> None:
    async def bug(params: dict[str, Any], notify: Notify) -> Any:
        return {}[params["x"]]

    async def not_json(params: dict[str, Any], notify: Notify) -> Any:
        return {"rate": float("nan")}

    async with serving(path, bug=bug, not_json=not_json, echo=echo) as connect:
        client = await connect()
        assert (await client.call("bug", {"x": "secret"}))["error"]["code"] == control.INTERNAL_ERROR
        assert (await client.call("not_json"))["error"]["code"] == control.INTERNAL_ERROR
        assert (await client.call("echo"))["result"] == {}


async def test_broken_storage_is_told_and_ends_the_program(path: Path) -> None:
    async def broken(params: dict[str, Any], notify: Notify) -> Any:
        raise StorageBroken("fsync failed")

    answers, ends = [], []
    try:
        async with serving(path, broken=broken) as connect:
            client = await connect()
            answers.append(await client.call("broken"))
            await trio.sleep_forever()
    except* StorageBroken as group:
        ends.append(group)
    assert answers[0]["error"]["data"]["code"] == "storage-broken"
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"nonsense", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"9" * 10_000, -32700),
        (b"17", -32600),
        (b"[]", -32600),
        (b"[" + b",".join([b"1"] * 100) + b"]", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}', -32602),
    ],
)
async def test_what_is_no_request_gets_a_json_rpc_error_and_service_goes_on(path: Path, line: bytes, code: int) -> None:
    async with serving(path, echo=echo) as connect:
        client = await connect()
        await client.stream.send_all(line + b"\n\n \n")
        assert (await client.line())["error"]["code"] == code
        assert (await client.call("echo"))["result"] == {}


async def test_a_batch_is_answered_as_a_batch_and_a_notification_not_at_all(path: Path) -> None:
    async with serving(path, echo=echo) as connect:
        client = await connect()
        one = {"jsonrpc": "2.0", "id": 1, "method": "echo"}
        silent = {"jsonrpc": "2.0", "method": "echo"}
        await client.send([one, silent, 3], silent, one)
        first = await client.line()
        assert [answer.get("result", answer.get("error", {}).get("code")) for answer in first] == [{}, -32600]
        assert (await client.line())["id"] == 1


async def test_a_line_without_end_is_refused_and_others_are_served(path: Path) -> None:
    async with serving(path, echo=echo) as connect:
        bad, good = await connect(), await connect()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await bad.stream.send_all(b"x" * 65536)
        assert (await good.call("echo"))["result"] == {}


async def test_a_request_of_nearly_the_limit_is_served_and_one_byte_over_is_not(path: Path) -> None:
    head, tail = b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":"', b'"}}'
    async with serving(path, echo=echo) as connect:
        for excess, served in ((0, True), (1, False)):
            client = await connect()
            filling = b"x" * (control.LINE_BYTES_MAX - len(head) - len(tail) + excess)
            await client.stream.send_all(head + filling + tail + b"\n")
            assert ("result" in await client.line()) is served


async def test_too_many_waiting_requests_end_the_connection(path: Path) -> None:
    async def wait(params: dict[str, Any], notify: Notify) -> Any:
        await trio.sleep_forever()

    async with serving(path, wait=wait) as connect:
        client = await connect()
        await client.send(*[{"jsonrpc": "2.0", "id": 1, "method": "wait"}] * (control.WAITING_LINES_MAX + 2))
        assert (await client.line())["error"]["code"] == control.INVALID_REQUEST
        assert await client.line() is None


async def test_hanging_up_cancels_what_the_client_waited_for(path: Path) -> None:
    begun, cancelled = trio.Event(), trio.Event()

    async def wait(params: dict[str, Any], notify: Notify) -> Any:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(path, wait=wait) as connect:
        client = await connect()
        await client.send({"jsonrpc": "2.0", "id": 1, "method": "wait"})
        await begun.wait()
        await client.stream.aclose()
        await cancelled.wait()


async def test_a_client_that_hangs_up_during_notifications_harms_nobody(path: Path) -> None:
    stopped = trio.Event()

    async def chatter(params: dict[str, Any], notify: Notify) -> Any:
        try:
            while True:
                await notify("progress", {"x": "y" * 1000})
        finally:
            stopped.set()

    async with serving(path, chatter=chatter, echo=echo) as connect:
        client = await connect()
        await client.send({"jsonrpc": "2.0", "id": 1, "method": "chatter"})
        await client.line()
        await client.stream.aclose()
        await stopped.wait()
        assert (await (await connect()).call("echo"))["result"] == {}


async def test_clients_are_served_side_by_side_up_to_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLIENTS_MAX", 3)
    waiting = trio.Event()

    async def wait(params: dict[str, Any], notify: Notify) -> Any:
        await waiting.wait()
        return "woken"

    async def wake(params: dict[str, Any], notify: Notify) -> Any:
        waiting.set()

    async with serving(path, wait=wait, wake=wake) as connect:
        first, second, third = await connect(), await connect(), await connect()
        await first.send({"jsonrpc": "2.0", "id": 1, "method": "wait"})
        await second.send({"jsonrpc": "2.0", "id": 1, "method": "wait"})
        assert (await third.call("wake"))["result"] is None
        assert (await first.line())["result"] == (await second.line())["result"] == "woken"
        fourth = await connect()
        assert (await fourth.line())["error"]["data"]["code"] == "busy"
        await first.stream.aclose()
        await third.stream.aclose()


async def test_a_half_line_must_end_in_time_and_idle_clients_leave(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ends = []
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, {"echo": echo}).run)
        for sent in (b"", b'{"jsonrpc"'):
            async with await trio.open_unix_socket(path) as stream:
                begin = trio.current_time()
                await stream.send_all(sent)
                assert await stream.receive_some(1) == b""
                ends.append(trio.current_time() - begin)
        # A trickle does not help: the deadline is the line's, not the byte's.
        begin = trio.current_time()
        async with await trio.open_unix_socket(path) as stream:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"x")
                    await trio.sleep(1)
        assert trio.current_time() - begin <= control.LINE_SECONDS_MAX + 2
        nursery.cancel_scope.cancel()
    assert ends == pytest.approx([control.IDLE_SECONDS_MAX, control.LINE_SECONDS_MAX], abs=0.5)


async def test_a_socket_file_that_outlived_its_process_is_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path, echo=echo) as connect:
        assert (await (await connect()).call("echo"))["result"] == {}


async def test_a_second_server_on_the_same_place_is_refused_and_the_first_goes_on(path: Path) -> None:
    async with serving(path, echo=echo) as connect:
        with pytest.raises(ConfigError, match="already running"):
            await ControlServer(path, {}).run()
        assert (await (await connect()).call("echo"))["result"] == {}


async def test_a_file_that_is_no_socket_is_not_touched(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        await ControlServer(path, {}).run()
    assert path.read_text() == "precious"


async def test_a_folder_that_others_may_write_to_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod 700"):
        await ControlServer(path, {}).run()


async def test_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter --home"):
        await ControlServer(tmp_path / ("x" * 120) / "c", {}).run()


async def test_another_user_is_refused_by_the_kernels_word(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "peer_user", lambda socket: os.geteuid() + 1)
    async with serving(path, echo=echo) as connect:
        client = await connect()
        assert await client.line() is None


def test_this_user_and_root_may_command() -> None:
    assert may_command(1000, 1000) and may_command(0, 1000)
    assert not may_command(1001, 1000) and not may_command(1000, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(garbage=st.lists(st.binary(max_size=200), max_size=8))
def test_whatever_comes_the_server_stays(tmp_path: Path, garbage: list[bytes]) -> None:
    async def story() -> None:
        path = tmp_path / "control.sock"
        path.parent.chmod(0o700)
        async with serving(path, echo=echo) as connect:
            client = await connect()
            for piece in garbage:
                await client.stream.send_all(piece.replace(b"\n", b"") + b"\n")
                if piece.strip():
                    answer = await client.line()
                    assert "error" in (answer if isinstance(answer, dict) else answer[0])
            assert (await (await connect()).call("echo"))["result"] == {}

    trio.run(story)
