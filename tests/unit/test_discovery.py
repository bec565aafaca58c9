"""Nodes find each other on a LAN: by mDNS on the loopback interface, and on the LAN in memory that simulations use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import zeroconf
from support.memory_discovery import MemoryLan
from support.pairs import node

from protocol.ids import NodeAddress, NodeId, Role
from runtime import discovery as module
from runtime.discovery import (
    FOUND_MAX,
    LOOPBACK,
    SERVICE,
    Announcement,
    Discovery,
    LanNode,
    Neighbours,
    ZeroconfDiscovery,
    announced_addresses,
    introduce_tracker,
    read_announcement,
)
from runtime.heartbeat import TrackerLink

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 20.0


class Neighbour:
    """A node, and what it has found."""

    def __init__(self, swarm: str, name: str, port: int, role: Role = Role.PEER, address: str = LOOPBACK) -> None:
        self.own = Announcement(swarm, node(name), role, (f"{address}:{port}",))
        self.found: dict[NodeId, LanNode] = {}
        self.lost: list[NodeId] = []
        self.scope = trio.CancelScope()

    async def run(self, discovery: Discovery) -> None:
        with self.scope:
            await discovery.run(self.own, self._find, self._lose)

    def _find(self, other: LanNode) -> None:
        self.found[other.node] = other

    def _lose(self, other: NodeId) -> None:
        self.lost.append(other)
        del self.found[other]

    def sees(self, *others: Neighbour) -> bool:
        return set(self.found) == {other.own.node for other in others}


@pytest.fixture(params=["mdns", "memory"])
def lan(request: pytest.FixtureRequest) -> Iterator[Callable[[], Discovery]]:
    if request.param == "mdns":
        yield lambda: ZeroconfDiscovery((LOOPBACK,))
    else:
        yield MemoryLan().discovery


@asynccontextmanager
async def neighbours(lan: Callable[[], Discovery], *those: Neighbour) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for one in those:
            nursery.start_soon(one.run, lan())
        yield nursery
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], seconds: float = SECONDS_MAX) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.02)


# --- the contract ---


async def test_nodes_of_a_swarm_find_each_other_with_role_and_address(lan) -> None:
    one = Neighbour("swarm-c1", "c1 one", 4101)
    other = Neighbour("swarm-c1", "c1 other", 4102, Role.TRACKER)
    async with neighbours(lan, one, other):
        await until(lambda: one.sees(other) and other.sees(one))
        seen = one.found[other.own.node]
        assert seen == LanNode(other.own.node, Role.TRACKER, ("127.0.0.1:4102",))
        assert seen.address == NodeAddress(other.own.node, Role.TRACKER, ("127.0.0.1:4102",))


async def test_nodes_of_other_swarms_are_not_reported_nor_are_we_ourselves(lan) -> None:
    one, other = Neighbour("swarm-c2", "c2 one", 4101), Neighbour("swarm-c2", "c2 other", 4102)
    stranger, second = Neighbour("swarm-c2-x", "c2 x", 4103), Neighbour("swarm-c2-x", "c2 y", 4104)
    async with neighbours(lan, one, other, stranger, second):
        # Both pairs have met, over the same wire: whatever was to be reported has been.
        await until(lambda: one.found and other.found and stranger.found and second.found)
        assert one.sees(other) and other.sees(one) and stranger.sees(second) and second.sees(stranger)


async def test_who_leaves_is_lost_and_who_comes_back_elsewhere_is_found_there(lan) -> None:
    one, other = Neighbour("swarm-c3", "c3 one", 4101), Neighbour("swarm-c3", "c3 other", 4102)
    async with neighbours(lan, one, other) as nursery:
        await until(lambda: one.sees(other))
        other.scope.cancel()
        await until(lambda: one.lost == [other.own.node] and not one.found)
        again = Neighbour("swarm-c3", "c3 other", 4999)
        nursery.start_soon(again.run, lan())
        await until(lambda: one.sees(again))
        assert one.found[again.own.node].addresses == ("127.0.0.1:4999",)


async def test_who_comes_late_finds_who_was_there(lan) -> None:
    one, late = Neighbour("swarm-c4", "c4 one", 4101), Neighbour("swarm-c4", "c4 late", 4102)
    async with neighbours(lan, one) as nursery:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(late.run, lan())
        await until(lambda: late.sees(one) and one.sees(late))


# --- mDNS ---


async def test_who_was_killed_and_comes_back_with_another_port_is_found_there() -> None:
    """A kill says no goodbye; the new announcement replaces the old one."""
    one, other = Neighbour("swarm-k", "k one", 4101), Neighbour("swarm-k", "k other", 4102)
    async with neighbours(lambda: ZeroconfDiscovery((LOOPBACK,)), one):
        ghost = await trio.to_thread.run_sync(module._Responder, other.own, (LOOPBACK,), lambda node, seen: None)
        await trio.to_thread.run_sync(ghost.announce)
        await until(lambda: one.sees(other))
        ghost._zeroconf.registry.async_remove(ghost._zeroconf.registry.async_get_service_infos())
        await trio.to_thread.run_sync(ghost.close)  # nothing registered: no goodbye
        assert one.sees(other)
        again = Neighbour("swarm-k", "k other", 4888)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.run, ZeroconfDiscovery((LOOPBACK,)))
            await until(lambda: one.sees(again) and one.found[again.own.node].addresses == ("127.0.0.1:4888",))
            nursery.cancel_scope.cancel()


async def test_two_processes_find_each_other_on_loopback() -> None:
    program = """
import sys, trio
from protocol.ids import NodeId, Role
from runtime.discovery import Announcement, ZeroconfDiscovery

async def main():
    with trio.fail_after(25), trio.CancelScope() as scope:
        own = Announcement("swarm-p", NodeId(sys.argv[1]), Role.PEER, (f"127.0.0.1:{sys.argv[2]}",))
        def found(node):
            print(node.node, *node.addresses, flush=True)
            scope.cancel()
        await ZeroconfDiscovery().run(own, found, lambda node: None)

trio.run(main)
"""
    command = [sys.executable, "-c", program]
    here = Neighbour("swarm-p", "p here", 4101)
    there = node("p there")
    async with neighbours(ZeroconfDiscovery, here), trio.open_nursery() as nursery:

        async def run() -> str:
            done = await trio.run_process(
                [*command, there, "4102"], capture_stdout=True, cwd=ROOT, stderr=subprocess.STDOUT, check=False
            )
            return done.stdout.decode()

        said: list[str] = []

        async def other() -> None:
            said.append(await run())

        nursery.start_soon(other)
        await until(lambda: there in here.found, 30)
        assert here.found[there].addresses == ("127.0.0.1:4102",)
        await until(lambda: said, 30)
        assert said[0].split() == [here.own.node, "127.0.0.1:4101"]
        await until(lambda: here.lost == [there])


async def test_stopping_is_quick_and_leaves_no_thread() -> None:
    import threading

    before = threading.active_count()
    one = Neighbour("swarm-s", "s one", 4101)
    async with neighbours(lambda: ZeroconfDiscovery((LOOPBACK,)), one):
        await until(lambda: threading.active_count() > before)
        begun = trio.current_time()
        one.scope.cancel()
    assert trio.current_time() - begun < 8
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("zeroconf") for name in names)


async def test_no_network_is_no_error_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[tuple[str, ...]] = []
    real = module._Responder

    def responder(own, hosts, post):
        tries.append(hosts)
        if len(tries) < 3:
            raise OSError(19, "No such device")
        return real(own, hosts, post)

    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "_Responder", responder)
    one = Neighbour("swarm-n", "n one", 4101)
    async with neighbours(ZeroconfDiscovery, one):
        await until(lambda: len(tries) == 3)
    assert set(tries) == {(LOOPBACK,)}, "who listens on loopback alone is announced there alone"


async def test_new_addresses_of_this_machine_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [("192.0.2.1",), ("192.0.2.1",), ("192.0.2.9",)]
    opened: list[tuple[str, ...]] = []

    class Quiet:
        def __init__(self, own, hosts, post) -> None:
            opened.append(hosts)
            post(node("x"), ("swarm-a", LanNode(node("x"), Role.PEER, ("192.0.2.3:1",))))

        def announce(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "_Responder", Quiet)
    monkeypatch.setattr(ZeroconfDiscovery, "_hosts", lambda self, own: hosts.pop(0) if len(hosts) > 1 else hosts[0])
    one = Neighbour("swarm-a", "a one", 4101)
    async with neighbours(ZeroconfDiscovery, one):
        await until(lambda: len(opened) == 2)
        await until(lambda: one.found)
        assert one.lost == [node("x")], "what was found before counts no more"
    assert opened == [("192.0.2.1",), ("192.0.2.9",)]


# --- what is announced, and what is believed ---


@pytest.mark.parametrize(
    ("listening", "hosts", "expected"),
    [
        (("0.0.0.0:1",), ("127.0.0.1", "172.17.0.1", "192.0.2.7"), (("192.0.2.7", "172.17.0.1"), 1)),
        (("0.0.0.0:1",), ("127.0.0.1",), (("127.0.0.1",), 1)),
        (("127.0.0.1:1",), ("127.0.0.1",), (("127.0.0.1",), 1)),
        (("192.0.2.7:5", "198.51.100.1:5", "198.51.100.2:6"), ("127.0.0.1",), (("192.0.2.7", "198.51.100.1"), 5)),
        (("host.example:7",), ("192.0.2.7",), ((), 7)),
        (("[fd00::2]:8",), ("192.0.2.7",), (("fd00::2",), 8)),
        ((), ("192.0.2.7",), ((), 0)),
    ],
)
def test_what_others_can_reach_is_announced(listening, hosts, expected) -> None:
    assert announced_addresses(Announcement("s", node("a"), Role.PEER, listening), hosts) == expected


def info(name: str, port: int = 1, addresses: tuple[str, ...] = ("192.0.2.1",), **told: str) -> zeroconf.ServiceInfo:
    return zeroconf.ServiceInfo(SERVICE, name, port=port, parsed_addresses=list(addresses), properties=told)


def test_only_well_formed_announcements_under_the_nodes_own_name_are_believed() -> None:
    name = f"{node('a')}.{SERVICE}"
    told = {"swarm": "s", "node": node("a"), "role": "peer", "version": "1"}
    expected = ("s", LanNode(node("a"), Role.PEER, ("192.0.2.1:1",)))
    assert read_announcement(name, info(name, **told)) == expected
    assert read_announcement(name, info(name, **told, future="field")) == expected
    assert read_announcement(name, info(name, **{**told, "version": "2"})) is not None
    other = f"{node('b')}.{SERVICE}"
    assert read_announcement(other, info(other, **told)) is None, "another node's entry would be replaced"
    for wrong in ({"node": "x"}, {"role": "king"}, {"version": "0"}, {"version": "x"}, {"version": ""}):
        assert read_announcement(name, info(name, **{**told, **wrong})) is None
    assert read_announcement(name, info(name)) is None
    assert read_announcement(name, info(name, port=0, **told)) is None
    assert read_announcement(name, info(name, addresses=(), **told)) is None
    many = read_announcement(name, info(name, addresses=tuple(f"192.0.2.{n}" for n in range(1, 99)), **told))
    assert many is not None and len(many[1].addresses) == 8


def test_a_lan_full_of_forgeries_fills_no_memory() -> None:
    found: list[LanNode] = []
    table = Neighbours(Announcement("s", node("me"), Role.PEER, ()), found.append, lambda node: None)
    for number in range(2 * FOUND_MAX):
        table.see("s", LanNode(node(str(number)), Role.PEER, ("192.0.2.1:1",)))
    assert len(found) == FOUND_MAX
    table.see("s", LanNode(node("1"), Role.PEER, ("192.0.2.2:2",)))
    assert found[-1].addresses == ("192.0.2.2:2",), "who is known may still change"


async def test_the_mailbox_keeps_the_newest_news_of_each_node_and_outlives_trio() -> None:
    mailbox = module._Mailbox(trio.lowlevel.current_trio_token())
    for number in range(3 * FOUND_MAX):
        mailbox._put(node(str(number % (FOUND_MAX + 9))), None)
    assert len(mailbox.take()) == FOUND_MAX and mailbox.take() == []
    seen = ("s", LanNode(node("1"), Role.PEER, ("192.0.2.1:1",)))
    mailbox._put(node("1"), seen)
    mailbox._put(node("1"), None)
    assert mailbox.take() == [(node("1"), None)]

    async def token() -> trio.lowlevel.TrioToken:
        return trio.lowlevel.current_trio_token()

    over = await trio.to_thread.run_sync(trio.run, token)
    module._Mailbox(over).post(node("1"), None)


def test_a_tracker_seen_on_the_lan_is_told_to_its_link() -> None:
    class Link:
        trackers = (NodeAddress(node("tracker"), Role.TRACKER, ()), NodeAddress(node("other"), Role.TRACKER, ()))

        def __init__(self) -> None:
            self.told: list[tuple[str, NodeId]] = []

        def add_address(self, address: str, tracker: NodeId) -> None:
            self.told.append((address, tracker))

    link = Link()
    others: list[LanNode] = []
    found = introduce_tracker(cast(TrackerLink, link), others.append)
    tracker = LanNode(node("tracker"), Role.TRACKER, ("192.0.2.1:1", "192.0.2.2:1"))
    false = LanNode(node("impostor"), Role.TRACKER, ("192.0.2.3:1",))
    found(tracker)
    found(false)
    found(LanNode(node("other"), Role.TRACKER, ("192.0.2.4:1",)))
    assert link.told == [
        ("192.0.2.1:1", node("tracker")),
        ("192.0.2.2:1", node("tracker")),
        ("192.0.2.4:1", node("other")),
    ]
    assert others == [false]
