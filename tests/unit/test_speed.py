"""The micro set: what each part of the data plane costs, beside what the same work costs without it, in one run.

Ratios, not rates: a slow or busy machine slows both sides. Bounds are about twice what was measured: only a real
loss trips them. Figures of whole links are bench/'s.
"""

from __future__ import annotations

import hashlib
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgpack
import pytest
import trio
from support.pairs import some_tag
from support.swarm import SwarmCa

from daemon.hashing import hash_file
from exchange.assembly import CELL_BYTES, Assembly
from exchange.picker import Picker
from exchange.spool import Spool, Write
from protocol import messages as m
from protocol.bitmap import Bitmap
from protocol.codec import decode_untrusted, encode
from protocol.ids import NodeId
from protocol.limits import CHUNKS_MAX, MIB
from protocol.manifest import Layout, Manifest
from runtime.real import TcpNetwork, real_runtime
from runtime.tls import Expected, TlsSecurity, _member_context

pytestmark = pytest.mark.timing

ROUNDS = 5


async def ratio(ours: Callable[[], Awaitable[None]], bare: Callable[[], Awaitable[None]]) -> float:
    """Return the processor time of ``ours`` over that of ``bare``: the best of some alternate rounds."""
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for place, work in enumerate((ours, bare)):
            began = time.process_time()
            await work()
            best[place] = min(best[place], time.process_time() - began)
    return best[0] / best[1]


async def test_the_codec_costs_a_few_times_what_msgpack_does() -> None:
    message = m.Request(tag=some_tag(), chunk=7, offset=3 * CELL_BYTES, length=CELL_BYTES)
    body = encode(message)
    plain = msgpack.unpackb(body)

    async def ours() -> None:
        for _ in range(3000):
            decode_untrusted(encode(message))

    async def bare() -> None:
        for _ in range(3000):
            msgpack.unpackb(msgpack.packb(plain), raw=False)

    assert await ratio(ours, bare) < 25


def blocks(layout: Layout, count: int) -> list[tuple[int, int]]:
    cells = layout.chunk_bytes // CELL_BYTES
    return [(number // cells, number % cells) for number in range(count)]


async def test_assembling_costs_a_few_dictionary_entries_a_block() -> None:
    layout = Layout.of_size(CHUNKS_MAX * 8 * MIB)
    todo, sender = blocks(layout, 20_000), NodeId("n")

    async def ours() -> None:
        assembly = Assembly(layout)
        for chunk, cell in todo:
            if cell == 0:
                assembly.open(chunk)
            if assembly.arrived(chunk, cell, 1, sender):
                assembly.finish(chunk)

    async def bare() -> None:
        known: dict[tuple[int, int], int] = {}
        for chunk, cell in todo:
            known[chunk, cell] = known.get((chunk, cell - 1), 0) + 1

    assert await ratio(ours, bare) < 10


async def test_picking_costs_a_bounded_number_of_dictionary_entries_a_block() -> None:
    layout = Layout.of_size(CHUNKS_MAX * 8 * MIB)

    async def ours() -> None:
        picker = Picker(layout, Assembly(layout), Bitmap.full(layout.chunks), random.Random(1))
        for source in range(8):
            picker.add_source(source, NodeId(f"n{source}"), Bitmap.full(layout.chunks), 0.0)
        picks, now = 0, 0.0
        while picks < 5000:
            now += 0.05
            for source in range(8):
                for pick in picker.picks(source, now):
                    picks += 1
                    if picker.arrived(source, pick.chunk, pick.offset, now + 0.04)[0]:
                        picker.verified(pick.chunk)

    async def bare() -> None:
        known: dict[tuple[int, int], int] = {}
        for number in range(5000 * 20):
            known[number, number] = known.get((number - 1, number - 1), 0) + 1

    assert await ratio(ours, bare) < 5


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(32 * MIB)


async def test_hashing_a_file_costs_what_hashlib_does(tmp_path: Path, content: bytes) -> None:
    runtime, path = real_runtime(), tmp_path / "file"
    path.write_bytes(content)

    async def ours() -> None:
        await hash_file(runtime, path)

    async def bare() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        buffer = memoryview(bytearray(MIB))
        for at in range(0, len(content), MIB):
            os.preadv(descriptor, [buffer], at)
            hashlib.sha256(buffer).digest()
        os.close(descriptor)

    assert await ratio(ours, bare) < 2


async def test_filling_a_spool_costs_a_hash_a_write_and_a_look(tmp_path: Path, content: bytes) -> None:
    layout = Layout.of_size(len(content))
    digests = [
        hashlib.sha256(content[layout.offset_of(c) :][: layout.bytes_of(c)]).digest() for c in range(layout.chunks)
    ]
    manifest = Manifest.of_digests(len(content), digests)
    spool = await Spool.open(real_runtime(), tmp_path / "spool", manifest)
    step = 4 * CELL_BYTES
    view = memoryview(content)
    writes = [
        Write(at // layout.chunk_bytes, at % layout.chunk_bytes, view[at : at + step], not (at + step) % MIB, 1.0)
        for at in range(0, len(content), step)
    ]

    async def ours() -> None:
        for start in range(0, len(writes), 4):
            assert spool.write_blocks(writes[start : start + 4])[0][1]

    async def bare() -> None:
        descriptor = os.open(tmp_path / "bare", os.O_RDWR | os.O_CREAT)
        buffer = memoryview(bytearray(step))
        for at in range(0, len(content), step):
            os.pwrite(descriptor, view[at : at + step], at)
            os.preadv(descriptor, [buffer], at)
            hashlib.sha256(view[at : at + step]).digest()
        os.close(descriptor)

    assert await ratio(ours, bare) < 2
    await spool.aclose()


async def test_a_tls_link_costs_little_more_than_its_encryption(content: bytes, swarm_ca: SwarmCa) -> None:
    """Sockets, threads of the kernel and all, beside OpenSSL alone on the same bytes."""
    listener = await TcpNetwork().listen("127.0.0.1", 0)
    host, _, port = listener.address.rpartition(":")
    ends = {}

    async def accept() -> None:
        ends["into"], _ = await TlsSecurity().accept(await listener.accept(), swarm_ca.credentials("b"), door=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        stream = await TcpNetwork().dial(host, int(port))
        ends["out"], _ = await TlsSecurity().dial(stream, swarm_ca.credentials("a"), Expected())
    target = memoryview(bytearray(MIB))

    async def ours() -> None:
        async with trio.open_nursery() as sending:
            sending.start_soon(ends["out"].send_all, content)
            left = len(content)
            while left:
                left -= await ends["into"].receive_into(target)

    pipes = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        _member_context(swarm_ca.credentials(name), server_side=server, door=False).wrap_bio(
            pipes[server], pipes[not server], server_side=server
        )
        for name, server in (("a", False), ("b", True))
    ]
    waiting = sides[:]
    while waiting:
        for side in waiting[:]:
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass

    async def bare() -> None:
        view = memoryview(content)
        for start in range(0, len(content), 4 * CELL_BYTES):
            sides[0].write(view[start : start + 4 * CELL_BYTES])
            left = 4 * CELL_BYTES
            while left:
                left -= sides[1].read(left, target)

    assert await ratio(ours, bare) < 3.5
    ends["out"].close()
    ends["into"].close()
    listener.close()
