"""What every Network keeps: TCP on this machine, and the one in memory."""

from __future__ import annotations

import hashlib
import random
import socket

import pytest
import trio
from support.memory_network import MemoryHub

from protocol.errors import ConfigError, LinkLost
from protocol.ids import parse_address
from runtime.real import UNSENT_BYTES_MAX, TcpNetwork, TcpStream
from runtime.seam import ByteStream, Listener, Network


@pytest.fixture(params=["tcp", "memory", "memory, unsplit"])
def network(request: pytest.FixtureRequest) -> Network:
    if request.param == "tcp":
        return TcpNetwork()
    return MemoryHub(7, splits=request.param == "memory").host("127.0.0.1")


async def pair(network: Network, listener: Listener) -> tuple[ByteStream, ByteStream]:
    host, port = parse_address(listener.address)
    async with trio.open_nursery() as nursery:
        accepted: list[ByteStream] = []

        async def accept() -> None:
            accepted.append(await listener.accept())

        nursery.start_soon(accept)
        dialled = await network.dial(host, port)
    return dialled, accepted[0]


async def read(stream: ByteStream, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = await stream.receive_into(view)
        if count == 0:
            break
        view = view[count:]
    return bytes(data[: size - len(view)])


async def test_a_free_port_is_given_and_said(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    host, port = parse_address(listener.address)
    assert host == "127.0.0.1" and port > 0
    listener.close()


async def test_bytes_arrive_whole_in_both_directions_at_once(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    one, other = await pair(network, listener)
    data = random.Random(1).randbytes(1 << 20)

    async def check(stream: ByteStream) -> None:
        received = await read(stream, len(data))
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for stream in (one, other):
                nursery.start_soon(stream.send_all, memoryview(data))
                nursery.start_soon(check, stream)
    for thing in (one, other, listener):
        thing.close()


async def test_both_ends_know_the_address_of_the_other(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    one, other = await pair(network, listener)
    assert one.remote == listener.address
    assert parse_address(other.remote)[0] == "127.0.0.1"
    for thing in (one, other, listener):
        thing.close()


async def test_hanging_up_is_heard_as_an_end_after_everything_sent(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    one, other = await pair(network, listener)
    await one.send_all(b"last words")
    one.close()
    with trio.fail_after(10):
        assert await read(other, 100) == b"last words"
        assert await other.receive_into(memoryview(bytearray(1))) == 0
    other.close()
    listener.close()


async def test_writing_to_one_who_left_is_lost_in_the_end(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    one, other = await pair(network, listener)
    other.close()
    with trio.fail_after(10), pytest.raises(LinkLost):
        for _ in range(1000):
            await one.send_all(bytes(65536))
    one.close()
    listener.close()


async def test_our_own_close_wakes_whoever_reads_or_writes(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    one, other = await pair(network, listener)
    lost: list[LinkLost] = []

    async def read_on() -> None:
        with pytest.raises(LinkLost):
            await one.receive_into(memoryview(bytearray(10)))
        lost.append(LinkLost("reader"))

    async def write_on() -> None:
        with pytest.raises(LinkLost):
            while True:
                await one.send_all(bytes(1 << 20))
        lost.append(LinkLost("writer"))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_on)
            nursery.start_soon(write_on)
            await trio.testing.wait_all_tasks_blocked(0.01)
            one.close()
    assert len(lost) == 2
    one.close()  # again is fine
    with pytest.raises(LinkLost):
        await one.send_all(b"x")
    other.close()
    listener.close()


async def test_who_does_not_read_holds_up_the_writer_and_not_our_memory(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    one, other = await pair(network, listener)
    with trio.move_on_after(0.3) as scope:
        await one.send_all(bytes(64 << 20))
    assert scope.cancelled_caught
    for thing in (one, other, listener):
        thing.close()


async def test_a_cancelled_receive_takes_no_byte(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    one, other = await pair(network, listener)
    with trio.CancelScope() as scope:
        scope.cancel()
        await other.receive_into(memoryview(bytearray(10)))
    await one.send_all(b"still here")
    assert await read(other, 10) == b"still here"
    for thing in (one, other, listener):
        thing.close()


async def test_where_nobody_listens_a_dial_is_lost(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    host, port = parse_address(listener.address)
    listener.close()
    with trio.fail_after(15), pytest.raises(LinkLost, match=str(port)):
        await network.dial(host, port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "256.1.1.1"])
async def test_a_host_that_is_none_is_lost_like_any_other(network: Network, host: str) -> None:
    with trio.fail_after(15), pytest.raises(LinkLost):
        await network.dial(host, 4100)


async def test_an_address_that_is_taken_or_not_ours_is_the_operators_to_mend(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    host, port = parse_address(listener.address)
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        await network.listen(host, port)
    with pytest.raises(ConfigError, match="cannot listen"):
        await network.listen("192.0.2.77", 0)
    listener.close()


async def test_closing_a_listener_frees_its_port(network: Network) -> None:
    listener = await network.listen("127.0.0.1", 0)
    host, port = parse_address(listener.address)
    listener.close()
    listener.close()
    again = await network.listen(host, port)
    again.close()


async def test_within_a_machine_nothing_is_paced() -> None:
    network = TcpNetwork()
    listener = await network.listen("127.0.0.1", 0)
    for stream in await pair(network, listener):
        assert isinstance(stream, TcpStream)
        name = stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert name.rstrip(b"\0") == b"reno"
        # Nor kept from giving the kernel much at a time.
        assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 0
        stream.close()
    listener.close()


async def test_between_machines_both_ends_keep_a_line_busy_and_words_short_of_waiting() -> None:
    network = TcpNetwork()
    listener = await network.listen("127.0.0.2", 0)
    for stream in await pair(network, listener):
        assert isinstance(stream, TcpStream)
        assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES_MAX
        stream.close()
    listener.close()


class Counting:
    """A socket that counts how often it is asked to send."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.sends = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def send(self, data: memoryview) -> int:
        self.sends += 1
        return self._inner.send(data)


async def test_who_sends_more_than_the_kernel_takes_waits_for_much_room() -> None:
    network = TcpNetwork()
    listener = await network.listen("127.0.0.1", 0)
    dialled, accepted = await pair(network, listener)
    size, piece_bytes = 64 << 20, 64 << 10
    for sender, receiver in ((dialled, accepted), (accepted, dialled)):
        assert isinstance(sender, TcpStream)
        counting = Counting(sender._socket)
        sender._socket = counting  # type: ignore[assignment]  # it is one, as far as it is used
        reads = 0
        async with trio.open_nursery() as sending:
            sending.start_soon(sender.send_all, bytes(size))
            rest, piece = size, memoryview(bytearray(piece_bytes))
            while rest:
                rest -= await receiver.receive_into(piece)
                reads += 1
                # Both have their turns, or nobody would ask too early.
                await trio.lowlevel.checkpoint()
        # Room comes in pieces of 64 KiB at most; each send uses what several of them have left.
        assert reads >= size // piece_bytes
        assert counting.sends < reads / 3
    for stream in (dialled, accepted):
        stream.close()
    listener.close()
