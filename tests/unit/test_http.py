"""HTTP as we serve it: who speaks something else is refused, with a line in the log and no traceback."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from protocol.ids import parse_address
from runtime.http import HttpServer

SECONDS_MAX = 20.0
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
)


ENDLESS = "/endless"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says yes to everything over HTTP, after it was asked."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["path"] == ENDLESS:
        await send({"type": "http.response.body", "body": bytes(8 << 20), "more_body": True})
    await send({"type": "http.response.body", "body": b"yes"})


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """An address that serves ``app``."""
    server = HttpServer("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, app)
        yield server.address
        nursery.cancel_scope.cancel()


async def said(address: str, data: bytes) -> bytes:
    """Say ``data``, hang up our side, and return what comes until they hang up."""
    host, port = parse_address(address)
    answer = bytearray()
    async with await trio.open_tcp_stream(host, port) as stream:
        with trio.fail_after(SECONDS_MAX):
            try:
                await stream.send_all(data)
                await stream.send_eof()
                while piece := await stream.receive_some(65536):
                    answer += piece
            except trio.BrokenResourceError:
                pass
    return bytes(answer)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "no HTTP/1.1"),
        (random.Random(5).randbytes(3000), "no HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000, "too large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX", "cut off"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nabc", "cut off"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000, "HTTP/2.0 without TLS"),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", "HTTP/9.9 without TLS"),
    ],
    ids=["TLS", "noise", "an endless head", "half a head", "half a body", "no chunk", "HTTP/2", "HTTP/9"],
)
async def test_what_is_no_http_is_refused_with_a_line_and_no_traceback(
    data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as logged:
        async with served() as address:
            for _ in range(5):
                assert b"HTTP/2" not in await said(address, data)
            async with httpx2.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"http://{address}/")).text == "yes"
    assert [line["event"] for line in logged] == ["http client refused"] * 5, logged
    assert all(reason in line["reason"] and line["remote"].startswith("127.0.0.1:") for line in logged)
    assert caplog.records == [], "tracebacks of the server or the application"


async def test_an_offer_of_http_2_is_answered_in_http_1() -> None:
    with capture_logs() as logged:
        async with served() as address:
            answer = await said(address, UPGRADE)
    assert answer.startswith(b"HTTP/1.1 200 ") and logged == []


async def test_who_connects_and_says_nothing_is_no_line() -> None:
    with capture_logs() as logged:
        async with served() as address:
            host, port = parse_address(address)
            async with await trio.open_tcp_stream(host, port), httpx2.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"http://{address}/")).status_code == 200
    assert logged == []


async def test_a_reader_that_takes_a_little_now_and_then_keeps_nobody_from_stopping() -> None:
    server = HttpServer("127.0.0.1:0")
    host, port = parse_address(server.address)
    async with await trio.open_tcp_stream(host, port) as stream, trio.open_nursery() as reading:

        async def trickle() -> None:
            async for _ in stream:
                await trio.sleep(0.02)

        async with trio.open_nursery() as serving:
            await serving.start(server.run, app)
            await stream.send_all(f"GET {ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await stream.receive_some(15)).startswith(b"HTTP/1.1 200")
            # It is sending then, as far as the kernel takes it.
            await trio.testing.wait_all_tasks_blocked(0.05)
            reading.start_soon(trickle)
            stopped_at = trio.current_time()
            serving.cancel_scope.cancel()
        assert trio.current_time() - stopped_at < SECONDS_MAX
        reading.cancel_scope.cancel()
