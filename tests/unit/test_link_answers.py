"""Answers that leave at once, over real sockets and TLS: in order with everything else, whole, and without a task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from support.pairs import some_hello, some_tag
from support.swarm import SwarmCa
from trio.testing import wait_all_tasks_blocked

from protocol import messages as m
from protocol.connection import Connection
from protocol.ids import Role, parse_address
from runtime.link import CONTROL_BYTES_MAX, SELDOM, Link, running
from runtime.real import TcpNetwork
from runtime.seam import ByteStream, SecureStream
from runtime.tls import Expected, TlsSecurity, TlsStream

TAG = some_tag()


@asynccontextmanager
async def links_over_tcp(ca: SwarmCa, *, serving: bool = True) -> AsyncIterator[tuple[Link, Link]]:
    """Two links between peers over one connection on this machine; the second one runs only when ``serving``."""
    network, security = TcpNetwork(), TlsSecurity()
    listener = await network.listen("127.0.0.1", 0)
    ends: dict[str, Link] = {}

    async def accept() -> None:
        stream, peer = await security.accept(await listener.accept(), ca.credentials("other"), door=False)
        assert peer is not None
        ends["other"] = Link(stream, peer, Connection(Role.PEER, Role.PEER), dialled=False)
        await ends["other"].open(some_hello("other"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        raw = await network.dial(*parse_address(listener.address))
        stream, peer = await security.dial(raw, ca.credentials("one"), Expected())
        ends["one"] = Link(stream, peer, Connection(Role.PEER, Role.PEER), dialled=True)
        await ends["one"].open(some_hello("one"))
    listener.close()
    async with running(ends["one"]):
        if serving:
            async with running(ends["other"]):
                yield ends["one"], ends["other"]
        else:
            yield ends["one"], ends["other"]
            ends["other"]._stream.close()


def have(number: int, more: int = 0) -> m.Have:
    return m.Have(tag=TAG, chunks=(number, *range(2000, 2000 + more)))


@pytest.mark.parametrize("more", [0, 1000])
async def test_answers_posts_and_blocks_arrive_whole_and_in_the_order_they_were_said(
    swarm_ca: SwarmCa, more: int
) -> None:
    """With ``more`` the socket is full again and again, so that answers leave in part, or not at all at first."""
    count = 600
    async with links_over_tcp(swarm_ca) as (one, other):

        async def answer() -> None:
            for number in range(count):
                (one.answer if number % 3 else one.post)(have(number, more))
                await one.wait_room()
                if number % 7 == 0:
                    await trio.lowlevel.checkpoint()

        async def send_blocks() -> None:
            for number in range(20):
                length = 300_000
                block = m.Block(tag=TAG, chunk=number, offset=0, length=length)
                await one.send_block(block, memoryview(bytes([number]) * length))

        heard, blocks = [], 0
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                nursery.start_soon(send_blocks)
                while len(heard) < count or blocks < 20:
                    message = await other.receive()
                    if isinstance(message, m.Block):
                        buffer = bytearray(message.length)
                        await other.receive_raw(memoryview(buffer))
                        assert buffer == bytes([message.chunk]) * message.length
                        blocks += 1
                    else:
                        assert isinstance(message, m.Have) and len(message.chunks) == 1 + more
                        heard.append(message.chunks[0])
        assert heard == list(range(count))


async def test_links_that_only_say_a_word_now_and_then_keep_no_writer(swarm_ca: SwarmCa) -> None:
    async with links_over_tcp(swarm_ca) as (one, other):
        await wait_all_tasks_blocked()  # they run
        quiet = trio.lowlevel.current_statistics().tasks_living
        one.answer(have(1))
        assert trio.lowlevel.current_statistics().tasks_living == quiet
        one.post(have(2))
        one.ping()
        for number in (1, 2):
            message = await other.receive()
            assert isinstance(message, m.Have) and message.chunks == (number,)
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == quiet
        one.post(have(3))
        message = await other.receive()
        assert isinstance(message, m.Have) and message.chunks == (3,)


async def test_a_writer_who_has_much_to_do_stays_until_it_has_little(
    swarm_ca: SwarmCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.link.SILENCE_SECONDS_MAX", 1.0)
    async with links_over_tcp(swarm_ca) as (one, other):
        await wait_all_tasks_blocked()  # they run
        quiet = trio.lowlevel.current_statistics().tasks_living
        number = 0
        with trio.fail_after(20):
            while trio.lowlevel.current_statistics().tasks_living == quiet:
                one.post(have(number))
                number += 1
                await wait_all_tasks_blocked()
            assert number > SELDOM
            while trio.lowlevel.current_statistics().tasks_living > quiet:
                await trio.sleep(0.01)
            one.post(have(number))
            for expected in range(number + 1):
                message = await other.receive()
                assert isinstance(message, m.Have) and message.chunks == (expected,)


async def test_answers_to_one_who_does_not_read_end_the_link_before_memory_grows(swarm_ca: SwarmCa) -> None:
    async with links_over_tcp(swarm_ca, serving=False) as (one, _):
        said = 0
        while one.alive:
            one.answer(have(0, 1000))
            assert one._control_bytes <= CONTROL_BYTES_MAX + 10_000
            said += 1
            assert said < 10_000
            await trio.lowlevel.checkpoint()
        assert one.lost is not None and "does not read" in one.lost


async def test_an_answer_on_a_broken_link_ends_it_and_raises_nothing(swarm_ca: SwarmCa) -> None:
    async with links_over_tcp(swarm_ca, serving=False) as (one, other):
        other._stream.close()
        with trio.fail_after(10):
            while one.alive:
                one.answer(have(1))
                await trio.lowlevel.checkpoint()
        assert one.lost


async def test_many_links_share_one_buffer_and_no_byte(swarm_ca: SwarmCa) -> None:
    network, security = TcpNetwork(), TlsSecurity()
    listener = await network.listen("127.0.0.1", 0)
    one, other = swarm_ca.credentials("one"), swarm_ca.credentials("other")
    streams: list[TlsStream] = []

    async def speak(raw: ByteStream) -> None:
        stream, _ = await security.accept(raw, one, door=False)
        size = int.from_bytes(await exactly(stream, 1), "big")
        for _ in range(40):
            await stream.send_all(bytes([size]) * size * 1000)
        stream.close()

    async def hear(size: int) -> None:
        raw = await network.dial(*parse_address(listener.address))
        stream, _ = await security.dial(raw, other, Expected())
        assert isinstance(stream, TlsStream)
        streams.append(stream)
        await stream.send_all(bytes([size]))
        for _ in range(40):
            assert await exactly(stream, size * 1000) == bytes([size]) * size * 1000
        stream.close()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for size in range(1, 13):
                nursery.start_soon(hear, size)
            for _ in range(1, 13):
                nursery.start_soon(speak, await listener.accept())
    listener.close()
    assert len({id(stream._received) for stream in streams}) == 1


async def exactly(stream: SecureStream, size: int) -> bytes:
    """Read so many bytes."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = await stream.receive_into(view)
        assert count
        view = view[count:]
    return bytes(data)
