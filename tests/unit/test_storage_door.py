"""The HTTP door: who may read, what is found, ranges, conditions, and readers that hang up."""

from __future__ import annotations

import base64
import email
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from support.runtimes import memory_runtime
from support.storage_node import Site, manifest_of, some_bytes
from trio.testing import MockClock

from protocol.errors import ConfigError, StorageUnavailable
from protocol.limits import MIB
from storage.app import StorageNode
from storage.door import READERS_MAX, Door, door_token

TOKEN = "0123456789abcdef-token"
DATA = some_bytes(1 * MIB + 12345)
TAG = manifest_of(DATA).tag
OTHER = some_bytes(1000, 2)


@asynccontextmanager
async def reading(tmp_path: Path, **headers: str) -> AsyncIterator[tuple[httpx2.AsyncClient, StorageNode]]:
    """A node that stores DATA and OTHER, and a client with the token."""
    site = Site(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        assert (await anna.put(link, OTHER, "films/a b.mp4")).proven
        assert (await anna.put(link, DATA, "films/a b.mp4")).proven
        assert (await anna.put(link, b"", "empty.html")).proven
        transport = httpx2.ASGITransport(storage.door(TOKEN))
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://door", headers={"authorization": f"Bearer {TOKEN}", **headers}
        ) as client:
            yield client, storage


async def test_a_file_comes_by_tag_and_by_name(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with reading(tmp_path) as (client, _):
        for path in (f"/tag/{TAG}", "/name/films/a%20b.mp4"):
            answer = await client.get(path)
            assert (answer.status_code, answer.content) == (200, DATA)
            assert answer.headers["etag"] == f'"{TAG}"'
            assert answer.headers["content-length"] == str(len(DATA))
            assert answer.headers["content-type"] == "video/mp4"
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''a%20b.mp4"
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert {**head.headers} == {**answer.headers}
        # An earlier version is reachable by its tag alone.
        earlier = await client.get(f"/tag/{manifest_of(OTHER).tag}")
        assert earlier.content == OTHER and "immutable" in earlier.headers["cache-control"]
        assert (await client.get("/name/films/a b.mp4")).headers["cache-control"] == "private, no-cache"


async def test_an_empty_file_is_a_file(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with reading(tmp_path) as (client, _):
        answer = await client.get("/name/empty.html")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await client.get("/name/empty.html", headers={"range": "bytes=0-0"})).status_code == 416


async def test_strangers_files_run_nothing_in_a_browser(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with reading(tmp_path) as (client, _):
        for answer in (await client.get("/name/empty.html"), await client.get("/no")):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Basic !", "Basic bm9uZQ==", "é"],
)
async def test_without_the_token_nothing_is_told(autojump_clock: MockClock, tmp_path: Path, authorization: str) -> None:
    async with reading(tmp_path) as (client, _):
        client.headers = httpx2.Headers({"authorization": authorization.encode()} if authorization else {})
        for path in (f"/tag/{TAG}", "/tag/none", "/", "/name/films/a b.mp4"):
            answer = await client.get(path)
            assert answer.status_code == 401 and answer.text == "the token of this storage node is needed\n"
            assert answer.headers.get_list("www-authenticate")[0] == "Bearer"


async def test_the_token_may_be_a_password(autojump_clock: MockClock, tmp_path: Path) -> None:
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    async with reading(tmp_path, authorization=f"Basic {basic}") as (client, _):
        assert (await client.get(f"/tag/{TAG}")).content == DATA


@pytest.mark.parametrize(
    "path",
    ["/", "/tag/", "/tag/x", f"/tag/{manifest_of(b'no').tag}", "/name/", "/name/no", "/name/" + "x" * 5000, "//"],
)
async def test_what_is_not_stored_is_not_found(autojump_clock: MockClock, tmp_path: Path, path: str) -> None:
    async with reading(tmp_path) as (client, _):
        assert (await client.get(path)).status_code == 404


async def test_only_reading_is_possible(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with reading(tmp_path) as (client, _):
        for method in ("PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
            answer = await client.request(method, f"/tag/{TAG}")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_one_range_comes_alone(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with reading(tmp_path) as (client, _):
        for start, end in ((0, 1), (5, 300_000), (len(DATA) - 1, len(DATA))):
            answer = await client.get(f"/tag/{TAG}", headers={"range": f"bytes={start}-{end - 1}"})
            assert (answer.status_code, answer.content) == (206, DATA[start:end])
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        beyond = await client.get(f"/tag/{TAG}", headers={"range": f"bytes={len(DATA)}-"})
        assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{len(DATA)}"


async def test_several_ranges_come_in_parts(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with reading(tmp_path) as (client, _):
        answer = await client.get(f"/tag/{TAG}", headers={"range": "bytes=0-9,500000-500099,-5"})
        assert answer.status_code == 206 and int(answer.headers["content-length"]) == len(answer.content)
        message = email.message_from_bytes(
            b"content-type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content
        )
        parts = message.get_payload()
        assert [part.get_payload(decode=True) for part in parts] == [DATA[:10], DATA[500000:500100], DATA[-5:]]
        assert parts[1]["content-range"] == f"bytes 500000-500099/{len(DATA)}"
        assert parts[1]["content-type"] == "video/mp4"


async def test_conditions_hold(autojump_clock: MockClock, tmp_path: Path) -> None:
    path, etag = "/name/films/a b.mp4", f'"{TAG}"'
    async with reading(tmp_path) as (client, _):
        for header, value, status in (
            ("if-none-match", etag, 304),
            ("if-none-match", f'"x", W/{etag}', 304),
            ("if-none-match", '"x"', 200),
            ("if-match", etag, 200),
            ("if-match", '"x"', 412),
        ):
            answer = await client.get(path, headers={header: value})
            assert (header, value, answer.status_code) == (header, value, status)
            assert status != 304 or answer.content == b""
        for value, status in ((etag, 206), ('"an older one"', 200)):
            answer = await client.get(path, headers={"range": "bytes=0-9", "if-range": value})
            assert answer.status_code == status


async def test_metrics_tell_what_is_kept_and_only_with_the_token(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with reading(tmp_path) as (client, _):
        answer = await client.get("/metrics")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        assert samples["upswarm_storage_node_stored_files"] == 3
        assert samples["upswarm_storage_node_stored_bytes"] == len(DATA) + len(OTHER)
        assert samples["upswarm_storage_node_rotten_chunks_total"] == 0
        client.headers["authorization"] = "Bearer wrong"
        assert (await client.get("/metrics")).status_code == 401


async def test_a_store_that_does_not_answer_is_told(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(tmp_path) as (client, storage):

        async def away(_tag: object) -> None:
            raise StorageUnavailable("S3 is away")

        monkeypatch.setattr(storage._backend, "open", away)
        answer = await client.get(f"/tag/{TAG}")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "10"


async def test_readers_that_hang_up_end_their_reading_and_too_many_are_turned_away(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with reading(tmp_path) as (client, _):
        transport = client._transport
        assert isinstance(transport, httpx2.ASGITransport)
        door = transport.app
        assert isinstance(door, Door)
        hang_up = trio.Event()
        statuses: list[int] = []

        async def receive() -> MutableMapping[str, Any]:
            await hang_up.wait()
            return {"type": "http.disconnect"}

        async def stalled(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            elif message["body"]:
                await trio.sleep_forever()

        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/tag/{TAG}",
            "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
        }
        with trio.fail_after(60):
            async with trio.open_nursery() as readers:
                for _ in range(READERS_MAX):
                    readers.start_soon(door, dict(scope), receive, stalled)
                await trio.testing.wait_all_tasks_blocked()
                assert (await client.get(f"/tag/{TAG}")).status_code == 503
                hang_up.set()
        assert statuses == [200] * READERS_MAX
        assert (await client.get(f"/tag/{TAG}")).content == DATA


# --- the token ---


async def test_a_token_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "http-token"
    token = await door_token(memory_runtime(), path)
    assert len(token) == 64 and path.stat().st_mode & 0o777 == 0o600
    assert await door_token(memory_runtime(seed=2), path) == token


async def test_a_token_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for text, mode, says in (
        (TOKEN, 0o644, "chmod 0600"),
        ("short", 0o600, "at least 16"),
        ("é" * 20, 0o600, "at least"),
    ):
        path.write_text(text)
        path.chmod(mode)
        with pytest.raises(ConfigError, match=says) as told:
            await door_token(memory_runtime(), path)
        assert TOKEN not in str(told.value)
