"""Listening, dialling, strangers and members: on a network in memory, with virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.lowlevel
from support.memory_network import MemoryHub
from support.runtimes import memory_runtime
from support.swarm import SwarmCa
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import LinkLost, NotTrusted, RemoteProtocolError
from protocol.ids import NodeAddress, Role
from protocol.limits import HANDSHAKE_SECONDS_MAX, HELLO_SECONDS_MAX
from runtime import links as module
from runtime.identity import Credentials
from runtime.link import Link
from runtime.links import (
    DIAL_APART_SECONDS,
    DIAL_SECONDS_MAX,
    DOOR_SECONDS_MAX,
    LINKS_PER_NODE_MAX,
    Links,
    shorten,
)
from runtime.seam import SecureStream
from runtime.strangers import STRANGERS_PER_HOST_MAX, WAIT_SECONDS_MAX

PORT = 4100


class Node:
    """A node at an address of its own; by default it listens and reads."""

    def __init__(self, net: Net, name: str, host: str, role: Role, credentials: Credentials | None = None) -> None:
        self.runtime = memory_runtime(net.hub.host(host), name=name)
        self.credentials = credentials or net.ca.credentials(name, role)
        self.address = NodeAddress(self.credentials.node, role, (f"{host}:{PORT}",))
        self.served: list[Link] = []
        self.heard: list[m.Message] = []
        self.serving: Callable[[Link], Awaitable[None]] = self.read
        self.door: Callable[[SecureStream], Awaitable[None]] | None = None
        self.scope = trio.CancelScope()
        self.links = Links(
            self.runtime,
            self.credentials,
            name=name,
            serve=self.serve,
            serve_door=self.serve_door if role is Role.TRACKER else None,
        )

    async def serve(self, link: Link) -> None:
        self.served.append(link)
        await self.serving(link)

    async def serve_door(self, stream: SecureStream) -> None:
        assert self.door is not None
        await self.door(stream)

    async def read(self, link: Link) -> None:
        async for message in link.messages():
            self.heard.append(message)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        listener = await self.runtime.network.listen("0.0.0.0", PORT)
        with self.scope:
            await self.links.run((listener,), task_status)


class Net:
    """A swarm on one wire."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.hub = MemoryHub(5)
        self.ca = SwarmCa()
        self.nursery = nursery
        self._hosts = 0

    async def node(self, name: str, role: Role = Role.PEER, credentials: Credentials | None = None) -> Node:
        self._hosts += 1
        node = Node(self, name, f"10.0.0.{self._hosts}", role, credentials)
        await self.nursery.start(node.run)
        return node


@asynccontextmanager
async def net() -> AsyncIterator[Net]:
    async with trio.open_nursery() as nursery:
        yield Net(nursery)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], seconds: float = 60.0) -> float:
    begun = trio.current_time()
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)
    return trio.current_time() - begun


# --- dialling ---


async def test_a_dialled_link_is_served_on_both_sides_and_used_again(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        link = await a.links.dial(b.address)
        assert link.dialled and link.peer.node == b.address.node and link.hello.name == "b"
        assert link.hello.addresses == ("10.0.0.2:4100",)
        assert await a.links.dial(b.address) is link
        await until(lambda: a.served and b.served)
        assert b.served[0].peer.node == a.address.node and not b.served[0].dialled
        assert a.links.to(b.address.node) is link and b.links.to(a.address.node) is b.served[0]
        assert await b.links.dial(a.address) is b.served[0], "an accepted link is as good"
        link.close()
        await until(lambda: not list(a.links) and not list(b.links))
        assert a.links.to(b.address.node) is None


async def test_many_who_dial_at_once_share_one_link(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        got: list[Link] = []

        async def dial() -> None:
            got.append(await a.links.dial(b.address))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(dial)
        assert len(set(got)) == 1 and len(n.hub.dials) == 1
        assert not a.links._dialling


async def test_two_who_dial_each_other_at_once_both_get_a_link_that_works(autojump_clock: MockClock) -> None:
    for _ in range(10):
        async with net() as n:
            a, b = await n.node("a"), await n.node("b")
            got: dict[str, Link] = {}

            async def dial(one: Node, other: Node, name: str, got: dict[str, Link] = got) -> None:
                got[name] = await one.links.dial(other.address)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial, a, b, "a")
                nursery.start_soon(dial, b, a, "b")
            got["a"].post(m.NotHeld(tag=m.Tag(bytes(32), 1)))
            got["b"].post(m.NotHeld(tag=m.Tag(bytes(32), 1)))
            await until(lambda a=a, b=b: a.heard and b.heard)


async def test_we_do_not_dial_ourselves_by_id_or_by_address(autojump_clock: MockClock) -> None:
    async with net() as n:
        a = await n.node("a", Role.TRACKER)
        with pytest.raises(LinkLost, match="ourselves"):
            await a.links.dial(a.address)
        assert not n.hub.dials
        with pytest.raises(LinkLost, match="ourselves"):
            await a.links.dial_role(a.address.addresses, Role.TRACKER)
        await until(lambda: not a.links._strangers.total)
        assert not a.served


async def test_a_wrong_node_at_one_address_does_not_hide_the_right_one_at_another(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b, c = await n.node("a"), await n.node("b"), await n.node("c")
        n.hub.silent.add("10.9.9.9:4100")
        addresses = ("10.9.9.9:4100", *c.address.addresses, "10.8.8.8:1", *a.address.addresses, *b.address.addresses)
        begun = trio.current_time()
        link = await a.links.dial(NodeAddress(b.address.node, Role.PEER, addresses))
        assert link.peer.node == b.address.node
        assert trio.current_time() - begun <= 2 * DIAL_APART_SECONDS, "failures let the next one begin at once"
        assert not c.served


async def test_of_several_good_addresses_one_link_remains(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        again = await b.runtime.network.listen("10.0.0.2", 4200)
        n.nursery.start_soon(b.links.run, (again,))
        link = await a.links.dial(NodeAddress(b.address.node, Role.PEER, ("10.0.0.2:4200", *b.address.addresses)))
        await until(lambda: len(b.served) == 1)
        assert list(a.links) == [link]
        await trio.sleep(5)
        assert len(n.hub.open_streams()) == 1


@pytest.mark.parametrize("count", [1, 8])
async def test_a_dial_ends_in_bounded_time_however_many_addresses_are_silent(
    autojump_clock: MockClock, count: int
) -> None:
    async with net() as n:
        a = await n.node("a")
        addresses = tuple(f"10.7.7.{number}:1" for number in range(count))
        n.hub.silent.update(addresses)
        begun = trio.current_time()
        with pytest.raises(LinkLost):
            await a.links.dial(NodeAddress(n.ca.node("x"), Role.PEER, addresses))
        assert trio.current_time() - begun <= DIAL_SECONDS_MAX


async def test_an_acceptor_that_hangs_ends_the_dial_too(autojump_clock: MockClock) -> None:
    async with net() as n:
        a = await n.node("a")
        listener = await n.hub.host("10.6.6.6").listen("0.0.0.0", PORT)  # takes connections, never answers
        begun = trio.current_time()
        with pytest.raises(LinkLost):
            await a.links.dial(NodeAddress(n.ca.node("x"), Role.PEER, ("10.6.6.6:4100",)))
        assert trio.current_time() - begun <= DIAL_SECONDS_MAX
        assert not n.hub.open_streams()
        listener.close()


async def test_those_who_wait_for_a_dial_share_its_failure_instead_of_repeating_it(autojump_clock: MockClock) -> None:
    async with net() as n:
        a = await n.node("a")
        n.hub.silent.add("10.7.7.7:1")
        target = NodeAddress(n.ca.node("x"), Role.PEER, ("10.7.7.7:1",))
        failures: list[LinkLost] = []

        async def dial() -> None:
            with pytest.raises(LinkLost) as caught:
                await a.links.dial(target)
            failures.append(caught.value)

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(dial)
        assert len(failures) == 10 and trio.current_time() - begun <= DIAL_SECONDS_MAX
        n.hub.silent.clear()
        assert len(n.hub.dials) == 1
        await dial()
        assert len(n.hub.dials) == 2, "who comes later tries again"


async def test_a_waiting_dial_goes_on_when_the_one_before_was_cancelled(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        n.hub.silent.add("10.7.7.7:1")
        target = NodeAddress(b.address.node, Role.PEER, ("10.7.7.7:1",))
        first = trio.CancelScope()
        got: list[Link] = []

        async def give_up() -> None:
            with first:
                await a.links.dial(target)

        async def wait() -> None:
            got.append(await a.links.dial(b.address))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
        assert got and got[0].alive and not a.links._dialling


async def test_who_does_not_run_cannot_dial() -> None:
    links = Links(memory_runtime(), SwarmCa().credentials("a"), name="a", serve=Link.wait_ended)
    with pytest.raises(LinkLost, match="not running"):
        await links.dial(NodeAddress(SwarmCa().node("b"), Role.PEER, ("127.0.0.1:1",)))


# --- who gets in ---


async def test_members_only_and_no_program_ever_sees_the_others(autojump_clock: MockClock) -> None:
    async with net() as n:
        a = await n.node("a")
        foreign = await n.node("foreign", credentials=SwarmCa("another").credentials("foreign"))
        revoked = await n.node("revoked")
        a.links.renew(a.links.credentials.with_revocations(n.ca.revocations(2, ["revoked"])))
        with pytest.raises((NotTrusted, LinkLost)):
            await foreign.links.dial(a.address)
        with pytest.raises(NotTrusted, match="another swarm"):
            await a.links.dial(foreign.address)
        with pytest.raises((NotTrusted, LinkLost)):
            await revoked.links.dial(a.address)
        with pytest.raises(NotTrusted, match="revoked"):
            await a.links.dial(revoked.address)
        claimed = NodeAddress(n.ca.node("peer"), Role.STORAGE, (await n.node("peer")).address.addresses)
        with pytest.raises(NotTrusted, match="storage was expected"):
            await a.links.dial(claimed)
        await until(lambda: not a.links._strangers.total)
        assert not a.served and not foreign.served and not revoked.served


async def test_a_revoked_node_is_told_and_its_links_close(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b, c = await n.node("a"), await n.node("b"), await n.node("c")
        await b.links.dial(a.address)
        await c.links.dial(a.address)
        await until(lambda: len(a.served) == 2)
        a.links.renew(a.links.credentials.with_revocations(n.ca.revocations(2, ["b"])))
        await until(lambda: b.served[0].lost)
        assert "revoked" in (b.served[0].lost or "")
        assert c.served[0].alive


async def test_who_is_revoked_during_hello_does_not_get_in(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        stream, _ = await b.runtime.security.dial(
            await b.runtime.network.dial("10.0.0.1", PORT), b.credentials, module.Expected()
        )
        await trio.testing.wait_all_tasks_blocked()  # judged, and waiting for our Hello
        a.links.renew(a.links.credentials.with_revocations(n.ca.revocations(2, ["b"])))
        await stream.send_all(module.Connection(Role.PEER, Role.PEER).send(b.links.hello()))
        await until(lambda: not a.links._strangers.total)
        assert not a.served
        stream.close()


async def test_strangers_are_counted_by_host_and_time_out(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        evil = n.hub.host("10.66.0.1")
        streams = [await evil.dial("10.0.0.1", PORT) for _ in range(3 * STRANGERS_PER_HOST_MAX)]
        await until(lambda: a.links._strangers.waiting == 2 * STRANGERS_PER_HOST_MAX)
        assert a.links._strangers.total == STRANGERS_PER_HOST_MAX
        await b.links.dial(a.address)
        assert len(a.served) <= 1, "others still get in"
        assert await until(lambda: not a.links._strangers.waiting) <= WAIT_SECONDS_MAX + 1
        took = await until(lambda: not a.links._strangers.total)
        assert took <= HANDSHAKE_SECONDS_MAX + 1 and not a.links._strangers.hosts
        for stream in streams:
            stream.close()


async def test_a_member_that_says_no_hello_is_dropped(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        raw = await b.runtime.network.dial("10.0.0.1", PORT)
        stream, _ = await b.runtime.security.dial(raw, b.credentials, module.Expected())
        assert await until(lambda: not a.links._strangers.total) <= HELLO_SECONDS_MAX + 1
        assert not a.served
        stream.close()


async def test_a_member_cannot_open_links_without_end(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        refused = 0
        for _ in range(LINKS_PER_NODE_MAX + 5):
            try:
                await b.links.dial_role(a.address.addresses, Role.PEER)
            except LinkLost:
                refused += 1
        assert refused == 5 and len(list(a.links)) == LINKS_PER_NODE_MAX


# --- the door ---


async def test_a_door_that_fails_or_hangs_does_not_take_the_listener_with_it(autojump_clock: MockClock) -> None:
    async with net() as n:
        tracker, peer = await n.node("tracker", Role.TRACKER), await n.node("peer")

        async def fail(stream: SecureStream) -> None:
            raise RemoteProtocolError("nonsense at the door")

        async def hang(stream: SecureStream) -> None:
            await trio.sleep_forever()

        async def knock() -> float:
            begun = trio.current_time()
            raw = await peer.runtime.network.dial("10.0.0.1", PORT)
            stream = await peer.runtime.security.dial_door(raw)
            with suppress(LinkLost):
                assert await stream.receive_into(memoryview(bytearray(1))) == 0
            stream.close()
            return trio.current_time() - begun

        tracker.door = fail
        assert await knock() < 1
        tracker.door = hang
        assert await knock() <= DOOR_SECONDS_MAX
        assert (await peer.links.dial(tracker.address)).alive


# --- serving and ending ---


async def test_a_peer_that_breaks_a_rule_is_told_and_the_others_stay(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b, c = await n.node("a"), await n.node("b"), await n.node("c")

        async def judge(link: Link) -> None:
            async for message in link.messages():
                if isinstance(message, m.NotHeld):
                    raise RemoteProtocolError("I never asked")

        a.serving = judge
        link = await b.links.dial(a.address)
        other = await c.links.dial(a.address)
        link.post(m.NotHeld(tag=m.Tag(bytes(32), 1)))
        await until(lambda: link.lost)
        assert "protocol-error: I never asked" in (link.lost or "")
        assert other.alive


async def test_drop_closes_every_link_to_a_node_and_says_why(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        for _ in range(3):
            await b.links.dial_role(a.address.addresses, Role.PEER)
        await until(lambda: len(a.served) == 3)
        a.links.drop(b.address.node, "struck", "wrong bytes")
        await until(lambda: not list(b.links))
        assert all("struck: wrong bytes" in (link.lost or "") for link in b.served)


async def test_a_node_that_stops_says_goodbye_to_all_and_leaves_nothing_open(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b, c = await n.node("a"), await n.node("b"), await n.node("c")
        await a.links.dial(b.address)
        await c.links.dial(a.address)
        await until(lambda: len(a.served) == 2 and b.served and c.served)
        a.scope.cancel()
        await until(lambda: b.served[0].lost and c.served[0].lost)
        assert "goodbye: bye" in (b.served[0].lost or "") and "goodbye: bye" in (c.served[0].lost or "")
        assert not list(a.links)
        await trio.testing.wait_all_tasks_blocked()
        assert not n.hub.open_streams() and ("10.0.0.1", PORT) not in n.hub.listeners
        with pytest.raises(LinkLost):
            await a.links.dial(b.address)


async def test_nothing_is_left_after_links_that_were_reset_refused_or_cancelled(autojump_clock: MockClock) -> None:
    async with net() as n:
        a, b = await n.node("a"), await n.node("b")
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for round_ in range(30):
            with trio.move_on_after(0.001 * round_):
                await a.links.dial(b.address)
                if round_ % 3 == 0:
                    n.hub.reset_all()
                elif round_ % 3 == 1:
                    a.links.drop(b.address.node, "bye", "")
                await trio.sleep(0.001)
        a.links.drop(b.address.node, "bye", "")
        await until(lambda: not list(a.links) and not list(b.links))
        await trio.sleep(HANDSHAKE_SECONDS_MAX + HELLO_SECONDS_MAX + 3)
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert not n.hub.open_streams() and not a.links._dialling and not b.links._strangers.total


def test_a_name_is_cut_to_what_fits_between_characters() -> None:
    assert shorten("laptop") == "laptop"
    assert shorten("ä" * 40) == "ä" * 32
    assert len(shorten("x" + "ä" * 40).encode()) == 63
    assert shorten("\udcff") == "?"
