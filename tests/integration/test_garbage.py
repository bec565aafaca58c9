"""Garbage on every port of every program: refused with a log line, nothing grows, service goes on.

The storage node serves HTTP here, too; a test holds this file to the ports that the programs really listen at.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import time
from collections.abc import Iterator

import msgpack
import psutil
import pytest
from support.crew import Crew, put
from support.files import MIB
from support.processes import Program, Swarm, wait_until
from support.strangers import hello, is_hung_up, keyring_of, receive_message, tls_socket

from protocol import messages as m
from protocol.codec import encode
from protocol.frames import frame
from protocol.ids import Tag, parse_address
from protocol.limits import ALPN_JOIN, FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX, HANDSHAKE_SECONDS_MAX
from runtime.identity import Credentials

# Allocators keep some; what a stranger can make us keep for good must not show among it.
GROWTH_BYTES_MAX = 8 * MIB
ROUNDS = 60


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """Everybody listens wherever he can."""
    with Swarm() as swarm:
        swarm.environment |= {"UPSWARM_STORAGE_HTTP": "127.0.0.1:0", "UPSWARM_STORAGE_HTTP_UPLOADS": "true"}
        yield Crew.of(swarm, daemons=2)


@pytest.fixture(scope="module")
def member(crew: Crew) -> Credentials:
    """A member without manners."""
    return keyring_of(crew.swarm.join(crew.swarm.add("daemon", "rude", [])).identity).credentials


def listeners(crew: Crew) -> list[Program]:
    """One of each kind."""
    return [crew.tracker, crew.storage, crew.daemons[0]]


def http_listeners(crew: Crew) -> list[Program]:
    """The tracker's page; the storage node's door, where tus clients upload."""
    return [crew.tracker, crew.storage]


def test_no_port_is_forgotten(crew: Crew) -> None:
    for program in listeners(crew):
        known = {program.address} | ({program.ready["http"]} if program in http_listeners(crew) else set())
        process = psutil.Process(program.pid)
        inet = process.net_connections("inet")
        assert {f"{one.laddr.ip}:{one.laddr.port}" for one in inet if one.status == psutil.CONN_LISTEN} == known
        assert not [one for one in inet if one.type == socket.SOCK_DGRAM], "mDNS is off"
        assert {one.laddr for one in process.net_connections("unix") if one.laddr} == {str(program.socket_path)}


@contextlib.contextmanager
def unmoved(crew: Crew) -> Iterator[None]:
    """Check that nothing grows and that service goes on, whatever happens in the block."""
    before = {program: program.resident_bytes() for program in listeners(crew)}
    yield
    for program, size_bytes in before.items():
        wait_until(
            lambda program=program, size_bytes=size_bytes: program.resident_bytes() - size_bytes < GROWTH_BYTES_MAX,
            f"{program} is as small as before: {size_bytes / 1e6:.1f} MB, {program.resident_bytes() / 1e6:.1f} MB now",
            10,
        )
    serve(crew)


def serve(crew: Crew) -> None:
    """A put, from end to end."""
    serve_number = int(time.monotonic() * 1000)
    assert put(crew.daemons[0], crew.file(f"after-{serve_number}", MIB, serve_number))["state"] == "stored"


def talk(address: str, data: bytes, *, half_close: bool = True) -> None:
    """Say ``data`` to ``address`` and see them hang up."""
    with socket.create_connection(parse_address(address), 10) as connection:
        if half_close:
            # The last of it leaves with the end. Of a request that is cut off, the head alone would be answered like
            # any other by a server that sees it a moment sooner.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        assert is_hung_up(connection, HANDSHAKE_SECONDS_MAX + 10)


def client_hello() -> bytes:
    """The first flight of a good TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["upswarm/1"])
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_random_bytes_and_truncated_handshakes_are_refused_at_every_tcp_port(crew: Crew) -> None:
    noise = random.Random(7)
    first = client_hello()

    def one(program: Program) -> None:
        talk(program.address, noise.randbytes(noise.randrange(1, 5000)))
        talk(program.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        talk(program.address, first[: noise.randrange(1, len(first))])
        # A record that promises 16 KiB and delivers rubbish.
        talk(program.address, b"\x16\x03\x01\x40\x00" + noise.randbytes(0x4000))
        damaged = bytearray(first)
        damaged[noise.randrange(6, len(first))] ^= 0xFF
        talk(program.address, bytes(damaged))

    for program in listeners(crew):
        one(program)
    with unmoved(crew):
        for program in listeners(crew):
            before = len(program.logged("stranger refused"))
            for _ in range(ROUNDS):
                one(program)
            program.wait_logged("stranger refused", more_than=before + ROUNDS)


def test_who_says_nothing_is_sent_away_at_the_deadline(crew: Crew) -> None:
    first = client_hello()
    with contextlib.ExitStack() as stack:
        silent = []
        counts = {p: len(p.logged("stranger refused", reason="longer than")) for p in listeners(crew)}
        for program in listeners(crew):
            for begun in (b"", first[:50], first):
                connection = stack.enter_context(socket.create_connection(parse_address(program.address), 10))
                connection.sendall(begun)
                silent.append(connection)
        serve(crew)
        for connection in silent:
            assert is_hung_up(connection, HANDSHAKE_SECONDS_MAX + 5)
    for program, before in counts.items():
        program.wait_logged("stranger refused", more_than=before + 2, reason="longer than")


def test_old_tls_is_refused(crew: Crew) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for program in listeners(crew):
        with socket.create_connection(parse_address(program.address), 10) as raw, pytest.raises(OSError):
            context.wrap_socket(raw)


def bomb(depth: int) -> bytes:
    """Arrays in arrays."""
    return b"\x91" * depth + b"\xc0"


BEFORE_HELLO = {
    "a length of four gigabytes": b"\xff\xff\xff\xff",
    "a length above the first frame's": (FIRST_FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
    "an empty frame": b"\x00\x00\x00\x00",
    "no msgpack": frame(b"\xc1" * 100),
    "arrays in arrays": frame(bomb(4000)),
    "a map": frame(b"\x80"),
    "an array that promises four billion": frame(b"\xdd\xff\xff\xff\xff"),
    "a text that promises four gigabytes": frame(b"\x92\x01\xdb\xff\xff\xff\xff"),
    "a Hello of other things": frame(msgpack.packb([1, "x", 5, None, [], {}])),
    "a Hello with a thousand features": frame(msgpack.packb([1, 1, ["f"] * 1000, "n", "a", []])),
    "a type that is a text": frame(msgpack.packb(["Hello"])),
    "a negative type": frame(msgpack.packb([-1])),
    "a Block": frame(encode(m.Block(tag=Tag(bytes(32), 1), chunk=0, offset=0, length=1000))),
}

AFTER_HELLO = {
    "a length of four gigabytes": b"\xff\xff\xff\xff",
    "a length above a frame's": (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
    "many small items": frame(b"\xdc\xff\xff" + b"\xc0" * 65535),
    "nested to the end": frame(bomb(FRAME_BYTES_MAX - 10)),
    "maps": frame(b"\x91" + b"\x80" * 1000),
    "a second Hello that lies": frame(msgpack.packb([1, 0, [], "", "", []])),
    "a tracker's answer": frame(encode(m.HeartbeatAnswer(number=1, interval_milliseconds=1, inventory_wanted=True))),
    "a certificate": frame(encode(m.Renewed(request=1, certificate=b"x"))),
    "a block that nobody requested": frame(encode(m.Block(tag=Tag(bytes(32), 1), chunk=0, offset=0, length=262144)))
    + bytes(262144),
}


@pytest.mark.parametrize("what", BEFORE_HELLO)
def test_a_member_that_begins_with_garbage_is_refused(crew: Crew, member: Credentials, what: str) -> None:
    for program in listeners(crew):
        before = len(program.logged("link refused"))
        with tls_socket(program.address, member) as tls:
            assert isinstance(receive_message(tls), m.Hello)
            with contextlib.suppress(OSError):
                tls.sendall(BEFORE_HELLO[what])
            assert is_hung_up(tls)
        program.wait_logged("link refused", more_than=before)


@pytest.mark.parametrize("what", AFTER_HELLO)
def test_a_member_that_goes_on_with_garbage_is_cut_off(crew: Crew, member: Credentials, what: str) -> None:
    for program in listeners(crew):
        before = len(program.logged("peer broke a rule"))
        with tls_socket(program.address, member) as tls:
            assert isinstance(receive_message(tls), m.Hello)
            with contextlib.suppress(OSError):
                tls.sendall(frame(encode(hello("rude"))))
                tls.sendall(AFTER_HELLO[what])
            assert is_hung_up(tls)
        program.wait_logged("peer broke a rule", more_than=before)


def test_garbage_of_members_makes_nobody_grow(crew: Crew, member: Credentials) -> None:
    noise = random.Random(8)

    def one(program: Program) -> None:
        for data in (*BEFORE_HELLO.values(), noise.randbytes(3000)):
            with tls_socket(program.address, member) as tls, contextlib.suppress(OSError):
                tls.sendall(data)
                assert is_hung_up(tls)
        for data in (*AFTER_HELLO.values(), noise.randbytes(3000)):
            with tls_socket(program.address, member) as tls, contextlib.suppress(OSError):
                tls.sendall(frame(encode(hello("rude"))) + data)
                assert is_hung_up(tls)

    for program in listeners(crew):
        one(program)
    with unmoved(crew):
        for program in listeners(crew):
            for _ in range(8):
                one(program)


def test_questions_without_end_are_answered_or_cut_off_and_make_nobody_grow(crew: Crew, member: Credentials) -> None:
    """A member that asks and does not read: what waits for it is bounded."""
    question = frame(encode(m.ListNodes(request=1, after=None))) * 2000
    asked = frame(encode(m.Ask(tag=Tag(bytes(32), 1)))) * 5000
    requests = b"".join(
        frame(encode(m.Request(tag=Tag(bytes(32), 1), chunk=0, offset=number, length=1))) for number in range(3000)
    )
    with unmoved(crew):
        for program in listeners(crew):
            for data in (question,) if program.kind == "tracker" else (asked, requests):
                with tls_socket(program.address, member) as tls, contextlib.suppress(OSError):
                    tls.settimeout(5)
                    tls.sendall(frame(encode(hello("deaf"))))
                    for _ in range(20):
                        tls.sendall(data)


def test_garbage_at_the_join_door(crew: Crew) -> None:
    """The one place where somebody without a certificate is listened to."""
    noise = random.Random(11)

    def one() -> None:
        pieces = (*BEFORE_HELLO.values(), frame(encode(hello("rude"))), noise.randbytes(3000))
        for data in pieces:
            with tls_socket(crew.tracker.address, None, ALPN_JOIN) as tls:
                assert isinstance(receive_message(tls), m.DoorOpen)
                with contextlib.suppress(OSError):
                    tls.sendall(data)
                assert is_hung_up(tls)
        crew.tracker.wait_logged("door shut", more_than=before + len(pieces) - 1)

    before = len(crew.tracker.logged("door shut"))
    one()
    with unmoved(crew):
        for _ in range(6):
            before = len(crew.tracker.logged("door shut"))
            one()


CONTROL = [
    b"\x16\x03\x01\x02\x00\n",
    b"[" * 100_000 + b"\n",
    b'{"jsonrpc": "2.0", "method": "sta',
    b'{"jsonrpc": "1.0", "id": 1, "method": "status"}\n',
    b'{"jsonrpc": "2.0", "id": [1], "method": "status"}\n',
    b'["2.0"]\n' * 50,
]


def test_garbage_on_the_control_sockets(crew: Crew) -> None:
    noise = random.Random(9)

    def say(program: Program, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(program.socket_path))
            with contextlib.suppress(OSError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            assert is_hung_up(connection)

    with unmoved(crew):
        for program in listeners(crew):
            before = len(program.logged("control "))
            for data in CONTROL:
                say(program, data)
            for _ in range(ROUNDS):
                say(program, noise.randbytes(noise.randrange(1, 200_000)))
            program.wait_logged("control ", more_than=before + len(CONTROL) + ROUNDS - 1)
            assert program.call("version")


HTTP = [
    b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST /tus/ HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"PATCH /tus/x HTTP/1.1\r\nHost: 127.0.0.1\r\nUpload-Offset: 1\r\nContent-Length: 5\r\n\r\nab",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHo",
    b"\x16\x03\x01",
]
# Nothing is wrong with these but that nobody here has a use for them.
HTTP_UNWANTED = [
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
]


def test_garbage_on_the_http_ports(crew: Crew) -> None:
    noise = random.Random(10)

    def one(program: Program) -> None:
        for data in (*HTTP, *HTTP_UNWANTED, noise.randbytes(2000)):
            talk(program.ready["http"], data)

    for program in http_listeners(crew):
        one(program)
    with unmoved(crew):
        for program in http_listeners(crew):
            before = len(program.logged("http client refused"))
            for _ in range(ROUNDS // 10):
                one(program)
            program.wait_logged("http client refused", more_than=before + ROUNDS // 10 * (len(HTTP) + 1) - 1)
            assert program.call("version")
            assert "Traceback" not in program.log_path.read_text("utf-8", "replace")


def test_more_strangers_than_there_is_room_for_do_not_push_out_members(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1)
    with contextlib.ExitStack() as stack:
        for _ in range(80):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(parse_address(crew.storage.address), 5))
        crew.storage.wait_logged("too many strangers")
        # Members that are in stay in.
        assert crew.storage.call("status")
    serve(crew)
