"""What a link does with bytes that come split, late, torn or not at all."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_network import PIPE_BYTES
from support.pairs import link_over, link_pair, node, some_hello, stream_pair
from support.spoken import TAG, block, ended, expect_block
from trio.testing import MockClock

from protocol import messages as m
from protocol.codec import encode
from protocol.connection import Connection
from protocol.errors import LinkLost
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
