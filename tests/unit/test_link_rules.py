"""What a link does with bytes that break the rules: it says so, and drops who sent them."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pairs import link_over, link_pair, some_hello, stream_pair
from support.spoken import TAG, block

from protocol import messages as m
from protocol.codec import encode
from protocol.connection import Connection
from protocol.errors import LinkLost, LocalProtocolError, RemoteProtocolError
from protocol.frames import frame
from protocol.ids import Role
from runtime.link import running


async def spoken_to(data: bytes, *, splits: bool = True):
    """Return the error and the answer of a link to which somebody says Hello and then ``data``."""
    dialled, accepted = await stream_pair(splits=splits)
    link = link_over(accepted, Role.PEER, Role.PEER, "stranger", dialled=False)
    wire = Connection(Role.PEER, Role.PEER)

    async def listen() -> list[m.Message]:
        said: list[m.Message] = []
        while True:
            try:
                count = await dialled.receive_into(wire.wanted())
            except LinkLost:
                return said
            if count == 0:
                return said
            wire.filled(count)
            while (message := wire.next_message()) is not None:
                said.append(message)

    answers: list[m.Message] = []
    error: Exception | None = None

    async def collect() -> None:
        answers.extend(await listen())

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            await dialled.send_all(wire.send(some_hello()) + data)
            try:
                await link.open(some_hello())
                async with running(link):
                    try:
                        while await link.receive() is not None:
                            pass
                    except (RemoteProtocolError, LinkLost) as caught:
                        error = caught
            finally:
                dialled.close() if error is None else None
    accepted.close()
    dialled.close()
    return error, answers


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        (1 << 20).to_bytes(4, "big"),
        b"\x00\x00\x00\x00",
        frame(b"\xc1"),
        frame(b"\x91\x7f"),
        frame(encode(some_hello())),
        frame(encode(m.Renew(request=1))),
        frame(encode(m.Stored(tag=TAG, chunks=(1,)))),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["4 GiB", "1 MiB", "empty", "no msgpack", "critical", "Hello again", "to a tracker", "storage's", "HTTP"],
)
async def test_who_breaks_a_rule_is_told_so_and_dropped(data: bytes) -> None:
    error, answers = await spoken_to(data)
    assert isinstance(error, RemoteProtocolError)
    assert isinstance(answers[-1], m.Goodbye) and answers[-1].code == "protocol-error"
    assert answers[-1].reason == str(error)


@given(st.binary(max_size=600))
@settings(max_examples=80)
async def test_garbage_after_hello_ends_the_link_and_nothing_else(garbage: bytes) -> None:
    dialled, accepted = await stream_pair()
    link = link_over(accepted, Role.PEER, Role.STORAGE, "stranger", dialled=False)
    await dialled.send_all(Connection(Role.STORAGE, Role.PEER).send(some_hello()) + garbage)
    dialled.outgoing.ended = True
    await link.open(some_hello())
    with trio.fail_after(30):
        async with running(link):
            try:
                while (message := await link.receive()) is not None:
                    if isinstance(message, m.Block):
                        await link.receive_raw(memoryview(bytearray(message.length)))
            except (RemoteProtocolError, LinkLost):
                pass
    assert link.lost is not None


@given(st.binary(max_size=300))
@settings(max_examples=60)
async def test_garbage_instead_of_hello_is_refused(garbage: bytes) -> None:
    dialled, accepted = await stream_pair()
    link = link_over(accepted, Role.PEER, Role.PEER, "stranger", dialled=False)
    await dialled.send_all(garbage)
    dialled.outgoing.ended = True
    with pytest.raises((RemoteProtocolError, LinkLost)):
        await link.open(some_hello())
    accepted.close()


async def test_a_goodbye_instead_of_hello_is_a_loss_with_its_reason() -> None:
    dialled, accepted = await stream_pair()
    await accepted.send_all(Connection(Role.PEER, Role.PEER).send(m.Goodbye(code="full", reason="no room for you")))
    link = link_over(dialled, Role.PEER, Role.PEER, "host", dialled=True)
    with pytest.raises(LinkLost, match="full: no room for you"):
        await link.open(some_hello())
    accepted.close()
    dialled.close()


async def test_who_is_killed_in_the_middle_of_a_frame_has_broken_no_rule() -> None:
    data = frame(encode(m.Have(tag=TAG, chunks=(1, 2, 3))))
    dialled, accepted = await stream_pair()
    link = link_over(accepted, Role.PEER, Role.PEER, "victim", dialled=False)
    await dialled.send_all(Connection(Role.PEER, Role.PEER).send(some_hello()) + data[:-1])
    await link.open(some_hello())
    dialled.outgoing.ended = True
    async with running(link):
        with pytest.raises(LinkLost):
            await link.receive()
    dialled.close()


async def test_we_cannot_say_what_may_not_be_said() -> None:
    async with link_pair() as (one, _, _):
        with pytest.raises(LocalProtocolError):
            one.post(m.Order(tag=TAG, target=cast(Any, None), lifetime_seconds=1))
        with pytest.raises(LocalProtocolError):
            await one.send_block(block(10), memoryview(b"nine byte"))
        assert one.alive
