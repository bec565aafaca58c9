"""Within a block nobody is woken for a few packets; and what is there is never kept from whoever waits for it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from support.memory_network import MemoryStream
from support.pairs import SWARM, node, some_hello, stream_pair
from support.spoken import TAG, block
from support.swarm import SwarmCa
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import messages as m
from protocol.connection import Connection
from protocol.ids import Role
from protocol.limits import KIB, SILENCE_SECONDS_MAX
from runtime.identity import Peer
from runtime.link import GATHER_BYTES_MAX, Link, running
from runtime.real import TcpNetwork, TcpStream
from runtime.seam import SecureStream
from runtime.tls import Expected, TlsSecurity

# --- a socket ---


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    listener = await TcpNetwork().listen("127.0.0.1", 0)
    host, _, port = listener.address.rpartition(":")
    sender = await TcpNetwork().dial(host, int(port))
    receiver = await listener.accept()
    listener.close()
    assert isinstance(sender, TcpStream) and isinstance(receiver, TcpStream)
    try:
        with trio.fail_after(60):
            yield sender, receiver
    finally:
        sender.close()
        receiver.close()


async def read_once(receiver: TcpStream, counts: list[int]) -> None:
    counts.append(await receiver.receive_into(memoryview(bytearray(4096))))


@pytest.mark.parametrize(("enough", "first"), [(1, 100), (1000, 1000)])
async def test_who_gathers_is_woken_when_enough_is_there(enough: int, first: int) -> None:
    counts: list[int] = []
    async with tcp_pair() as (sender, receiver), trio.open_nursery() as nursery:
        receiver.gather(enough)
        nursery.start_soon(read_once, receiver, counts)
        await sender.send_all(bytes(100))
        await wait_all_tasks_blocked(0.05)
        await sender.send_all(bytes(900))
    assert counts == [first]


@pytest.mark.parametrize("by", ["the end of the stream", "being told that less will do"])
async def test_who_gathers_already_is_woken_for_what_is_there(by: str) -> None:
    counts: list[int] = []
    async with tcp_pair() as (sender, receiver), trio.open_nursery() as nursery:
        receiver.gather(1000)
        nursery.start_soon(read_once, receiver, counts)
        await sender.send_all(bytes(100))
        await wait_all_tasks_blocked(0.05)
        assert not counts
        if by == "the end of the stream":
            sender.close()
        else:
            receiver.gather(1, at_once=True)
    assert counts == [100]


# --- a link ---


class Trickle:
    """A wire that, as the kernel does, delivers nothing before as much is there as is gathered."""

    def __init__(self, wire: MemoryStream, rng: random.Random) -> None:
        self.line = wire.line
        self.remote = wire.remote
        self.send_all = wire.send_all
        self.close = wire.close
        self.enough = 1
        self.most = 0
        self.pause_seconds = 0.0  # before each half of a KiB
        self._wire = wire
        self._rng = rng

    def gather(self, size_bytes: int, *, at_once: bool = False) -> None:
        self.enough = size_bytes
        self.most = max(self.most, size_bytes)

    async def receive_into(self, target: memoryview) -> int:
        count = 0
        while count < min(self.enough, len(target)):
            piece = min(len(target) - count, self._rng.randint(1, 3000))
            if self.pause_seconds:
                await trio.sleep(self.pause_seconds)
                piece = min(piece, KIB // 2)
            got = await self._wire.receive_into(target[count : count + piece])
            if got == 0:
                break
            count += got
        return count


@asynccontextmanager
async def links(seed: int) -> AsyncIterator[tuple[Link, Link, Trickle]]:
    """Who sends, who receives, and the wire that the latter reads from."""
    ca = SwarmCa()
    dialled, accepted = await stream_pair(splits=False)
    wire = Trickle(accepted, random.Random(seed))
    streams: dict[str, SecureStream] = {}

    async def accept() -> None:
        streams["to"], _ = await TlsSecurity().accept(wire, ca.credentials("other"), door=False)

    async with trio.open_nursery() as shaking:
        shaking.start_soon(accept)
        streams["from"], _ = await TlsSecurity().dial(dialled, ca.credentials("one"), Expected())
    peer = Peer(node("x"), Role.PEER, SWARM)
    one, other = (
        Link(streams[name], peer, Connection(Role.PEER, Role.PEER), dialled=name == "from") for name in ("from", "to")
    )
    async with trio.open_nursery() as hellos:
        hellos.start_soon(one.open, some_hello("one"))
        hellos.start_soon(other.open, some_hello("other"))
    async with running(one), running(other):
        yield one, other, wire


async def received(link: Link) -> bytes:
    """Return the next block's bytes, or nothing for another message."""
    message = await link.receive()
    if not isinstance(message, m.Block):
        return b""
    data = bytearray(message.length)
    await link.receive_raw(memoryview(data))
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
async def test_a_block_that_nothing_follows_is_received_to_its_end(seed: int, autojump_clock: MockClock) -> None:
    sizes = random.Random(seed)
    async with links(seed) as (one, other, wire):
        for number in range(30):
            data = bytes([number]) * sizes.randint(1, 5 * GATHER_BYTES_MAX // 2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send_block, block(len(data), number), memoryview(data))
                with trio.fail_after(5):
                    assert await received(other) == data
            one.post(m.Have(tag=TAG, chunks=(number,)))
            with trio.fail_after(5):
                assert await received(other) == b""
    assert wire.most > GATHER_BYTES_MAX // 2, "it never gathered"


async def test_a_line_that_becomes_much_slower_within_a_block_is_not_taken_for_silent(
    autojump_clock: MockClock,
) -> None:
    async with links(1) as (one, other, wire):
        # So much the wire takes at once: whoever sends it does not see how slow it is.
        data = bytes(60 * KIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_block, block(len(data), 0), memoryview(data))
            assert await received(other) == data
        wire.pause_seconds = 1.0
        began_at = trio.current_time()
        await one.send_block(block(len(data), 1), memoryview(data))
        assert await received(other) == data
        assert trio.current_time() - began_at > 1.5 * SILENCE_SECONDS_MAX
        assert wire.most > 40 * KIB, "it never gathered"
