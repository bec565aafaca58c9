"""What a link does with bytes that come split, late, torn, wrong or not at all."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_network import PIPE_BYTES
from support.pairs import link_over, link_pair, node, some_hello, some_tag, stream_pair
from trio.testing import MockClock

from protocol import messages as m
from protocol.codec import encode
from protocol.connection import Connection
from protocol.errors import LinkLost, LocalProtocolError, RemoteProtocolError
from protocol.frames import frame
from protocol.ids import Role
from protocol.limits import (
    BLOCK_BYTES_MAX,
    CHUNKS_MAX,
    DIGEST_BYTES,
    HELLO_SECONDS_MAX,
    KIB,
    SENTENCE_BYTES_MAX,
    SILENCE_SECONDS_MAX,
)
from runtime.link import CONTROL_BYTES_MANY, CONTROL_BYTES_MAX, GOODBYE_SECONDS_MAX, running

TAG = some_tag()


def block(length: int, chunk: int = 0) -> m.Block:
    return m.Block(tag=TAG, chunk=chunk, offset=0, length=length)


async def expect_block(link, length: int) -> bytes:
    message = await link.receive()
    assert isinstance(message, m.Block) and message.length == length
    buffer = bytearray(length)
    await link.receive_raw(memoryview(buffer))
    return bytes(buffer)


async def ended(link) -> str:
    await link.wait_ended()
    assert link.lost is not None
    return link.lost


# --- what is said arrives ---


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.one_of(st.none(), st.integers(0, 3 * PIPE_BYTES), st.just(BLOCK_BYTES_MAX)), max_size=6),
)
@settings(max_examples=60)
async def test_the_way_bytes_are_split_changes_nothing(seed: int, sizes: list[int | None]) -> None:
    """None stands for a control message, a number for a block of so many bytes."""
    async with link_pair(seed=seed) as (one, other, _):

        async def speak() -> None:
            for number, size in enumerate(sizes):
                if size is None:
                    one.post(m.Have(tag=TAG, chunks=(number,)))
                    await one.wait_room()
                else:
                    await one.send_block(block(size, number), memoryview(bytes([number]) * size))
            one.close("done")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            heard: set[int] = set()
            while (message := await other.receive()) is not None:
                if isinstance(message, m.Block):
                    buffer = bytearray(message.length)
                    await other.receive_raw(memoryview(buffer))
                    assert buffer == bytes([message.chunk]) * message.length
                    heard.add(message.chunk)
                else:
                    assert isinstance(message, m.Have)
                    heard.update(message.chunks)
        assert heard == set(range(len(sizes)))
        assert "done" in await ended(other)


async def test_both_ends_say_hello_and_agree_on_features_that_both_have() -> None:
    dialled, accepted = await stream_pair()
    one = link_over(dialled, Role.PEER, Role.PEER, "b", dialled=True)
    other = link_over(accepted, Role.PEER, Role.PEER, "a", dialled=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.open, some_hello("one", features=("zip", "future-thing")))
        nursery.start_soon(other.open, some_hello("other", version=2, features=("zip", "unheard-of")))
    assert one.features == other.features == {"zip"}
    assert (one.hello.name, one.hello.version) == ("other", 2), "a version that does not exist yet is no reason to part"
    dialled.close()
    accepted.close()


async def test_control_messages_pass_between_the_blocks_of_a_long_transfer() -> None:
    async with link_pair() as (one, other, _):
        size = 4 * PIPE_BYTES

        async def speak() -> None:
            for number in range(3):
                await one.send_block(block(size, number), memoryview(bytes(size)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            await trio.testing.wait_all_tasks_blocked()
            one.post(m.Complete(tag=TAG))
            await expect_block(other, size)
            assert isinstance(await other.receive(), m.Complete), "behind the block that was leaving, before the next"
            await expect_block(other, size)
            await expect_block(other, size)


async def test_a_ping_is_answered_and_measures_the_way_there_and_back() -> None:
    async with link_pair() as (one, other, _), trio.open_nursery() as nursery:
        for link in (one, other):
            nursery.start_soon(link.receive)
        one.ping()
        while one.round_trip_seconds is None:
            await trio.lowlevel.checkpoint()
        assert 0 <= one.round_trip_seconds < 10
        nursery.cancel_scope.cancel()


# --- what is said wrongly ---


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


# --- who does not read, does not speak, or is gone ---


async def test_who_does_not_read_is_dropped_before_memory_grows() -> None:
    async with link_pair() as (one, other, _):
        manifest = m.ManifestIs(tag=TAG, size_bytes=1, digests=bytes(CHUNKS_MAX * DIGEST_BYTES))
        posted = 0
        while one.alive:
            one.post(manifest)
            posted += 1
        assert "does not read" in (one.lost or "")
        assert posted * len(encode(manifest)) < CONTROL_BYTES_MAX + 2 * len(encode(manifest))
        one.post(manifest)
        assert not one._control, "what was queued is gone with the link"
        assert await other.receive() is None


async def test_a_long_list_waits_for_its_reader_and_arrives_whole(autojump_clock: MockClock) -> None:
    async with link_pair() as (one, other, _):
        many = tuple(range(1024))
        count = 4 * CONTROL_BYTES_MAX // len(encode(m.Have(tag=TAG, chunks=many)))
        peak = 0

        async def speak() -> None:
            nonlocal peak
            for _ in range(count):
                one.post(m.Have(tag=TAG, chunks=many))
                peak = max(peak, one._control_bytes)
                await one.wait_room()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            for _ in range(count):
                assert isinstance(await other.receive(), m.Have)
        assert peak < 2 * CONTROL_BYTES_MANY


async def test_who_takes_no_byte_of_a_block_is_given_up(autojump_clock: MockClock) -> None:
    async with link_pair() as (one, _, _):
        begun = trio.current_time()
        with pytest.raises(LinkLost, match="takes nothing"):
            await one.send_block(block(BLOCK_BYTES_MAX), memoryview(bytes(BLOCK_BYTES_MAX)))
        slowest = SILENCE_SECONDS_MAX * BLOCK_BYTES_MAX / (256 * KIB)
        assert trio.current_time() - begun < slowest + 2


async def test_a_half_open_link_is_noticed_within_75_seconds(autojump_clock: MockClock) -> None:
    async with link_pair() as (one, other, wire), trio.open_nursery() as nursery:

        async def listen(link) -> None:
            with pytest.raises(LinkLost):
                await link.receive()

        nursery.start_soon(listen, one)
        nursery.start_soon(listen, other)
        await trio.sleep(SILENCE_SECONDS_MAX * 3)
        assert one.alive and other.alive, "a quiet link lives on pings"
        wire.freeze()
        begun = trio.current_time()
        assert "nothing heard" in await ended(one)
        assert "nothing heard" in await ended(other)
        assert trio.current_time() - begun <= 75


async def test_it_is_not_silence_when_we_are_the_ones_who_do_not_listen(autojump_clock: MockClock) -> None:
    async with link_pair() as (one, other, _), trio.open_nursery() as nursery:
        nursery.start_soon(other.receive)
        await trio.sleep(SILENCE_SECONDS_MAX * 5)  # a slow disk between two calls of receive
        assert one.alive
        other.post(m.Complete(tag=TAG))
        assert isinstance(await one.receive(), m.Complete)
        nursery.cancel_scope.cancel()


async def test_who_says_no_hello_is_given_up(autojump_clock: MockClock) -> None:
    for dialled_by_us in (True, False):
        dialled, accepted = await stream_pair()
        stream = dialled if dialled_by_us else accepted
        link = link_over(stream, Role.PEER, Role.PEER, "mute", dialled=dialled_by_us)
        begun = trio.current_time()
        with pytest.raises(LinkLost, match="no Hello"):
            await link.open(some_hello())
        assert trio.current_time() - begun == pytest.approx(HELLO_SECONDS_MAX)
        dialled.close()
        accepted.close()


async def test_a_reset_is_a_loss_for_reader_and_writer() -> None:
    async with link_pair() as (one, _, wire):
        wire.reset()
        with pytest.raises(LinkLost):
            await one.receive()
        with pytest.raises(LinkLost):
            await one.send_block(block(1), memoryview(b"x"))
        one.post(m.Complete(tag=TAG))
        assert not one.alive


# --- leaving in the middle ---


async def test_a_block_that_was_cancelled_before_it_began_leaves_the_link_whole() -> None:
    async with link_pair() as (one, other, _):
        buffer = bytearray(b"x" * 10)
        before = m.ManifestIs(tag=TAG, size_bytes=1, digests=bytes(CHUNKS_MAX * DIGEST_BYTES))
        one.post(before)
        await trio.testing.wait_all_tasks_blocked()  # the writer is busy with it
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.send_block(block(10), memoryview(buffer))
        assert scope.cancelled_caught
        buffer[:] = b"y" * 10
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_block, block(2, chunk=1), memoryview(b"ok"))
            assert await other.receive() == before
            assert await expect_block(other, 2) == b"ok"


async def test_a_block_that_was_cancelled_on_its_way_ends_the_link_and_never_sends_other_bytes() -> None:
    size = 8 * PIPE_BYTES
    async with link_pair() as (one, other, _):
        buffer = bytearray(b"x" * size)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send_block, block(size), memoryview(buffer))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        buffer[:] = b"y" * size  # the caller's again
        assert one.lost == "we left within a block"
        message = await other.receive()
        assert isinstance(message, m.Block)
        got = bytearray(size)
        with pytest.raises(LinkLost):
            await other.receive_raw(memoryview(got))
        assert b"y" not in got


async def test_who_stops_reading_within_a_block_ends_the_link() -> None:
    size = 8 * PIPE_BYTES
    async with link_pair() as (one, other, _), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(LinkLost):
                await one.send_block(block(size), memoryview(bytes(size)))

        assert other.alive
        message = None
        nursery.start_soon(send)
        message = await other.receive()
        assert isinstance(message, m.Block)
        with trio.CancelScope() as scope:
            scope.cancel()
            await other.receive_raw(memoryview(bytearray(size)))
        assert other.lost == "cancelled in the middle of a block"


async def test_a_cancelled_receive_between_and_within_frames_loses_nothing() -> None:
    async with link_pair() as (one, other, _):
        have = m.Have(tag=TAG, chunks=tuple(range(1000)))
        one.post(have)
        tries = 0
        while True:
            with trio.CancelScope() as scope:
                tries += 1
                scope.deadline = trio.current_time() + 1e-4 * tries
                message = await other.receive()
            if not scope.cancelled_caught:
                assert message == have
                break


async def test_hanging_up_within_a_block_is_a_loss() -> None:
    dialled, accepted = await stream_pair()
    link = link_over(accepted, Role.PEER, Role.PEER, "victim", dialled=False)
    wire = Connection(Role.PEER, Role.PEER)
    await dialled.send_all(wire.send(some_hello()) + wire.send(block(100)) + bytes(50))
    await link.open(some_hello())
    dialled.outgoing.ended = True
    async with running(link):
        assert isinstance(await link.receive(), m.Block)
        with pytest.raises(LinkLost, match="within a block"):
            await link.receive_raw(memoryview(bytearray(100)))
        assert not link.alive
    dialled.close()


# --- goodbye ---


async def test_goodbye_comes_after_everything_posted_before_and_tells_why() -> None:
    async with link_pair() as (one, other, _):
        one.post(m.Complete(tag=TAG))
        one.close("bye", "ä" * SENTENCE_BYTES_MAX)
        one.post(m.Complete(tag=TAG))
        assert isinstance(await other.receive(), m.Complete)
        assert await other.receive() is None
        assert "bye: ää" in await ended(other)
        assert await ended(one) == "closed by us"


async def test_a_program_that_is_cancelled_still_says_goodbye() -> None:
    async with link_pair() as (one, other, _), trio.open_nursery() as nursery:
        dialled, accepted = await stream_pair()
        mine = link_over(dialled, Role.PEER, Role.PEER, "b", dialled=True)
        theirs = link_over(accepted, Role.PEER, Role.PEER, "a", dialled=False)
        async with trio.open_nursery() as hellos:
            hellos.start_soon(mine.open, some_hello())
            hellos.start_soon(theirs.open, some_hello())
        scope = trio.CancelScope()

        async def program() -> None:
            with scope:
                async with running(mine):
                    await trio.sleep_forever()

        nursery.start_soon(program)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        assert await theirs.receive() is None
        assert "goodbye: bye" in (theirs.lost or "")
        assert one.alive and other.alive


async def test_a_goodbye_to_one_who_does_not_read_takes_two_seconds_at_most(autojump_clock: MockClock) -> None:
    async with link_pair() as (_, _, _):
        dialled, accepted = await stream_pair()
        link = link_over(dialled, Role.PEER, Role.PEER, "sleeper", dialled=True)
        await accepted.send_all(Connection(Role.PEER, Role.PEER).send(some_hello()))
        await link.open(some_hello())
        await dialled.send_all(bytes(PIPE_BYTES - 100))  # the pipe is full
        begun = trio.current_time()
        async with running(link):
            link.post(m.ManifestIs(tag=TAG, size_bytes=1, digests=bytes(3200)))
        assert link.lost is not None
        assert trio.current_time() - begun <= 2 * GOODBYE_SECONDS_MAX
        accepted.close()


async def test_a_link_leaves_no_task_and_no_open_stream_behind() -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    for seed in range(5):
        async with link_pair(seed=seed) as (one, other, wire):
            one.post(m.Complete(tag=TAG))
            assert isinstance(await other.receive(), m.Complete)
        assert wire.closed and one.lost and other.lost
    assert trio.lowlevel.current_statistics().tasks_living == before


def test_links_are_shown_by_role_and_node() -> None:
    async def show() -> str:
        dialled, accepted = await stream_pair()
        link = link_over(dialled, Role.PEER, Role.STORAGE, "b", dialled=True)
        dialled.close()
        accepted.close()
        return repr(link)

    assert trio.run(show) == f"<link to storage {node('b')[:8]} 127.0.0.1:4100>"
