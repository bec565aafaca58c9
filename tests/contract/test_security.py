"""What every Security keeps: TLS over TCP, TLS over memory, and the plain one of simulations.

Refused in both directions, before the first application byte: a node of another swarm, one without a certificate, one
that was revoked, one of another role or another id than expected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from support.memory_network import MemoryHub
from support.plain_security import PlainSecurity
from support.swarm import SwarmCa
from trio.testing import MockClock

from protocol.errors import LinkLost, NotTrusted
from protocol.ids import Role, parse_address
from protocol.limits import ALPN, ALPN_JOIN, HANDSHAKE_SECONDS_MAX
from runtime.identity import Credentials, Peer
from runtime.real import TcpNetwork
from runtime.seam import ByteStream, Network, SecureStream
from runtime.tls import Expected, Security, TlsSecurity

REFUSED = (NotTrusted, LinkLost)


@dataclass
class Way:
    """A network and a security on top."""

    network: Network
    security: Security


@pytest.fixture(params=["tls over tcp", "tls over memory", "plain over memory"])
def way(request: pytest.FixtureRequest) -> Way:
    network: Network = TcpNetwork() if request.param == "tls over tcp" else MemoryHub(3).host("127.0.0.1")
    return Way(network, PlainSecurity() if request.param.startswith("plain") else TlsSecurity())


@dataclass
class Meeting:
    """What came of a handshake on each side: the peer, or the error; and the streams."""

    dialler: Peer | Exception | None = None
    listener: Peer | Exception | None = None
    door: bool = False
    out: SecureStream | None = None
    into: SecureStream | None = None
    heard_by_listener: bytes = b""


@asynccontextmanager
async def raw_pair(network: Network) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    listener = await network.listen("127.0.0.1", 0)
    accepted: list[ByteStream] = []

    async def accept() -> None:
        accepted.append(await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        dialled = await network.dial(*parse_address(listener.address))
    try:
        yield dialled, accepted[0]
    finally:
        for thing in (dialled, accepted[0], listener):
            thing.close()


async def heard(stream: SecureStream, size: int) -> bytes:
    """Return the first ``size`` bytes that come, fewer when the end comes before."""
    data = b""
    target = bytearray(size)
    while len(data) < size:
        try:
            count = await stream.receive_into(memoryview(target)[: size - len(data)])
        except LinkLost:
            break
        if count == 0:
            break
        data += target[:count]
    return data


async def meet(
    way: Way,
    ours: Credentials | None,
    theirs: Credentials,
    expected: Expected = Expected(),
    *,
    door: bool = False,
) -> Meeting:
    """``ours`` dials ``theirs``; as in a link, the listener speaks first, and the dialler answers what it hears."""
    meeting = Meeting()

    async def listen(stream: ByteStream) -> None:
        try:
            meeting.into, meeting.listener = await way.security.accept(stream, theirs, door=door)
        except REFUSED as error:
            meeting.listener = error
            stream.close()
            return
        try:
            await meeting.into.send_all(b"welcome")
            meeting.heard_by_listener = await heard(meeting.into, len(b"thank you"))
        except LinkLost:
            pass

    with trio.fail_after(30):
        async with raw_pair(way.network) as (dialled, accepted), trio.open_nursery() as nursery:
            nursery.start_soon(listen, accepted)
            try:
                if ours is None:
                    meeting.out = await way.security.dial_door(dialled)
                else:
                    meeting.out, meeting.dialler = await way.security.dial(dialled, ours, expected)
            except REFUSED as error:
                meeting.dialler = error
                dialled.close()
            else:
                if await heard(meeting.out, len(b"welcome")) == b"welcome":
                    await meeting.out.send_all(b"thank you")
                else:
                    meeting.dialler = LinkLost("thrown out")
                    meeting.out.close()
    return meeting


async def test_members_meet_and_know_each_other(way: Way, swarm_ca: SwarmCa) -> None:
    one, other = swarm_ca.credentials("one"), swarm_ca.credentials("other", Role.STORAGE)
    meeting = await meet(way, one, other, Expected(Role.STORAGE, other.node))
    assert meeting.dialler == other.peer and meeting.listener == one.peer
    assert meeting.heard_by_listener == b"thank you"
    assert meeting.out is not None and meeting.into is not None
    assert meeting.out.certificate == other.certificate and meeting.into.certificate == one.certificate
    assert meeting.out.alpn == meeting.into.alpn == ALPN
    assert parse_address(meeting.out.remote)


async def test_a_listener_with_a_door_lets_members_in_by_the_front(way: Way, swarm_ca: SwarmCa) -> None:
    one, tracker = swarm_ca.credentials("one"), swarm_ca.credentials("tracker", Role.TRACKER)
    meeting = await meet(way, one, tracker, door=True)
    assert meeting.listener == one.peer and meeting.heard_by_listener == b"thank you"


async def test_a_node_of_another_swarm_is_refused_whoever_dials(way: Way, swarm_ca: SwarmCa) -> None:
    ours = swarm_ca.credentials("one")
    theirs = SwarmCa("another swarm").credentials("one")
    for door in (False, True):
        meeting = await meet(way, ours, theirs, door=door)
        assert isinstance(meeting.dialler, NotTrusted)
        assert isinstance(meeting.listener, Exception) and meeting.heard_by_listener == b""
        meeting = await meet(way, theirs, ours, door=door)
        assert isinstance(meeting.dialler, Exception)
        assert isinstance(meeting.listener, Exception) and meeting.heard_by_listener == b""


async def test_an_authority_of_the_same_name_is_another_swarm_all_the_same(way: Way, swarm_ca: SwarmCa) -> None:
    """Whoever copies everything but the authority's key makes certificates that look right and are not."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tracker.authority import Authority

    forger = SwarmCa("forger")
    real = swarm_ca.authority.certificate
    forged = Authority(Ed25519PrivateKey.generate(), real)
    key = forger.key("mallory")
    from runtime.identity import raw_public_key

    certificate = forged.issue(raw_public_key(key.public_key()), Role.TRACKER, swarm_ca.now)
    assert x509.load_der_x509_certificate(certificate).issuer == real.subject
    honest = swarm_ca.credentials("one")
    template = forger.credentials("mallory", Role.TRACKER)
    mallory = Credentials(key, certificate, honest.authorities, honest.revocations, template.peer, 1, frozenset())
    for one, other in ((honest, mallory), (mallory, honest)):
        meeting = await meet(way, one, other)
        assert isinstance(meeting.dialler, Exception) and isinstance(meeting.listener, Exception)
        assert meeting.heard_by_listener == b""


async def test_a_revoked_node_is_refused_whoever_dials(way: Way, swarm_ca: SwarmCa) -> None:
    knows = swarm_ca.credentials("one", revoked=["mallory"], number=2)
    revoked = swarm_ca.credentials("mallory")
    meeting = await meet(way, knows, revoked)
    assert isinstance(meeting.dialler, NotTrusted) and "revoked" in str(meeting.dialler)
    assert meeting.heard_by_listener == b""
    meeting = await meet(way, revoked, knows)
    assert isinstance(meeting.listener, NotTrusted) and "revoked" in str(meeting.listener)
    assert isinstance(meeting.dialler, Exception)


async def test_a_peer_that_claims_to_be_storage_is_refused(way: Way, swarm_ca: SwarmCa) -> None:
    one, peer = swarm_ca.credentials("one"), swarm_ca.credentials("peer", Role.PEER)
    meeting = await meet(way, one, peer, Expected(role=Role.STORAGE))
    assert isinstance(meeting.dialler, NotTrusted) and "storage was expected" in str(meeting.dialler)
    assert meeting.heard_by_listener == b""


async def test_another_node_than_the_expected_one_is_refused_and_learns_nothing(way: Way, swarm_ca: SwarmCa) -> None:
    one, other = swarm_ca.credentials("one"), swarm_ca.credentials("other")
    meeting = await meet(way, one, other, Expected(node=swarm_ca.node("third")))
    assert isinstance(meeting.dialler, NotTrusted) and "expected" in str(meeting.dialler)
    assert isinstance(meeting.listener, Exception), "our certificate never left"
    assert meeting.heard_by_listener == b""


async def test_who_has_no_certificate_gets_to_the_door_and_nowhere_else(way: Way, swarm_ca: SwarmCa) -> None:
    tracker = swarm_ca.credentials("tracker", Role.TRACKER)
    meeting = await meet(way, None, tracker, door=True)
    assert meeting.listener is None and meeting.heard_by_listener == b"thank you"
    assert meeting.out is not None and meeting.into is not None
    assert meeting.out.alpn == meeting.into.alpn == ALPN_JOIN
    assert meeting.out.certificate == tracker.certificate and meeting.into.certificate is None
    meeting = await meet(way, None, tracker, door=False)
    assert isinstance(meeting.listener, Exception), "no door, no entrance"
    assert isinstance(meeting.dialler, Exception) and meeting.heard_by_listener == b""


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00" * 200, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 999]
)
async def test_garbage_instead_of_a_handshake_is_refused_on_both_sides(way: Way, swarm_ca: SwarmCa, garbage) -> None:
    own = swarm_ca.credentials("one", Role.TRACKER)

    async def babble(stream: ByteStream) -> None:
        try:
            await stream.send_all(garbage)
            await stream.receive_into(memoryview(bytearray(10)))
        except LinkLost:
            pass
        stream.close()

    with trio.fail_after(30):
        async with raw_pair(way.network) as (dialled, accepted), trio.open_nursery() as nursery:
            if not garbage:
                dialled.close()
            else:
                nursery.start_soon(babble, dialled)
            with pytest.raises(REFUSED):
                await way.security.accept(accepted, own, door=True)
        async with raw_pair(way.network) as (dialled, accepted), trio.open_nursery() as nursery:
            if not garbage:
                accepted.close()
            else:
                nursery.start_soon(babble, accepted)
            with pytest.raises(REFUSED):
                await way.security.dial(dialled, own, Expected())


async def test_a_handshake_cut_short_is_the_nets_fault(way: Way, swarm_ca: SwarmCa) -> None:
    """Not NotTrusted: a tracker that is killed at this moment has not become a stranger."""
    own = swarm_ca.credentials("one")
    with trio.fail_after(30):
        async with raw_pair(way.network) as (dialled, accepted):
            accepted.close()
            with pytest.raises(LinkLost):
                await way.security.dial(dialled, own, Expected())
        async with raw_pair(way.network) as (dialled, accepted), trio.open_nursery() as nursery:

            async def read_and_leave() -> None:
                await accepted.receive_into(memoryview(bytearray(10_000)))
                accepted.close()

            nursery.start_soon(read_and_leave)
            with pytest.raises(LinkLost):
                await way.security.dial(dialled, own, Expected())


async def test_who_says_nothing_is_given_up(swarm_ca: SwarmCa, autojump_clock: MockClock) -> None:
    own = swarm_ca.credentials("one")
    for security in (TlsSecurity(), PlainSecurity()):
        for ours in ("dial", "accept", "door"):
            async with raw_pair(MemoryHub(1).host("127.0.0.1")) as (dialled, accepted):
                begun = trio.current_time()
                with pytest.raises(LinkLost, match="took longer"):
                    if ours == "dial":
                        await security.dial(dialled, own, Expected())
                    elif ours == "door":
                        await security.dial_door(dialled)
                    else:
                        await security.accept(accepted, own, door=True)
                assert trio.current_time() - begun <= HANDSHAKE_SECONDS_MAX + 1


async def test_a_cancelled_handshake_closes_its_stream(way: Way, swarm_ca: SwarmCa) -> None:
    own = swarm_ca.credentials("one")
    async with raw_pair(way.network) as (dialled, accepted):
        with trio.CancelScope() as scope:
            scope.cancel()
            await way.security.dial(dialled, own, Expected())
        with trio.fail_after(10):
            target = memoryview(bytearray(4096))
            try:
                while await accepted.receive_into(target):
                    pass
            except LinkLost:
                pass


async def test_large_and_many_parts_arrive_in_order(way: Way, swarm_ca: SwarmCa) -> None:
    one, other = swarm_ca.credentials("one"), swarm_ca.credentials("other")
    parts = [bytes([number]) * size for number, size in enumerate([1, 0, 70_000, 3, 1 << 20, 16384])]
    whole = b"".join(parts)
    async with raw_pair(way.network) as (dialled, accepted):
        streams: dict[str, SecureStream] = {}

        async def accept() -> None:
            streams["into"], _ = await way.security.accept(accepted, other, door=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            streams["out"], _ = await way.security.dial(dialled, one, Expected())
        data = bytearray(len(whole))

        async def read() -> None:
            view = memoryview(data)
            while view:
                count = await streams["into"].receive_into(view)
                assert count
                view = view[count:]

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await streams["out"].send_parts([memoryview(part) for part in parts])
        assert data == whole
