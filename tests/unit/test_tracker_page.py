"""The page shows what is there, escapes what nodes wrote, and answers to nobody it should not answer to."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import pytest
import trio

from protocol.errors import ConfigError
from runtime.http import HttpServer
from tracker.page import HostList, duration, make_app, size
from tracker.statistics import (
    About,
    HolderStatistics,
    JobStatistics,
    NodeStatistics,
    PushedStatistics,
    TagStatistics,
    TrackerStatistics,
    Traffic,
)

MIB = 1024 * 1024
EVIL = "<script>alert(1)</script>\"'\u202egpj.exe\x1b[31m"
ADA, DISK = "ada" + "a" * 49, "disk" + "a" * 48
EMPTY = TrackerStatistics(
    about=About(
        swarm="s" * 52,
        node="t" * 52,
        name="office",
        version="9.9",
        listen="0.0.0.0:4100",
        http="127.0.0.1:4180",
        addresses=("10.0.0.1:4100",),
        heartbeat_seconds=5.0,
    ),
    uptime_seconds=4000.0,
    taken_at=1_800_000_000,
    traffic=Traffic(links=0, heartbeats=0, inventories=0, questions=0, orders=0, joined=0, joins_refused=0),
    node_count=0,
    tag_count=0,
    holding_count=0,
    job_count=0,
    nodes=(),
    tags=(),
    jobs=(),
    ended_jobs=(),
)
JOB = JobStatistics(
    tag="ab" * 32 + "-8",
    name="film.mkv",
    size_bytes=8 * MIB,
    chunks=8,
    state="open",
    reason="",
    storage=DISK,
    storage_name="disk",
    chunks_stored=3,
    bytes_stored=3 * MIB,
    safe=True,
    open_seconds=12.0,
    updated_seconds_ago=0.1,
    bytes_per_second=262144.0,
    pushed=(
        PushedStatistics(node=ADA, name="ada", bytes_pushed=3 * MIB, is_uploader=True),
        PushedStatistics(node=DISK, name="", bytes_pushed=MIB, is_uploader=False),
    ),
)
BUSY = replace(
    EMPTY,
    node_count=2,
    tag_count=1,
    job_count=1,
    jobs=(JOB,),
    ended_jobs=(replace(JOB, name="old.mkv", state="failed", reason="no room"),),
    nodes=(
        NodeStatistics(
            node=ADA,
            role="peer",
            name="ada",
            addresses=("10.0.0.2:4200",),
            state="fresh",
            seen_seconds_ago=1.0,
            tags=1,
            room_bytes=0,
            paused=False,
        ),
    ),
    tags=(
        TagStatistics(
            tag=JOB.tag,
            names=("film.mkv",),
            size_bytes=8 * MIB,
            chunks=8,
            since=1,
            state="open",
            storage=DISK,
            holders_complete=1,
            holders_partial=30,
            holders=(HolderStatistics(node=ADA, name="ada", role="peer", chunks=5, fresh=True),),
        ),
    ),
)
Client = httpx2.AsyncClient


class Shown:
    """What the page is told."""

    statistics = EMPTY

    async def take(self) -> TrackerStatistics:
        return self.statistics


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
async def client(shown: Shown) -> AsyncIterator[Client]:
    app = make_app(shown.take, HostList.of(["tracker.example"], "office-pc", "127.0.0.1:4180"))
    async with Client(transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1:4180") as client:
        yield client


async def test_an_empty_swarm_is_told_what_to_do(client: Client) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200 and "upswarm invite" in answer.text and "1 h 06 min" in answer.text


async def test_jobs_nodes_and_holders_are_shown(client: Client, shown: Shown) -> None:
    shown.statistics = BUSY
    text = re.sub(r"\s+", " ", (await client.get("/")).text)
    for expected in (
        '<progress max="8" value="3"',
        "3.0 MiB of 8.0 MiB stored",
        "37.5 %, 3 of 8 chunks",
        "256 KiB/s",
        "safe to disconnect",
        "75.0 % · uploader",
        "no room",
        "10.0.0.2:4200",
        "5/8",
        "and 30 more",
    ):
        assert expected in text, expected


async def test_what_nodes_write_is_text_and_nothing_else(client: Client, shown: Shown) -> None:
    job = replace(
        JOB, name=EVIL, storage_name=EVIL, reason=EVIL, pushed=(replace(JOB.pushed[0], name=EVIL),), state="failed"
    )
    shown.statistics = replace(
        BUSY,
        about=replace(EMPTY.about, name=EVIL),
        jobs=(job,),
        ended_jobs=(job,),
        nodes=(replace(BUSY.nodes[0], name=EVIL, addresses=(EVIL,)),),
        tags=(replace(BUSY.tags[0], names=(EVIL,), holders=(replace(BUSY.tags[0].holders[0], name=EVIL),)),),
    )
    text = (await client.get("/")).text
    assert text.count("<script") == 1 and "alert(1)" in text, "only our own"
    assert "\u202e" not in text and "\x1b" not in text
    assert not re.search(r"<[^>]*alert", text), "nor inside a tag"


async def test_the_state_is_json(client: Client, shown: Shown) -> None:
    shown.statistics = BUSY
    state = json.loads((await client.get("/api/v1/state")).text)
    assert state["jobs"][0]["pushed"][0]["bytes_pushed"] == 3 * MIB
    assert state["about"]["version"] == "9.9" and state["nodes"][0]["addresses"] == ["10.0.0.2:4200"]
    assert (await client.get("/healthz")).text == "ok\n"


@pytest.mark.parametrize("path", ["/", "/api/v1/state", "/healthz", "/static/style.css", "/nowhere"])
async def test_every_answer_carries_a_strict_policy(client: Client, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers and "set-cookie" not in headers


async def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline(client: Client, shown: Shown) -> None:
    shown.statistics = BUSY
    text = (await client.get("/")).text
    assert not re.search(r"style=|\son\w+=|javascript:|https?://", text)
    for path in re.findall(r'(?:src|href)="([^"#]+)"', text):
        answer = await client.get(path)
        assert answer.status_code == 200, path
    assert "url(" not in (await client.get("/static/style.css")).text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(client: Client, method: str) -> None:
    assert (await client.request(method, "/")).status_code == 405


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:4180", True),
        ("127.0.0.1", True),
        ("[::1]:4180", True),
        ("[::1]", True),
        ("192.168.1.5:4180", True),
        ("localhost:4180", True),
        ("LOCALHOST", True),
        ("office-pc:4180", True),
        ("tracker.example.", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:4180", False),
        ("evil.example:4180@127.0.0.1", False),
        ("127.0.0.1:4180:4180", False),
        ("", False),
    ],
)
async def test_only_our_own_host_names_are_answered(client: Client, host: str, allowed: bool) -> None:
    for path in ("/", "/api/v1/state", "/static/refresh.js"):
        answer = await client.get(path, headers={"host": host})
        assert answer.status_code == (200 if allowed else 403), host


def test_numbers_are_readable() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536, 200 * 1024, 5 * 1024**3, 3000 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "200 KiB",
        "5.0 GiB",
        "3000 TiB",
    ]
    assert [duration(s) for s in (0.9, 59, 61, 3700, 90000)] == ["0 s", "59 s", "1 min 01 s", "1 h 01 min", "1 d 1 h"]


# --- over real HTTP ---


async def test_it_is_served_over_real_http_and_stops_when_told(shown: Shown) -> None:
    server = HttpServer("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, make_app(shown.take, HostList.of((), "x", "")))
        async with Client(base_url=f"http://{server.address}") as client:
            answer = await client.get("/")
            assert answer.status_code == 200 and "server" not in answer.headers
            assert (await client.get("/healthz")).text == "ok\n"
        nursery.cancel_scope.cancel()
        begin = trio.current_time()
    assert trio.current_time() - begin < 5


async def test_a_reader_who_takes_nothing_does_not_keep_us_from_stopping(shown: Shown) -> None:
    shown.statistics = replace(BUSY, tags=(replace(BUSY.tags[0], names=("x" * 1000,)),) * 20_000)
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, make_app(shown.take, HostList.of((), "x", "")))
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(f"GET /api/v1/state HTTP/1.1\r\nhost: {server.address}\r\n\r\n".encode())
        assert await stream.receive_some(100)
        nursery.cancel_scope.cancel()
        begin = trio.current_time()
    assert trio.current_time() - begin < 15
    await stream.aclose()


async def test_garbage_instead_of_http_is_refused_and_others_are_served(shown: Shown) -> None:
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, make_app(shown.take, HostList.of((), "x", "")))
        for garbage in (b"\x16\x03\x01" * 50, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, b"\0" * 200_000):
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                with trio.fail_after(20):
                    try:
                        await stream.send_all(garbage)
                        while await stream.receive_some(65536):
                            pass
                    except trio.BrokenResourceError:
                        pass
        async with Client(base_url=f"http://{server.address}") as client:
            assert (await client.get("/healthz")).status_code == 200
        nursery.cancel_scope.cancel()


async def test_a_request_that_is_cut_off_ends_its_connection_and_nothing_else(shown: Shown) -> None:
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    cut = f"POST / HTTP/1.1\r\nhost: {server.address}\r\ncontent-length: 99999999999\r\n\r\n".encode()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, make_app(shown.take, HostList.of((), "x", "")))
        # hypercorn answers from two tasks at once then; who is first differs from time to time.
        for _ in range(100):
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(cut)
                await stream.send_eof()
                with trio.fail_after(20), contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some(65536):
                        pass
        async with Client(base_url=f"http://{server.address}") as client:
            assert (await client.get("/healthz")).status_code == 200
        nursery.cancel_scope.cancel()


def test_an_address_in_use_is_told_before_anything_starts() -> None:
    server = HttpServer("127.0.0.1:0")
    try:
        with pytest.raises(ConfigError, match="cannot serve HTTP"):
            HttpServer(server.address)
    finally:
        server.close()
