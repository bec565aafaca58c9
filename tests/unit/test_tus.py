"""Uploads by tus: what each method does, what is kept when a request breaks off or a node dies, what is refused."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from support.storage_node import Site, manifest_of, some_bytes
from trio.testing import MockClock

from protocol.limits import MIB
from storage.app import StorageNode
from storage.tus.arrivals import BYTES_BETWEEN_SYNCS
from storage.tus.handler import STORED_SECONDS_MAX

TOKEN = "0123456789abcdef-token"
DATA = some_bytes(2 * MIB + 12345)
TAG = manifest_of(DATA).tag
SPOKEN = {"authorization": f"Bearer {TOKEN}", "tus-resumable": "1.0.0"}
BYTES = {"content-type": "application/offset+octet-stream"}


def named(name: str) -> dict[str, str]:
    return {"upload-metadata": f"filename {base64.b64encode(name.encode()).decode()},draft"}


def site_of(tmp_path: Path, **settings: object) -> Site:
    site = Site(tmp_path)
    site.settings |= {"http": "127.0.0.1:0", "http_uploads": True, **settings}
    return site


@asynccontextmanager
async def client_of(storage: StorageNode) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(storage.door(TOKEN))
    async with httpx2.AsyncClient(transport=transport, base_url="http://door", headers=SPOKEN) as client:
        yield client


@asynccontextmanager
async def uploading(tmp_path: Path, **settings: object) -> AsyncIterator[tuple[httpx2.AsyncClient, StorageNode]]:
    async with site_of(tmp_path, **settings).storage() as storage, client_of(storage) as client:
        yield client, storage


async def created(client: httpx2.AsyncClient, length: int, **headers: str) -> str:
    answer = await client.post("/tus/", headers={"upload-length": str(length), **headers})
    assert answer.status_code == 201, answer.text
    assert answer.headers["tus-resumable"] == "1.0.0" and answer.headers["upload-offset"] == "0"
    return f"/tus/{answer.headers['location']}"


async def patched(client: httpx2.AsyncClient, url: str, offset: int, data: bytes, **headers: str) -> httpx2.Response:
    return await client.patch(url, content=data, headers={"upload-offset": str(offset), **BYTES, **headers})


async def test_what_came_in_pieces_is_stored_under_its_name(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage):
        url = await created(client, len(DATA), **named("films/a b.mp4"))
        half = len(DATA) // 2
        first = await patched(client, url, 0, DATA[:half])
        assert (first.status_code, first.headers["upload-offset"]) == (204, str(half))
        assert first.headers["upload-expires"].endswith("GMT") and "upswarm-tag" not in first.headers
        head = await client.head(url)
        assert (head.status_code, head.headers["upload-offset"], head.headers["upload-length"]) == (
            200,
            str(half),
            str(len(DATA)),
        )
        assert head.headers["cache-control"] == "no-store" and head.headers["upload-metadata"].endswith("draft")
        last = await patched(client, url, half, DATA[half:])
        assert (last.status_code, last.headers["upswarm-tag"]) == (204, str(TAG))
        assert (await client.get("/name/films/a%20b.mp4")).content == DATA
        (file,) = storage.shelf.stored.values()
        assert (file.tag, file.names) == (TAG, ("films/a b.mp4",))
        # Who missed the last answer asks, and hears it.
        again = await client.head(url)
        assert (again.headers["upload-offset"], again.headers["upswarm-tag"]) == (str(len(DATA)), str(TAG))
        assert not list((tmp_path / "storage" / "data" / "arrivals").glob("*.part"))


async def test_options_tell_what_is_possible(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, _):
        answer = await client.options("/tus/", headers={"tus-resumable": "0.2.2"})
        assert (answer.status_code, answer.headers["tus-version"]) == (204, "1.0.0")
        assert "creation-with-upload" in answer.headers["tus-extension"]
        assert "sha1" in answer.headers["tus-checksum-algorithm"].split(",")


async def test_a_small_file_comes_with_its_creation(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage):
        for data in (b"hello", b""):
            answer = await client.post(
                "/tus", content=data, headers={"upload-length": str(len(data)), **BYTES, **named("x")}
            )
            assert (answer.status_code, answer.headers["upload-offset"]) == (201, str(len(data)))
            assert answer.headers["location"].startswith("tus/")
            assert answer.headers["upswarm-tag"] == str(manifest_of(data).tag)
        assert [file.names for file in storage.shelf.stored.values() if file.size_bytes == 0] == [("x",)]


async def test_what_is_stored_already_is_only_named(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with site_of(tmp_path).storage() as storage, client_of(storage) as client:
        for name in ("one", "other"):
            url = await created(client, len(DATA), **named(name))
            assert (await patched(client, url, 0, DATA)).headers["upswarm-tag"] == str(TAG)
        (file,) = storage.shelf.stored.values()
        assert set(file.names) == {"one", "other"}


async def test_a_whole_file_ends_a_job_that_is_under_way_and_its_uploader_is_told(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna, client_of(storage) as client:
        link = await anna.dial()
        await anna.begin_put(link, DATA, "hers", chunks=[0])
        await anna.wait_stored(TAG, 1)
        url = await created(client, len(DATA), **named("ours"))
        assert (await patched(client, url, 0, DATA)).headers["upswarm-tag"] == str(TAG)
        closed = await anna.wait_closed(TAG)
        assert (closed.state, closed.proven) == ("stored", True), "she delivered a chunk of it"
        assert set(storage.shelf.stored[TAG].names) == {"hers", "ours"}
        assert (await client.get(f"/tag/{TAG}")).content == DATA


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
async def test_a_body_that_is_not_what_its_checksum_says_is_not_kept(
    autojump_clock: MockClock, tmp_path: Path, algorithm: str
) -> None:
    async with uploading(tmp_path) as (client, _):
        url = await created(client, len(DATA))
        text = base64.b64encode(hashlib.new(algorithm, DATA).digest()).decode()
        wrong = await patched(client, url, 0, DATA[:-1] + b"x", **{"upload-checksum": f"{algorithm} {text}"})
        assert wrong.status_code == 460 and (await client.head(url)).headers["upload-offset"] == "0"
        right = await patched(client, url, 0, DATA, **{"upload-checksum": f"{algorithm} {text}"})
        assert right.headers["upswarm-tag"] == str(TAG)


async def test_an_upload_that_was_given_up_is_gone(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage):
        promised = storage.room.last_free_bytes
        url = await created(client, 1 << 30)
        await patched(client, url, 0, b"x" * 1000)
        assert (await client.delete(url)).status_code == 204
        for answer in (await client.head(url), await patched(client, url, 1000, b"y"), await client.delete(url)):
            assert answer.status_code == 404
        assert list((tmp_path / "storage" / "data" / "arrivals").iterdir()) == []
        assert await storage.room.free_bytes() > promised - (1 << 29)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"tus-resumable": "0.2.2", "upload-length": "1"}, 412),
        ("POST", {}, 400),
        ("POST", {"upload-length": "-1"}, 400),
        ("POST", {"upload-defer-length": "1"}, 400),
        ("POST", {"upload-length": str(2**51)}, 413),
        ("POST", {"upload-length": str(2**50)}, 507),
        ("POST", {"upload-length": "1", "upload-metadata": "filename !"}, 400),
        ("GET", {}, 405),
        ("PATCH", {"upload-offset": "0"}, 415),
        ("PATCH", {**BYTES, "upload-offset": "1"}, 409),
        ("PATCH", BYTES, 400),
        ("PATCH", {**BYTES, "upload-offset": "0", "upload-checksum": "crc32 AAAA"}, 400),
    ],
)
async def test_what_makes_no_sense_is_refused(
    autojump_clock: MockClock, tmp_path: Path, method: str, headers: dict[str, str], status: int
) -> None:
    async with uploading(tmp_path) as (client, _):
        url = "/tus/" if method == "POST" else await created(client, 10)
        answer = await client.request(method, url, headers=headers, content=b"abc" if method == "PATCH" else b"")
        assert answer.status_code == status, answer.text
        assert answer.headers["tus-resumable"] == "1.0.0"


async def test_more_bytes_than_announced_are_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage):
        url = await created(client, 3)
        sender = Sender(storage, url, 0)
        sender.pieces.send_nowait(b"four")
        await sender.run()
        assert sender.status == 400
        assert (await client.head(url)).headers["upload-offset"] == "0"
        assert (await patched(client, url, 0, b"two")).status_code == 204
        assert len(storage.shelf.stored) == 1


async def test_a_method_may_come_in_a_header(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, _):
        url = await created(client, len(DATA))
        answer = await client.post(
            url, content=DATA, headers={"x-http-method-override": "PATCH", "upload-offset": "0", **BYTES}
        )
        assert answer.headers["upswarm-tag"] == str(TAG)


async def test_without_the_token_nothing_can_be_uploaded(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage):
        client.headers["authorization"] = "Bearer wrong"
        for method in ("POST", "OPTIONS", "HEAD", "PATCH"):
            assert (await client.request(method, "/tus/", headers={"upload-length": "1"})).status_code == 401
        assert storage.arrivals is not None and len(storage.arrivals) == 0


async def test_uploads_must_be_allowed(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path, http_uploads=False) as (client, _):
        assert (await client.post("/tus/", headers={"upload-length": "1"})).status_code == 405


# --- requests that break off ---


class Sender:
    """A PATCH whose body comes as the test says."""

    def __init__(self, storage: StorageNode, url: str, offset: int) -> None:
        self._door = storage.door(TOKEN)
        self._url = url
        self._offset = offset
        self.pieces, self._arriving = trio.open_memory_channel[bytes | None](100)
        self.status = 0

    async def run(self) -> None:
        async def receive() -> MutableMapping[str, Any]:
            piece = await self._arriving.receive()
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": True}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]

        headers = {**SPOKEN, **BYTES, "upload-offset": str(self._offset)}
        scope: dict[str, Any] = {
            "type": "http",
            "method": "PATCH",
            "path": self._url,
            "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        }
        await self._door(scope, receive, send)


async def test_what_came_before_a_client_hung_up_counts(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage), trio.open_nursery() as sending:
        url = await created(client, len(DATA))
        sender = Sender(storage, url, 0)
        sender.pieces.send_nowait(DATA[:1000])
        sender.pieces.send_nowait(None)
        with trio.fail_after(60):
            await sender.run()
        assert (await client.head(url)).headers["upload-offset"] == "1000"
        assert (await patched(client, url, 1000, DATA[1000:])).headers["upswarm-tag"] == str(TAG)
        sending.cancel_scope.cancel()


async def test_who_comes_again_takes_over_from_a_connection_that_hangs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with uploading(tmp_path) as (client, storage), trio.open_nursery() as sending:
        url = await created(client, len(DATA))
        sender = Sender(storage, url, 0)
        sender.pieces.send_nowait(DATA[:1000])
        sending.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        begin = trio.current_time()
        assert (await client.head(url)).headers["upload-offset"] == "1000"
        assert (await patched(client, url, 1000, DATA[1000:])).headers["upswarm-tag"] == str(TAG)
        assert trio.current_time() - begin < STORED_SECONDS_MAX
        assert sender.status == 409


async def test_a_body_that_falls_silent_is_not_waited_for_long(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage):
        url = await created(client, len(DATA))
        sender = Sender(storage, url, 0)
        sender.pieces.send_nowait(DATA[:10])
        with trio.fail_after(300):
            await sender.run()
        assert sender.status == 408
        assert (await client.head(url)).headers["upload-offset"] == "10"


# --- restarts, and uploads that nobody goes on with ---


async def test_an_upload_goes_on_after_a_restart(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, client_of(storage) as client:
        url = await created(client, len(DATA), **named("x"))
        await patched(client, url, 0, DATA[:777])
    async with site.storage() as storage, client_of(storage) as client:
        assert (await client.head(url)).headers["upload-offset"] == "777"
        assert (await patched(client, url, 777, DATA[777:])).headers["upswarm-tag"] == str(TAG)
    async with site.storage() as storage, client_of(storage) as client:
        assert (await client.head(url)).headers["upswarm-tag"] == str(TAG)
        assert storage.shelf.stored[TAG].names == ("x",)


async def test_bytes_that_were_never_recorded_do_not_count(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, client_of(storage) as client:
        url = await created(client, len(DATA))
        await patched(client, url, 0, DATA[:500])
    (part,) = (tmp_path / "storage" / "data" / "arrivals").glob("*.part")
    with part.open("ab") as file:
        file.write(bytes(10_000))  # as after a power cut
    async with site.storage() as storage, client_of(storage) as client:
        assert (await client.head(url)).headers["upload-offset"] == "500"
        assert (await patched(client, url, 500, DATA[500:])).headers["upswarm-tag"] == str(TAG)
        assert (await client.get(f"/tag/{TAG}")).content == DATA


Crash = Callable[[StorageNode, pytest.MonkeyPatch], None]


def before_the_rename(storage: StorageNode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.arrivals is not None
    adopt: Any = storage.arrivals._adopt
    monkeypatch.setattr(adopt.__self__, "_rename", _die)


def after_the_rename(storage: StorageNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.intake, "go_on", _die_soon)


def after_it_was_stored(storage: StorageNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage._ledger, "add_name", _die_soon)


class Killed(Exception):
    """As if the process had ended here."""


def _die(*_: object) -> None:
    raise Killed


async def _die_soon(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("crash", [before_the_rename, after_the_rename, after_it_was_stored])
@pytest.mark.parametrize("partly", [False, True])
async def test_a_kill_while_it_is_being_stored_loses_nothing(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: Crash, partly: bool
) -> None:
    site = site_of(tmp_path)
    url = ""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with site.storage() as storage, site.uploader() as anna, client_of(storage) as client:
            if partly:
                await anna.begin_put(await anna.dial(), DATA, "hers", chunks=[1])
                await anna.wait_stored(TAG, 1)
            url = await created(client, len(DATA), **named("x"))
            crash(storage, monkeypatch)
            await patched(client, url, 0, DATA)
    assert caught.group_contains(Killed)
    async with site.storage() as storage, client_of(storage) as client:
        with trio.fail_after(300):
            while (answer := await client.head(url)).status_code != 200:
                await trio.sleep(1)
        assert answer.headers["upswarm-tag"] == str(TAG)
        assert "x" in storage.shelf.stored[TAG].names
        assert (await client.get(f"/tag/{TAG}")).content == DATA


async def test_an_upload_that_nobody_goes_on_with_is_removed(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path, http_upload_seconds=3600.0) as (client, storage):
        url, other = await created(client, 100), await created(client, 100)
        for _ in range(3):
            await patched(client, other, int((await client.head(other)).headers["upload-offset"]), b"x")
            await trio.sleep(1800)
        assert (await client.head(url)).status_code == 404
        assert (await client.head(other)).headers["upload-offset"] == "3"
        await trio.sleep(7200)
        assert storage.arrivals is not None and len(storage.arrivals) == 0
        assert list((tmp_path / "storage" / "data" / "arrivals").iterdir()) == []


async def test_so_many_uploads_and_no_more(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage):
        assert storage.arrivals is not None
        storage.arrivals._uploads_max = 2
        for _ in range(2):
            await created(client, 100)
        answer = await client.post("/tus/", headers={"upload-length": "1"})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"


async def test_a_long_body_is_recorded_on_its_way(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with uploading(tmp_path) as (client, storage), trio.open_nursery() as sending:
        url = await created(client, 3 * BYTES_BETWEEN_SYNCS)
        sender = Sender(storage, url, 0)
        for _ in range(BYTES_BETWEEN_SYNCS // MIB + 1):
            sender.pieces.send_nowait(bytes(MIB))
        sending.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        assert storage.arrivals is not None
        with trio.fail_after(60):
            while (known := storage.arrivals.get(url.rpartition("/")[2])) is None or (
                known.record.offset < BYTES_BETWEEN_SYNCS
            ):
                await trio.sleep(0.1)
        sending.cancel_scope.cancel()
