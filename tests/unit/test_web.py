"""Requests to HTTP servers are bounded in time and size, and every way in which they break is the net's fault."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from protocol.errors import LinkLost
from runtime.web import open_web

OK = b"HTTP/1.1 200 OK\r\n"


class Body:
    """Yields pieces; counts how often it was begun."""

    def __init__(self, *pieces: bytes, size_bytes: int | None = None) -> None:
        self.size_bytes = sum(map(len, pieces)) if size_bytes is None else size_bytes
        self._pieces = pieces

    async def _run(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._run()


class Server:
    """Says ``answer`` to whoever connects, then hangs up (or keeps silent); remembers what it got."""

    def __init__(self, answer: bytes, *, hangs_up: bool = True) -> None:
        self.got = bytearray()
        self._answer = answer
        self._hangs_up = hangs_up

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream, contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.suppress(trio.BrokenResourceError))  # they hung up on us
            while b"\r\n\r\n" not in self.got:
                self.got += await stream.receive_some()
            length = 0
            for line in bytes(self.got).lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            while len(self.got) < self.got.index(b"\r\n\r\n") + 4 + length:
                piece = await stream.receive_some()
                if not piece:
                    return
                self.got += piece
            await stream.send_all(self._answer)
            if not self._hangs_up:
                await trio.sleep_forever()


async def asked(server: Server, *arguments, method: str = "GET", **options):
    """What comes of one request to ``server``."""
    outcome = None
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, open_web() as web:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, server.serve, [listener])
            port = listener.socket.getsockname()[1]
            url = f"http://127.0.0.1:{port}/a%20b?c=d"
            try:
                outcome = await web.ask(method, url, {"x-one": "1"}, *arguments, **options)
            except LinkLost as error:
                outcome = error
            nursery.cancel_scope.cancel()
    if isinstance(outcome, LinkLost):
        raise outcome  # out of the nursery, which would have made a group of it
    return outcome


async def test_an_answer_comes_as_it_is() -> None:
    server = Server(b"HTTP/1.1 404 Not Found\r\nX-Some: Thing\r\ncontent-length: 4\r\n\r\nbody")
    answer = await asked(server)
    assert (answer.status, answer.headers["x-some"], answer.body) == (404, "Thing", b"body")
    assert server.got.startswith(b"GET /a%20b?c=d HTTP/1.1\r\n")
    assert b"x-one: 1\r\n" in server.got and b"accept-encoding: identity\r\n" in server.got


async def test_a_body_is_streamed_with_its_length() -> None:
    server = Server(OK + b"content-length: 0\r\n\r\n")
    await asked(server, Body(b"one ", b"", b"two"), method="PUT")
    assert b"content-length: 7\r\n" in server.got and server.got.endswith(b"\r\n\r\none two")
    assert b"transfer-encoding" not in server.got.lower()


async def test_redirects_are_not_followed() -> None:
    answer = await asked(Server(b"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"))
    assert answer.status == 307


async def test_proxies_and_passwords_of_the_environment_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = Server(OK + b"content-length: 0\r\n\r\n")
    assert (await asked(server)).status == 200
    assert b"authorization" not in server.got.lower()


async def test_a_good_answer_fills_the_target_and_a_bad_one_does_not() -> None:
    target = bytearray(6)
    good = await asked(Server(OK + b"content-length: 4\r\n\r\ndata"), target=memoryview(target))
    assert (good.filled_bytes, good.body, target) == (4, b"", b"data\0\0")
    bad = await asked(Server(b"HTTP/1.1 403 No\r\ncontent-length: 9\r\n\r\nforbidden"), target=memoryview(target))
    assert (bad.filled_bytes, bad.body, target) == (0, b"forbidden", b"data\0\0")


@pytest.mark.parametrize(
    "server",
    [
        Server(OK + b"content-length: 100\r\n\r\nshort"),
        Server(b""),
        Server(b"welcome to nothing like HTTP\r\n\r\n"),
        Server(OK + b"content-length: 11\r\n\r\nmuch longer"),
        Server(OK + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n"),
        Server(OK + b"x: " + b"y" * 1_000_000),
        Server(b"", hangs_up=False),
        Server(OK + b"content-length: 9\r\n\r\nslow", hangs_up=False),
    ],
    ids=["cut off", "hung up", "no HTTP", "too long", "bad chunk", "endless head", "silent", "stalled"],
)
async def test_whatever_breaks_is_the_nets_fault(server: Server) -> None:
    with pytest.raises(LinkLost, match=r"GET http://127\.0\.0\.1:[0-9]+/a%20b: "):
        await asked(server, bytes_max=10, seconds_max=1)


async def test_what_a_body_raises_passes_through() -> None:
    class Rotten(Body):
        async def _run(self) -> AsyncIterator[bytes]:
            yield b"so far"
            raise OSError("a bad sector")

    async with open_web() as web:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = Server(b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.serve, [listener])
            port = listener.socket.getsockname()[1]
            with pytest.raises(OSError, match="a bad sector"):
                await web.ask("PUT", f"http://127.0.0.1:{port}/", {}, Rotten(size_bytes=100))
            nursery.cancel_scope.cancel()


async def test_nobody_there_is_the_nets_fault() -> None:
    async with open_web() as web:
        with pytest.raises(LinkLost):
            await web.ask("GET", "http://127.0.0.1:1/", {})
        with pytest.raises(LinkLost):
            await web.ask("GET", "http://no.such.host.invalid/", {})
        with pytest.raises(LinkLost):
            await web.ask("GET", "gopher://127.0.0.1/", {})
