"""What the S3 backend does when the store refuses, fails, lies or forgets: it waits, goes on, or says so clearly."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from support.fake_s3 import BUCKET, FakeS3, Stored, Upload, refuse, settings
from support.runtimes import memory_runtime
from support.storage_node import manifest_of, some_bytes
from trio.testing import MockClock

from protocol.errors import ChunkMissing, ConfigError, StorageBroken, StorageFull, StorageUnavailable
from protocol.ids import Tag
from protocol.limits import MIB, SMALL_FILE_BYTES_MAX
from runtime.seam import Runtime, Web
from runtime.web import open_web
from storage.backends.base import Backend
from storage.backends.retrying import RetryingBackend
from storage.backends.s3 import S3Backend

SMALL = some_bytes(100_000)
LARGE = some_bytes(SMALL_FILE_BYTES_MAX + 1 * MIB)  # nine parts, the last one of 1 MiB


@cache  # hashing 65 MiB takes longer than most of these tests
def tag_of(data: bytes) -> Tag:
    return manifest_of(data).tag


LARGE_TAG = tag_of(LARGE)
FIRST_64_MIB = LARGE[:SMALL_FILE_BYTES_MAX]


@pytest.fixture
def fake() -> FakeS3:
    return FakeS3()


class Bench:
    """A backend on a store, and a folder of spool files."""

    def __init__(self, fake: FakeS3, web: Web, folder: Path) -> None:
        self.fake = fake
        self.runtime: Runtime = memory_runtime()
        self.web = web
        self.spool = folder / "spool"

    def plain(self, owner: str = "us", **options: Any) -> S3Backend:
        return S3Backend(self.runtime, self.web, settings(), self.spool, owner=owner, **options)

    async def backend(self, **options: Any) -> Backend:
        backend = RetryingBackend(self.runtime, self.plain(**options))
        await backend.prepare()
        return backend

    def file(self, data: bytes) -> tuple[Tag, Path, int]:
        tag = tag_of(data)
        path = self.spool / str(tag)
        path.write_bytes(data)
        return tag, path, len(data)

    def stored(self, data: bytes) -> Stored | None:
        return self.fake.objects.get(f"node/objects/{tag_of(data)}")


@asynccontextmanager
async def bench_on(fake: FakeS3, folder: Path) -> AsyncIterator[Bench]:
    async with open_web(fake) as web:
        yield Bench(fake, web, folder)


@pytest.fixture
async def bench(fake: FakeS3, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(fake, tmp_path) as bench:
        yield bench


# --- how it stores ---


async def test_a_large_file_goes_in_parts_of_a_chunk_each_and_its_checksum_is_the_tag(bench: Bench) -> None:
    backend = await bench.backend()
    await backend.store(*bench.file(LARGE))
    stored = bench.stored(LARGE)
    assert stored is not None and stored.data == LARGE
    assert bench.fake.called("PUT part") == LARGE_TAG.chunks == 9
    assert stored.checksum.endswith("-9")
    assert not list(bench.spool.iterdir()) and not bench.fake.uploads and not bench.fake.refused


async def test_a_file_of_64_mib_is_one_request(bench: Bench) -> None:
    backend = await bench.backend()
    await backend.store(*bench.file(FIRST_64_MIB))
    assert bench.fake.called("PUT object") == 2  # whose prefix it is, and the file
    assert bench.fake.called("PUT part") == 0


async def test_what_is_there_already_is_not_sent_again(bench: Bench) -> None:
    """A process that was killed after its last request and before it removed the spool file."""
    backend = await bench.backend()
    for data in (SMALL, LARGE):
        await backend.store(*bench.file(data))
    sent = bench.fake.called("PUT")
    for data in (SMALL, LARGE):
        await backend.store(*bench.file(data))
    assert bench.fake.called("PUT") == sent
    assert not list(bench.spool.iterdir())


async def test_memory_does_not_grow_with_the_file(bench: Bench) -> None:
    """No piece of a body is larger than 1 MiB."""
    sizes: list[int] = []

    class Watching:
        async def ask(self, *args: Any, **options: Any) -> Any:
            body = args[3]
            if not isinstance(body, bytes):
                async for piece in body:
                    sizes.append(len(piece))
            return await bench.web.ask(*args, **options)

    backend = S3Backend(bench.runtime, Watching(), settings(), bench.spool, owner="us")
    await backend.prepare()
    await backend.store(*bench.file(LARGE))
    assert sum(sizes) == len(LARGE) and max(sizes) <= MIB


# --- when the store has a bad moment ---

FAILURES: dict[str, Callable[[], httpx2.Response | Exception]] = {
    "500": lambda: refuse(500, "InternalError"),
    "503": lambda: refuse(503, "SlowDown"),
    "503 in so many seconds": lambda: refuse(503, "SlowDown", **{"retry-after": "3"}),
    "502 of a proxy": lambda: httpx2.Response(502, text="<html>Bad gateway</html>"),
    "a part that arrived damaged": lambda: refuse(400, "BadDigest"),
    "refused connection": lambda: httpx2.ConnectError("connection refused"),
    "cut off": lambda: httpx2.RemoteProtocolError("server disconnected"),
    "silence": lambda: httpx2.ReadTimeout("timed out"),
}
STEPS = ["HEAD object", "POST begin", "PUT part 1", "PUT part 9", "POST complete"]


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("failure", FAILURES)
async def test_every_step_of_an_upload_is_tried_again(autojump_clock: MockClock, bench: Bench, failure: str) -> None:
    backend = await bench.backend()
    for step in STEPS:
        bench.fake.next_call(step, FAILURES[failure])
    await backend.store(*bench.file(LARGE))
    stored = bench.stored(LARGE)
    assert stored is not None and stored.data == LARGE
    # A part that was taken is not sent again.
    assert bench.fake.called("PUT part") == 9 + 2
    assert bench.fake.called("POST begin") == 2 and not bench.fake.uploads


async def test_an_outage_is_told_and_the_next_call_goes_on_where_it_was(
    autojump_clock: MockClock, bench: Bench
) -> None:
    backend = await bench.backend()
    file = bench.file(LARGE)
    bench.fake.next_call("PUT part 5", lambda: refuse(503, "ServiceUnavailable"), times=100)
    with pytest.raises(StorageUnavailable, match="503 ServiceUnavailable") as told:
        await backend.store(*file)
    assert told.value.retry_after_seconds <= 10
    assert file[1].exists()
    bench.fake.faults.clear()
    sent = bench.fake.called("PUT part")
    await backend.store(*file)
    assert bench.fake.called("PUT part") - sent == 1
    assert bench.fake.called("POST begin") == 1


async def test_a_spool_file_that_disappears_during_an_outage_ends_the_upload(
    autojump_clock: MockClock, bench: Bench
) -> None:
    backend = await bench.backend()
    file = bench.file(LARGE)
    bench.fake.next_call("PUT part 2", lambda: refuse(503, "SlowDown"), times=100)
    with pytest.raises(StorageUnavailable):
        await backend.store(*file)
    file[1].unlink()
    with pytest.raises(ChunkMissing):
        await backend.store(*file)
    assert not bench.fake.uploads


@pytest.mark.parametrize(
    ("code", "hint"),
    [("AccessDenied", "right to list"), ("SignatureDoesNotMatch", "secret key"), ("NoSuchBucket", "make the bucket")],
)
async def test_what_asking_again_does_not_mend_is_told_at_once(
    autojump_clock: MockClock, bench: Bench, code: str, hint: str
) -> None:
    backend = await bench.backend()
    bench.fake.next_call("PUT object", lambda: refuse(403, code), times=100)
    begun = trio.current_time()
    with pytest.raises(StorageUnavailable, match=hint) as told:
        await backend.store(*bench.file(SMALL))
    assert trio.current_time() == begun and told.value.retry_after_seconds >= 30
    assert bench.fake.called("PUT object") == 2


@pytest.mark.parametrize(("status", "code"), [(507, ""), (403, "QuotaExceeded"), (400, "EntityTooLarge")])
async def test_a_full_store_is_full(bench: Bench, status: int, code: str) -> None:
    backend = await bench.backend()
    bench.fake.next_call("PUT object", lambda: refuse(status, code))
    with pytest.raises(StorageFull):
        await backend.store(*bench.file(SMALL))
    assert (bench.spool / str(manifest_of(SMALL).tag)).exists()


async def test_a_completion_that_fails_after_its_status_is_seen(autojump_clock: MockClock, bench: Bench) -> None:
    backend = await bench.backend()
    error = "<Error><Code>InternalError</Code><Message>try again</Message></Error>"
    bench.fake.next_call("POST complete", lambda: httpx2.Response(200, text=error))
    await backend.store(*bench.file(LARGE))
    assert bench.fake.called("POST complete") == 2 and bench.stored(LARGE) is not None


async def test_a_completion_whose_answer_was_lost_is_found_to_have_happened(
    autojump_clock: MockClock, bench: Bench
) -> None:
    backend = await bench.backend()
    lost = [True]

    def complete_and_hang_up(call: Any) -> Exception | None:
        if call.what.startswith("POST complete") and lost.pop() if lost else False:
            bench.fake._complete(call)
            return httpx2.ReadError("reset")
        return None

    bench.fake.faults.append(complete_and_hang_up)
    await backend.store(*bench.file(LARGE))
    assert bench.fake.called("POST complete") == 1 and bench.fake.called("PUT part") == 9
    assert bench.stored(LARGE) is not None and not bench.fake.uploads


async def test_an_upload_that_the_store_forgot_is_begun_again(autojump_clock: MockClock, bench: Bench) -> None:
    backend = await bench.backend()
    forgotten = [True]

    def forget(call: Any) -> None:
        if call.what == "PUT part 6" and forgotten and forgotten.pop():
            bench.fake.uploads.clear()

    bench.fake.faults.append(forget)
    await backend.store(*bench.file(LARGE))
    stored = bench.stored(LARGE)
    assert stored is not None and stored.data == LARGE
    assert bench.fake.called("POST begin") == 2 and not bench.fake.uploads


# --- when bytes are not what they were ---


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("read_back", [False, True])
async def test_an_object_that_came_out_wrong_does_not_count_and_is_sent_again(
    autojump_clock: MockClock, bench: Bench, data: bytes, read_back: bool
) -> None:
    backend = await bench.backend(read_back=read_back)
    key = f"node/objects/{tag_of(data)}"
    heads = [0]

    def rot(call: Any) -> None:
        """After it was stored, before we look: one byte is another, and the checksum tells (or lies)."""
        if call.what == "HEAD object" and call.key == key and key in bench.fake.objects:
            heads[0] += 1
            if heads[0] == 1:
                wrong = bytearray(bench.fake.objects[key].data)
                wrong[len(wrong) // 2] ^= 1
                checksum = bench.fake.objects[key].checksum if read_back else "wrong"
                bench.fake.objects[key] = Stored(bytes(wrong), checksum)

    bench.fake.faults.append(rot)
    await backend.store(*bench.file(data))
    stored = bench.stored(data)
    assert stored is not None and stored.data == data
    assert bench.fake.called("DELETE object") == 1


async def test_a_store_that_shows_no_checksums_is_read_back(tmp_path: Path) -> None:
    async with bench_on(FakeS3(shows_checksums=False), tmp_path) as bench:
        backend = await bench.backend()
        await backend.store(*bench.file(LARGE))
        assert bench.fake.called("GET object") > 30
        stored = bench.stored(LARGE)
        assert stored is not None and stored.data == LARGE


async def test_a_spool_file_that_changed_since_it_was_verified_never_becomes_an_object(bench: Bench) -> None:
    backend = await bench.backend()
    tag, path, size = bench.file(LARGE)
    path.write_bytes(LARGE[:-1] + b"x")
    with pytest.raises(StorageBroken, match="changed since it was verified"):
        await backend.store(tag, path, size)
    assert bench.stored(LARGE) is None and not bench.fake.uploads


async def test_an_open_object_that_becomes_another_one_is_missing(bench: Bench) -> None:
    backend = await bench.backend()
    tag, path, size = bench.file(SMALL)
    await backend.store(tag, path, size)
    async with await backend.open(tag) as opened:
        other = some_bytes(size, 7)
        bench.fake.objects[f"node/objects/{tag}"] = Stored(other, "")
        with pytest.raises(ChunkMissing):
            await opened.read_into(memoryview(bytearray(10)), 0)


async def test_a_bucket_that_is_gone_does_not_make_its_objects_missing(bench: Bench) -> None:
    backend = await bench.backend()
    tag, path, size = bench.file(SMALL)
    await backend.store(tag, path, size)
    bench.fake.next_call("HEAD", lambda: httpx2.Response(404), times=100)
    bench.fake.next_call("GET object", lambda: refuse(404, "NoSuchBucket"), times=100)
    with pytest.raises(StorageUnavailable, match="NoSuchBucket"):
        await backend.size_of(tag)


async def test_a_store_without_ranges_is_not_believed(bench: Bench) -> None:
    backend = await bench.backend()
    await backend.store(*bench.file(SMALL))
    bench.fake.next_call("GET object", lambda: httpx2.Response(200, content=SMALL[:10]))
    async with await backend.open(manifest_of(SMALL).tag) as opened:
        with pytest.raises(StorageUnavailable, match="none of S3"):
            await opened.read_ranges([(50, 10)])


# --- reading ---


async def test_a_piece_is_fetched_once_for_all_its_readers(bench: Bench) -> None:
    backend = await bench.backend()
    await backend.store(*bench.file(LARGE[: 4 * MIB]))
    opened = await backend.open(manifest_of(LARGE[: 4 * MIB]).tag)
    before = bench.fake.called("GET object")
    async with trio.open_nursery() as readers:
        for offset in range(0, 4 * MIB, 256 * 1024):
            readers.start_soon(opened.read_into, memoryview(bytearray(256 * 1024)), offset)
    assert bench.fake.called("GET object") - before == 2


async def test_far_ranges_are_fetched_alone_and_neighbours_together(bench: Bench) -> None:
    backend = await bench.backend()
    data = LARGE[: 8 * MIB]
    await backend.store(*bench.file(data))
    opened = await backend.open(manifest_of(data).tag)
    before = bench.fake.called("GET object")
    ranges = [(7 * MIB, 1024), (0, 1024), (2048, 1024), (0, 10), (4 * MIB, 1024), (4 * MIB, 3000)]
    assert await opened.read_ranges(ranges) == [data[start : start + size] for start, size in ranges]
    assert bench.fake.called("GET object") - before == 3


# --- starting ---


async def test_uploads_of_the_process_before_are_aborted_and_no_others(bench: Bench) -> None:
    theirs = ["other/objects/" + str(LARGE_TAG), "node/notes/film.mov", "node/objects/no tag"]
    ours = [f"node/objects/{manifest_of(bytes([number])).tag}" for number in range(5)]
    for number, key in enumerate(theirs + ours):
        bench.fake.uploads[str(number)] = Upload(key)
    await bench.backend()
    assert sorted(upload.key for upload in bench.fake.uploads.values()) == sorted(theirs)


async def test_a_cancelled_upload_leaves_nothing_behind(bench: Bench) -> None:
    backend = await bench.backend()
    file = bench.file(LARGE)
    with trio.CancelScope() as scope:

        def stop(call: Any) -> None:
            if call.what == "PUT part 3":
                scope.cancel()

        bench.fake.faults.append(stop)
        await backend.store(*file)
    assert scope.cancelled_caught and not bench.fake.uploads and file[1].exists()


async def test_a_prefix_belongs_to_one_storage_node(bench: Bench) -> None:
    await bench.plain("one").prepare()
    await bench.plain("one").prepare()
    with pytest.raises(ConfigError, match="belongs to storage node 'one'; give each node its own prefix"):
        await bench.plain("other").prepare()


async def test_two_nodes_that_start_at_once_do_not_both_get_the_prefix(bench: Bench) -> None:
    outcomes: list[str] = []

    async def start(owner: str) -> None:
        try:
            await bench.plain(owner).prepare()
            outcomes.append("has it")
        except ConfigError:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, "one")
        nursery.start_soon(start, "other")
    assert sorted(outcomes) == ["has it", "refused"]


@pytest.mark.parametrize("code", ["NoSuchBucket", "InvalidAccessKeyId", "AccessDenied", "PermanentRedirect"])
async def test_a_wrong_setting_is_the_operators_to_mend(bench: Bench, code: str) -> None:
    bench.fake.next_call("GET", lambda: refuse(404 if code == "NoSuchBucket" else 403, code), times=100)
    with pytest.raises(ConfigError, match=f"'{BUCKET}' cannot be used: .*{code}"):
        await bench.backend()


async def test_a_store_that_is_down_at_the_start_is_waited_for(autojump_clock: MockClock, bench: Bench) -> None:
    bench.fake.next_call("GET", lambda: httpx2.ConnectError("refused"), times=50)
    begun = trio.current_time()
    await bench.backend()
    assert trio.current_time() - begun > 60


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx2.Response(200, text="<html>welcome</html>"),
        lambda: httpx2.Response(200, text="<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
        lambda: httpx2.Response(200, text="<!DOCTYPE x [<!ENTITY a 'aa'>]><ListBucketResult/>"),
        lambda: httpx2.Response(200, content=b"\xff\xfe\x00"),
    ],
)
async def test_garbage_instead_of_a_listing_is_no_empty_listing(
    bench: Bench, answer: Callable[[], httpx2.Response]
) -> None:
    backend = bench.plain()
    await backend.prepare()
    bench.fake.next_call("GET list", answer, times=100)
    with pytest.raises(StorageUnavailable, match="none of S3"):
        await backend.list()


async def test_an_answer_without_end_is_cut_off(autojump_clock: MockClock, bench: Bench) -> None:
    backend = bench.plain()
    await backend.prepare()
    bench.fake.next_call("GET list", lambda: httpx2.Response(200, content=bytes(5 * MIB)))
    with pytest.raises(StorageUnavailable, match="more than"):
        await backend.list()


async def test_nothing_secret_is_said_when_it_fails(
    autojump_clock: MockClock, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = await bench.backend()
    bench.fake.next_call("PUT object", lambda: refuse(403, "SignatureDoesNotMatch"))
    with pytest.raises(StorageUnavailable) as told:
        await backend.store(*bench.file(SMALL))
    said = f"{told.value!r} {told.value.__cause__!r} {capsys.readouterr()}"
    assert "nobody may print" not in said and "Signature=" not in said
    assert hashlib.sha256(SMALL).hexdigest() not in said
