"""The page shows what is there, escapes what nodes wrote, and answers to nobody it should not answer to."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import httpx2
import pytest
import trio
from support.page_world import ADA, BERT, DISK, EVIL, FILM, PATHS, PageWorld
from support.pairs import node, some_tag

from protocol.errors import ConfigError
from runtime.http import HttpServer
from tracker.page.api import json_response
from tracker.page.words import ago, colour, duration, percent, rate, size, utc

Client = httpx2.AsyncClient
ASSETS = ("style.css", "live.js", "uplot.js", "uplot.css", "uplot.LICENSE.txt", "icon.svg")


@pytest.fixture
def world() -> PageWorld:
    return PageWorld()


@pytest.fixture
async def client(world: PageWorld) -> AsyncIterator[Client]:
    async with world.client() as client:
        yield client


def squeezed(text: str) -> str:
    """Return HTML as words: what people read, without the markup between."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


async def test_an_empty_swarm_is_told_what_to_do(client: Client) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200 and "upswarm invite" in answer.text and "upswarm put FILE" in answer.text
    assert "No storage node is here" in answer.text


async def test_an_overview_shows_uploads_storage_nodes_and_files(world: PageWorld, client: Client) -> None:
    await world.is_busy()
    text = squeezed((await client.get("/")).text)
    for expected in (
        "film.mkv open uploader needed",
        "50.0 % 4.0 MiB of 8.0 MiB",
        "s left",
        "0.5 copies elsewhere",
        "3 3 here",
        "5.0 GiB free",
        "ada 3.0 MiB",
        "1 + 2 partly",
    ):
        assert expected in text, expected


async def test_an_upload_shows_every_chunk_in_the_colour_of_who_pushed_it(world: PageWorld, client: Client) -> None:
    await world.is_busy()
    text = (await client.get(f"/jobs/{FILM}")).text
    cells = re.search(r'<div id="cells".*?</div>', text, re.DOTALL)
    assert cells is not None
    assert re.findall(r'<i class="([^"]+)">', cells[0]) == [
        "s c0 o0",
        "s c0 o0",
        "s c0 o0",
        "s c1 o1",
        "w c0 o0",
        "w c1 o1",
        "m",
        "m",
    ]
    words = squeezed(text)
    assert "4 stored 2 on their way 2 missing" in words and "8 chunks of 1.0 MiB" in words
    assert "ada uploader 3.0 MiB 37.5 %" in words and "bert began to push" in words
    assert "bert peer 4 of 8" in words


async def test_a_node_shows_what_it_holds_and_what_it_is_ordered_to_do(world: PageWorld, client: Client) -> None:
    await world.is_busy()
    words = squeezed((await client.get(f"/nodes/{BERT}")).text)
    for expected in ("just now", "began to push: film.mkv", "film.mkv cellar 1.0 MiB", "4 of 8", "connected"):
        assert expected in words, expected


async def test_a_file_shows_its_link_its_copies_and_its_holders(world: PageWorld, client: Client) -> None:
    await world.is_busy()
    text = (await client.get(f"/files/{FILM}")).text
    assert f'value="upswarm:{FILM}?name=film.mkv&amp;size=8388608"' in text
    assert "copies that are here 1.5" in squeezed(text)


async def test_lists_are_paged(world: PageWorld, client: Client) -> None:
    for number in range(120):
        await world.arrives(node(str(number)), f"node {number}")
        await world.holds(node(str(number)), some_tag(f"{number}", 2), name=f"file {number}")
    for path, kind in (("/nodes", "node "), ("/files", "file ")):
        seen = []
        while path:
            text = (await client.get(path)).text
            seen += re.findall(rf">({kind}\d+)</a>", text)
            following = re.search(r'href="([^"]+)">next page', text)
            path = following[1] if following else ""
        assert sorted(seen) == sorted(f"{kind}{number}" for number in range(120))


async def test_what_is_not_there_is_told_in_words(world: PageWorld, client: Client) -> None:
    for path in (f"/jobs/{FILM}", f"/nodes/{ADA}", f"/files/{FILM}", "/jobs/x", "/nodes/../etc", "/nowhere"):
        answer = await client.get(path)
        assert answer.status_code == 404 and "Back to the overview" in answer.text, path
    for path in ("/nodes?after=x", "/files?after=x"):
        assert (await client.get(path)).status_code == 400


# --- nobody is believed ---


@pytest.mark.parametrize("path", PATHS)
async def test_what_nodes_write_is_text_and_nothing_else(world: PageWorld, client: Client, path: str) -> None:
    await world.is_evil()
    text = (await client.get(path)).text
    assert "alert(1)" in text, "it is shown"
    assert len(re.findall("<script", text)) == len(
        re.findall(r'<script src="/static/[a-z]+\.js\?v=[0-9a-f]+" defer>', text)
    )
    assert "\u202e" not in text and "\x1b" not in text
    assert not re.search(r"<[^>]*alert", re.sub(r'value="[^"]*"', "", text)), "nor inside a tag"


async def test_live_pieces_are_escaped_as_the_page_is(world: PageWorld, client: Client) -> None:
    await world.is_evil()
    for view, what in (("overview", ""), ("job", str(FILM)), ("node", str(DISK)), ("file", str(FILM))):
        picture = await world.page._painter.picture(view, what)
        assert picture is not None
        told = picture.title + "".join(html for pieces in picture.regions.values() for _, html in pieces)
        assert "<script" not in told.replace(picture.title, "") and "\x1b" not in told and "\u202e" not in told
        assert all(re.fullmatch(r"[a-z0-9-]+", piece) for pieces in picture.regions.values() for piece, _ in pieces)
        assert "\u202e" not in str(picture.values)


async def test_what_nodes_write_does_not_get_into_metrics(world: PageWorld, client: Client) -> None:
    await world.is_evil()
    assert "alert" not in (await client.get("/metrics")).text


async def test_json_carries_what_nodes_wrote_as_json_strings(world: PageWorld, client: Client) -> None:
    await world.is_evil()
    answer = await client.get("/api/v1/state")
    assert answer.json()["jobs"][0]["name"] == EVIL and answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path", [*PATHS, "/api/v1/state", "/healthz", "/readyz", "/metrics", "/nowhere", "/api/v1/x", "/static/style.css"]
)
async def test_every_answer_carries_a_strict_policy(client: Client, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers and "set-cookie" not in headers
    assert headers["cache-control"] == ("max-age=300" if path.startswith("/static") else "no-store")


@pytest.mark.parametrize("path", PATHS)
async def test_pages_need_nothing_from_elsewhere_and_nothing_inline(
    world: PageWorld, client: Client, path: str
) -> None:
    await world.is_busy()
    text = (await client.get(path)).text
    assert not re.search(r"\sstyle=|\son\w+=|javascript:|https?://", text)
    for link in set(re.findall(r'(?:src|href)="([^"#]+)"', text)):
        assert (await client.get(link.replace("&amp;", "&"))).status_code == 200, link


async def test_what_we_serve_of_others_loads_nothing_and_carries_its_licence(client: Client) -> None:
    for name in ASSETS:
        answer = await client.get(f"/static/{name}")
        assert answer.status_code == 200 and "url(" not in answer.text and "@import" not in answer.text, name
    assert "MIT" in (await client.get("/static/uplot.LICENSE.txt")).text
    assert (await client.get("/static/../guard.py")).status_code == 404


async def test_a_static_file_may_be_kept_because_its_address_says_what_is_in_it(client: Client) -> None:
    (link,) = set(re.findall(r'href="(/static/style\.css\?v=[0-9a-f]{12})"', (await client.get("/")).text))
    assert "max-age=31536000" in (await client.get(link)).headers["cache-control"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(client: Client, method: str) -> None:
    for path in (*PATHS, "/api/v1/state", "/live/overview", "/metrics", "/static/live.js"):
        assert (await client.request(method, path)).status_code == 405, path


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
    paths = ["/", "/api/v1/state", "/static/live.js", "/metrics", "/healthz"]
    for path in paths if allowed else [*paths, "/live/overview"]:
        answer = await client.get(path, headers={"host": host})
        assert answer.status_code == (200 if allowed else 403), host


async def test_probes_answer_shortly(client: Client) -> None:
    assert (await client.get("/healthz")).text == "ok\n"
    assert (await client.get("/readyz")).text == "ready\n"


async def test_an_index_that_does_not_answer_is_not_ready_and_alive_all_the_same(
    world: PageWorld, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_now: float) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(world.index, "counts", never)
    monkeypatch.setattr("tracker.page.routes.READY_SECONDS_MAX", 0.05)
    answer = await client.get("/readyz")
    assert answer.status_code == 503 and "index" in answer.text
    assert (await client.get("/healthz")).status_code == 200


# --- words ---


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
    assert [rate(n) for n in (0, 700, 1536)] == ["0 B/s", "0 B/s", "1.5 KiB/s"]
    assert [duration(s) for s in (0.9, 59, 61, 3700, 90000)] == ["0 s", "59 s", "1 min 01 s", "1 h 01 min", "1 d 1 h"]
    assert [ago(s) for s in (0, 14, 59, 61, 3700, 90000)] == [
        "just now",
        "just now",
        "45 s ago",
        "1 min ago",
        "1 h ago",
        "1 d 1 h ago",
    ]
    assert [percent(part, 3) for part in (0, 1, 2.9999, 3)] == ["0.0 %", "33.3 %", "99.9 %", "100 %"]
    assert [colour(place) for place in (0, 7, 8, 200)] == [0, 7, 8, 8]


@pytest.mark.parametrize("at", [-1, 0, 2**53, 10**18])
def test_a_date_that_cannot_be_is_shown_as_some_date(at: int) -> None:
    assert utc(at) == "1970-01-01T00:00:00Z"


# --- over real HTTP ---


async def test_it_is_served_over_real_http_and_stops_when_told(world: PageWorld) -> None:
    server = HttpServer("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(world.page.run)
        await nursery.start(server.run, world.page.app)
        async with Client(base_url=f"http://{server.address}") as client:
            answer = await client.get("/")
            assert answer.status_code == 200 and "server" not in answer.headers
            assert (await client.get("/healthz")).text == "ok\n"
        nursery.cancel_scope.cancel()
        begin = trio.current_time()
    assert trio.current_time() - begin < 5


async def test_a_reader_who_takes_nothing_does_not_keep_us_from_stopping(world: PageWorld) -> None:
    for number in range(200):
        await world.holds(ADA, some_tag(str(number), 8))
        await world.arrives(node(str(number)), "x" * 60)
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.page.run)
        await nursery.start(server.run, world.page.app)
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(f"GET /live/overview HTTP/1.1\r\nhost: {server.address}\r\n\r\n".encode())
        assert await stream.receive_some(100)
        nursery.cancel_scope.cancel()
        begin = trio.current_time()
    assert trio.current_time() - begin < 15
    await stream.aclose()


async def test_garbage_instead_of_http_is_refused_and_others_are_served(world: PageWorld) -> None:
    server = HttpServer("127.0.0.1:0")
    host, port = server.address.rsplit(":", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, world.page.app)
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


def test_an_address_in_use_is_told_before_anything_starts() -> None:
    server = HttpServer("127.0.0.1:0")
    try:
        with pytest.raises(ConfigError, match="cannot serve HTTP"):
            HttpServer(server.address)
    finally:
        server.close()


def test_json_is_ascii_and_says_the_same() -> None:
    name = "\x1b[2J \x9b \x7f \u202e \U0001f600 ä"
    body = json_response({"name": name, "list": [name]}).body
    assert bytes(body).isascii() and b"\x7f" not in body
    assert json.loads(bytes(body)) == {"name": name, "list": [name]}
