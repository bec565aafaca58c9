"""What TLS adds to the contract of tests/contract/test_security.py: version, dates, records, and what leaks not."""

from __future__ import annotations

import gc
import ssl
import weakref

import pytest
import trio
from support.memory_network import MemoryHub, MemoryStream
from support.pairs import stream_pair
from support.swarm import SwarmCa

from protocol.errors import LinkLost, NotTrusted
from protocol.ids import Role
from runtime import tls as module
from runtime.seam import SecureStream
from runtime.tls import Expected, TlsSecurity, TlsStream, _member_context

DAY = 86400.0


async def connect(ca: SwarmCa, *, splits: bool = True) -> tuple[TlsStream, TlsStream, MemoryStream]:
    """Two ends of a TLS connection, and the wire (its dialling end)."""
    dialled, accepted = await stream_pair(splits=splits)
    ends: dict[str, SecureStream] = {}

    async def accept() -> None:
        ends["into"], _ = await TlsSecurity().accept(accepted, ca.credentials("other"), door=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        ends["out"], _ = await TlsSecurity().dial(dialled, ca.credentials("one"), Expected())
    out, into = ends["out"], ends["into"]
    assert isinstance(out, TlsStream) and isinstance(into, TlsStream)
    return out, into, dialled


async def refused(ca: SwarmCa, ours, theirs) -> tuple[Exception | None, Exception | None]:
    dialled, accepted = await stream_pair()
    errors: list[Exception | None] = [None, None]

    async def accept() -> None:
        try:
            stream, _ = await TlsSecurity().accept(accepted, theirs, door=False)
            await stream.send_all(b"welcome")
        except (NotTrusted, LinkLost) as error:
            errors[1] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        try:
            stream, _ = await TlsSecurity().dial(dialled, ours, Expected())
            await stream.receive_into(memoryview(bytearray(7)))
        except (NotTrusted, LinkLost) as error:
            errors[0] = error
    dialled.close()
    accepted.close()
    return errors[0], errors[1]


async def test_only_tls_1_3_is_spoken(swarm_ca: SwarmCa) -> None:
    out, into, _ = await connect(swarm_ca)
    assert out._tls.version() == into._tls.version() == "TLSv1.3"
    out.close()
    into.close()
    for server_side in (True, False):
        context = _member_context(swarm_ca.credentials("one"), server_side=server_side, door=False)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3 and context.verify_mode is ssl.CERT_REQUIRED


async def test_an_expired_certificate_is_refused_whoever_shows_it(swarm_ca: SwarmCa) -> None:
    fresh = swarm_ca.credentials("one")
    for issued, reason in (
        (swarm_ca.now - 91 * DAY, "certificate has expired"),
        (swarm_ca.now + 91 * DAY, "certificate is not yet valid"),
    ):
        bad = swarm_ca.credentials("other", issued=issued)
        dialler, listener = await refused(swarm_ca, fresh, bad)
        assert isinstance(dialler, NotTrusted) and reason in str(dialler)
        assert listener is not None
        dialler, listener = await refused(swarm_ca, bad, fresh)
        assert isinstance(listener, NotTrusted) and reason in str(listener)
        assert dialler is not None, "told by an alert at the first read"


async def test_an_old_tls_version_is_refused(swarm_ca: SwarmCa) -> None:
    dialled, accepted = await stream_pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    old = TlsStream(dialled, context, server_side=False)
    errors: list[Exception] = []

    async def accept() -> None:
        with pytest.raises(NotTrusted, match="protocol") as caught:
            await TlsSecurity().accept(accepted, swarm_ca.credentials("other", Role.TRACKER), door=True)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(NotTrusted, match="alert"):
            await old.handshake(lambda tls: None)
    assert errors
    old.close()


async def test_another_application_protocol_is_refused(swarm_ca: SwarmCa) -> None:
    own = swarm_ca.credentials("one")
    for offered in (["x"], ["h2"], ["upswarm/2"], ["upswarm-join/1"]):
        dialled, accepted = await stream_pair()
        context = module._make_context(own, server_side=False, door=False)
        context.set_alpn_protocols(offered)
        stream = TlsStream(dialled, context, server_side=False)

        async def dial(stream: TlsStream = stream) -> None:
            try:
                await stream.handshake(lambda tls: None)
                await stream.receive_into(memoryview(bytearray(1)))
            except (NotTrusted, LinkLost):
                pass
            stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            with pytest.raises((NotTrusted, LinkLost)):
                await TlsSecurity().accept(accepted, swarm_ca.credentials("t", Role.TRACKER), door=True)
        accepted.close()


async def test_bytes_go_straight_into_the_place_they_are_meant_for_whatever_its_size(swarm_ca: SwarmCa) -> None:
    out, into, _ = await connect(swarm_ca)
    data = bytes(range(256)) * 4096  # 1 MiB, 64 records

    async def send() -> None:
        await out.send_parts([data[:10], memoryview(data)[10:]])

    target = bytearray(len(data))
    view = memoryview(target)
    size = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while view:
            count = await into.receive_into(view[:size])
            assert 0 < count <= size
            view = view[count:]
            size = size % 70_001 + 997
    assert target == data
    out.close()
    into.close()


async def test_a_quiet_link_keeps_small_buffers_and_a_busy_one_has_a_bound(swarm_ca: SwarmCa) -> None:
    out, into, _ = await connect(swarm_ca, splits=False)
    assert len(into._received) == module._RECEIVE_BYTES_MIN
    data = bytes(8 << 20)
    got = 0

    async def send() -> None:
        await out.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        target = memoryview(bytearray(1 << 20))
        while got < len(data):
            got += await into.receive_into(target)
            assert into._incoming.pending <= module._RECEIVE_BYTES_MAX + 17_000
            assert out._outgoing.pending <= 2 * module._SEND_BYTES
    assert len(into._received) <= module._RECEIVE_BYTES_MAX
    out.close()
    into.close()


async def test_hanging_up_and_torn_records_are_losses(swarm_ca: SwarmCa) -> None:
    out, into, wire = await connect(swarm_ca)
    await out.send_all(b"whole")
    target = bytearray(5)
    view = memoryview(target)
    while view:
        view = view[await into.receive_into(view) :]
    wire.outgoing.data += b"\x17\x03\x03\x00\x50torn"
    out.close()
    with pytest.raises(LinkLost):
        await into.receive_into(memoryview(bytearray(10)))
    into.close()


async def test_a_changed_byte_on_the_wire_is_a_loss_and_never_data(swarm_ca: SwarmCa) -> None:
    out, into, wire = await connect(swarm_ca)
    await trio.testing.wait_all_tasks_blocked()
    await out.send_all(b"x" * 1000)
    wire.outgoing.data[500] ^= 1
    with pytest.raises(LinkLost):
        await into.receive_into(memoryview(bytearray(1000)))
    with pytest.raises(LinkLost):
        await into.receive_into(memoryview(bytearray(1000)))
    out.close()
    into.close()


async def test_writing_after_an_end_is_a_loss(swarm_ca: SwarmCa) -> None:
    out, into, _ = await connect(swarm_ca)
    into.close()
    with pytest.raises(LinkLost):
        for _ in range(100):
            await out.send_all(bytes(100_000))
    out.close()
    with pytest.raises(LinkLost):
        await out.receive_into(memoryview(bytearray(1)))


def test_contexts_are_made_once_for_each_identity_and_go_with_it(swarm_ca: SwarmCa) -> None:
    own = swarm_ca.credentials("short-lived")
    first = _member_context(own, server_side=True, door=False)
    assert _member_context(own, server_side=True, door=False) is first
    assert _member_context(own, server_side=True, door=True) is not first
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None, "with it went the private key in OpenSSL's memory"


async def test_no_session_ticket_follows_the_handshake(swarm_ca: SwarmCa) -> None:
    """A ticket is written by the listener after the handshake: bytes that nobody asked for, before the first Hello."""
    out, into, wire = await connect(swarm_ca)
    await trio.testing.wait_all_tasks_blocked()
    assert not wire.incoming.data and into._outgoing.pending == 0
    out.close()
    into.close()


async def test_many_handshakes_leave_nothing_open(swarm_ca: SwarmCa) -> None:
    hub = MemoryHub(2)
    network = hub.host("127.0.0.1")
    listener = await network.listen("127.0.0.1", 1)
    stranger = SwarmCa("another swarm").credentials("x")
    own = swarm_ca.credentials("one")
    for round_ in range(10):
        dialled = await network.dial("127.0.0.1", 1)
        accepted = await listener.accept()

        async def accept(accepted=accepted) -> None:
            with pytest.raises((NotTrusted, LinkLost)):
                await TlsSecurity().accept(accepted, own, door=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with pytest.raises((NotTrusted, LinkLost)):
                if round_ % 2:
                    await TlsSecurity().dial(dialled, stranger, Expected())
                else:
                    stream = await TlsSecurity().dial_door(dialled)
                    stream.close()
    assert not hub.open_streams()
    listener.close()
