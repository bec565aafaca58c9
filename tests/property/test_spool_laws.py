"""The spool against a bytearray: blocks in any order, cut anyhow, right or wrong; what is judged right is right."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.spool import FRESH_SECONDS, RUSH_BYTES_PER_SECOND, Spool, Write, is_rush
from protocol.errors import ChunkMissing, StorageBroken
from protocol.limits import MIB
from protocol.manifest import Layout, Manifest, tag_of
from runtime.seam import Buffer

CHUNKS = 3
CHUNK_BYTES = 6000
DATA = random.Random(5).randbytes(CHUNKS * CHUNK_BYTES - 1234)
LAYOUT = Layout(len(DATA), CHUNK_BYTES, CHUNKS)  # small chunks: the spool takes any layout


def manifest_of(data: bytes, layout: Layout) -> Manifest:
    digests = tuple(
        hashlib.sha256(data[layout.offset_of(chunk) : layout.offset_of(chunk) + layout.bytes_of(chunk)]).digest()
        for chunk in range(layout.chunks)
    )
    return Manifest(layout, digests, tag_of(digests))


MANIFEST = manifest_of(DATA, LAYOUT)


class MemoryFile:
    """A file in memory; reads may be short by ``missing`` bytes at the end, or fail."""

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(size_bytes)
        self.reads_fail = False
        self.bytes_read = 0

    def read_into(self, target: memoryview, offset: int) -> int:
        if self.reads_fail:
            raise OSError(5, "Input/output error")
        piece = self.data[offset : offset + len(target)]
        target[: len(piece)] = piece
        self.bytes_read += len(piece)
        return len(piece)

    def write(self, data: Buffer, offset: int) -> None:
        self.data[offset : offset + len(data)] = data


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class InlineRuntime:
    """Only what a spool asks of a runtime after it was opened."""

    cores = 2

    def __init__(self) -> None:
        self.clock = Clock()

    @staticmethod
    async def run_sync(work, *args):
        return work(*args)


def spool_on(file: MemoryFile, manifest: Manifest = MANIFEST) -> Spool:
    return Spool(InlineRuntime(), file, Path("spool"), manifest)


@st.composite
def cuts(draw: st.DrawFn, size_bytes: int) -> list[tuple[int, int]]:
    """A chunk cut into blocks: offset and length, in any order."""
    inner = draw(st.lists(st.integers(1, size_bytes - 1), unique=True, max_size=8).map(sorted))
    edges = [0, *inner, size_bytes]
    blocks = [(start, end - start) for start, end in pairwise(edges)]
    return draw(st.permutations(blocks))


@st.composite
def chunk_attempts(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, int]], int | None, int]]:
    """Chunks in any order, some begun and given up, some with a wrong byte: (chunk, blocks, wrong byte, how many)."""
    attempts = []
    for chunk in draw(st.permutations(range(CHUNKS))):
        for last in [False] * draw(st.integers(0, 2)) + [True]:
            blocks = draw(cuts(LAYOUT.bytes_of(chunk)))
            wrong = draw(st.none() | st.integers(0, LAYOUT.bytes_of(chunk) - 1))
            done = len(blocks) if last else draw(st.integers(0, len(blocks) - 1))
            attempts.append((chunk, blocks, wrong, done))
    return attempts


@given(attempts=chunk_attempts(), batch=st.integers(1, 5))
def test_a_chunk_is_judged_by_its_bytes_however_they_came(attempts, batch: int) -> None:
    file, model = MemoryFile(len(DATA)), bytearray(len(DATA))
    spool = spool_on(file)
    writes: list[Write] = []
    expected: list[tuple[int, bool]] = []
    for chunk, blocks, wrong, done in attempts:
        start = LAYOUT.offset_of(chunk)
        for number, (offset, length) in enumerate(blocks[:done]):
            piece = bytearray(DATA[start + offset : start + offset + length])
            if wrong is not None and offset <= wrong < offset + length:
                piece[wrong - offset] ^= 1
            writes.append(Write(chunk, offset, memoryview(piece), number == len(blocks) - 1))
            model[start + offset : start + offset + length] = piece
        if done == len(blocks):
            expected.append((chunk, wrong is None))
    judged = []
    for place in range(0, len(writes), batch):
        judged += spool.write_blocks(writes[place : place + batch])
    assert judged == expected
    assert file.data == model
    for chunk, right in dict(expected).items():
        assert spool.check_chunk(chunk) == right


def whole(chunk: int, at: float) -> list[Write]:
    """The blocks of a chunk, in order."""
    start, end = LAYOUT.offset_of(chunk), LAYOUT.offset_of(chunk) + LAYOUT.bytes_of(chunk)
    middle = start + 1000
    return [
        Write(chunk, 0, memoryview(DATA[start:middle]), False, at),
        Write(chunk, 1000, memoryview(DATA[middle:end]), True, at + 1),
    ]


async def test_the_last_look_reads_what_was_seen_long_ago() -> None:
    file = MemoryFile(len(DATA))
    spool = spool_on(file)
    clock = spool._runtime.clock
    assert spool.write_blocks(whole(0, clock.now)) == [(0, True)]
    assert spool.write_blocks(whole(1, clock.now + FRESH_SECONDS / 2)) == [(1, True)]
    # Out of order: hashed from the file.
    assert spool.write_blocks([replace(write, completes=not write.completes) for write in whole(2, clock.now)[::-1]])
    clock.now += FRESH_SECONDS * 0.75
    file.bytes_read = 0
    assert await spool.rotten() == [] and file.bytes_read == 0
    clock.now += FRESH_SECONDS * 0.5
    assert await spool.rotten() == []
    assert file.bytes_read == LAYOUT.bytes_of(0) + LAYOUT.bytes_of(2)
    clock.now += FRESH_SECONDS
    for chunk in range(CHUNKS):
        file.data[LAYOUT.offset_of(chunk) + 7] ^= 1
    assert await spool.rotten() == [0, 1, 2]


@given(lost=st.integers(0, LAYOUT.bytes_of(1) - 1))
async def test_what_was_right_and_is_not_in_the_file_is_found_however_fresh(lost: int) -> None:
    class Forgetful(MemoryFile):
        def write(self, data: Buffer, offset: int) -> None:
            super().write(data, offset)
            if offset <= LAYOUT.offset_of(1) + lost < offset + len(data):
                self.data[LAYOUT.offset_of(1) + lost] ^= 1

    spool = spool_on(Forgetful(len(DATA)))
    for chunk in range(CHUNKS):
        # What they sent is right: it is not their fault.
        assert spool.write_blocks(whole(chunk, 100.0)) == [(chunk, True)]
    assert await spool.rotten() == [1]


async def test_a_chunk_that_was_written_into_again_is_read_again() -> None:
    file = MemoryFile(len(DATA))
    spool = spool_on(file)
    for chunk in range(CHUNKS):
        spool.write_blocks(whole(chunk, 100.0))
    spool.write_blocks([Write(1, 5, memoryview(b"wrong"), False, 100.0)])
    assert await spool.rotten() == [1]
    file.reads_fail = True
    with pytest.raises(StorageBroken):
        await spool.rotten()


@given(
    size=st.integers(0, 1 << 44),
    came=st.integers(0, 1 << 44),
    seconds=st.floats(0.001, 1e6),
    more=st.integers(1, 1 << 40),
)
def test_a_rush_is_fast_and_over_before_anything_is_read_again(size: int, came: int, seconds: float, more: int) -> None:
    if is_rush(size, came, seconds):
        assert came / seconds >= RUSH_BYTES_PER_SECOND * 0.999
        assert size / (came / seconds) <= FRESH_SECONDS * 1.001
        assert is_rush(size, came + more, seconds) and is_rush(max(0, size - more), came, seconds)
    assert not is_rush(int(came / seconds * FRESH_SECONDS * 1.01) + more, came, seconds)
    assert not is_rush(size, int(RUSH_BYTES_PER_SECOND * 0.99 * seconds), seconds)


class WatchedFile(MemoryFile):
    """Keeps what was said to it besides reads and writes."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.said: list[str | tuple[int, int]] = []

    def sync(self) -> None:
        self.said.append("sync")

    def uncache(self, offset: int, size_bytes: int) -> None:
        self.said.append((offset, size_bytes))


async def test_what_passes_in_a_rush_leaves_memory_once_it_is_durable_and_right() -> None:
    file = WatchedFile(len(DATA))
    spool = spool_on(file)
    clock = spool._runtime.clock
    places = [(LAYOUT.offset_of(chunk), LAYOUT.bytes_of(chunk)) for chunk in range(CHUNKS)]
    wrong = memoryview(bytes(LAYOUT.bytes_of(1)))
    assert spool.write_blocks([*whole(0, clock.now), Write(1, 0, wrong, True, clock.now)]) == [(0, True), (1, False)]
    await spool.sync(passing=True)
    assert file.said == ["sync", places[0]]
    spool.write_blocks(whole(1, clock.now))
    await spool.sync()
    assert file.said[2:] == ["sync"], "somebody will read it"
    spool.write_blocks(whole(2, clock.now))
    clock.now += 1.0
    await spool.sync(passing=True)
    assert file.said[3:] == ["sync"], "so few bytes in a second are no rush"


async def test_reading_gives_the_bytes_or_says_that_they_are_missing() -> None:
    file = MemoryFile(len(DATA))
    file.data[:] = DATA
    spool = spool_on(file)
    target = memoryview(bytearray(100))
    await spool.read_block(1, 50, target)
    assert target == DATA[CHUNK_BYTES + 50 : CHUNK_BYTES + 150]
    assert await spool.verify_chunk(2)
    del file.data[CHUNK_BYTES + 100 :]
    with pytest.raises(ChunkMissing):
        await spool.read_block(1, 50, target)
    assert not await spool.verify_chunk(2)


async def test_a_disk_that_cannot_be_read_is_our_error() -> None:
    file = MemoryFile(len(DATA))
    spool = spool_on(file)
    file.reads_fail = True
    with pytest.raises(ChunkMissing):
        await spool.read_block(0, 0, memoryview(bytearray(10)))
    with pytest.raises(StorageBroken):
        await spool.verify_chunk(0)
    # The second half first: the chunk must be read back when it is whole.
    with pytest.raises(StorageBroken):
        spool.write_blocks(
            [
                Write(0, 3000, memoryview(DATA[3000:CHUNK_BYTES]), False),
                Write(0, 0, memoryview(DATA[:3000]), True),
            ]
        )


def test_a_large_chunk_is_read_back_in_pieces() -> None:
    data = random.Random(6).randbytes(3 * MIB + 7)
    layout = Layout(len(data), len(data), 1)
    file = MemoryFile(len(data))
    spool = spool_on(file, manifest_of(data, layout))
    half = MIB + 11
    judged = spool.write_blocks(
        [Write(0, half, memoryview(data[half:]), False), Write(0, 0, memoryview(data[:half]), True)]
    )
    assert judged == [(0, True)]
