"""Trackers of one swarm keep each other's registers equal through a board that may lie, lose and repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from support.pairs import node, some_tag
from support.runtimes import TestClock
from support.swarm import SwarmCa

from protocol import messages as m
from protocol.errors import StorageUnavailable
from protocol.ids import NodeAddress, NodeId, Role
from runtime.identity import raw_public_key
from runtime.real import real_runtime
from tracker.fellows import LISTED_SECONDS, Fellows
from tracker.membership import Member, Membership
from tracker.registrar import Registrar
from tracker.seal import Seal

ORDER = m.Order(tag=some_tag("t"), target=NodeAddress(node("store"), Role.STORAGE, ("h:1",)), lifetime_seconds=9)


@dataclass
class Board:
    """Maps and channels in memory."""

    maps: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    ears: list[Callable[[bytes], Awaitable[None]]] = field(default_factory=list)
    published: list[bytes] = field(default_factory=list)
    away: bool = False

    async def publish(self, _channel: str, data: bytes) -> None:
        await self._here()
        self.published.append(data)
        for hear in self.ears:
            await hear(data)

    async def listen(
        self, _channel: str, hear: Callable[[bytes], Awaitable[None]], on_listening: Callable[[], None]
    ) -> None:
        self.ears.append(hear)
        on_listening()
        await trio.sleep_forever()

    async def read_map(self, key: str) -> dict[bytes, bytes]:
        await self._here()
        return dict(self.maps.get(key, {}))

    async def write_map(self, key: str, values: Mapping[bytes, bytes], seconds: int) -> None:
        await self._here()
        assert seconds > 0
        self.maps.setdefault(key, {}).update(values)

    async def _here(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StorageUnavailable("away")


class Office:
    """A tracker as its fellows know it."""

    def __init__(self, name: str, registrar: Registrar, board: Board, clock: TestClock) -> None:
        self.address = NodeAddress(node(name), Role.TRACKER, (f"{name}.example:4100",))
        self.registrar = registrar
        self.delivered: list[tuple[NodeId, m.Message]] = []
        self.trackers: tuple[NodeAddress, ...] = ()
        self.revoked: list[NodeId] = []
        self.fellows = Fellows(
            board,
            registrar,
            clock,
            lambda: self.address,
            deliver=lambda who, message: self.delivered.append((who, message)),
            on_trackers=self.met,
            on_revoked=self.heard,
        )
        registrar.on_change = self.fellows.sync_soon

    def met(self, trackers: tuple[NodeAddress, ...]) -> None:
        self.trackers = trackers

    async def heard(self, member: Member) -> None:
        self.revoked.append(member.node)

    async def admit(self, ca: SwarmCa, name: str, role: Role = Role.PEER) -> Member:
        invite = await self.registrar.invite(role, 1, 60, ("h:1",))
        member, _ = await self.registrar.admit(invite.token, raw_public_key(ca.key(name).public_key()), name)
        return member


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
async def offices(tmp_path: Path, swarm_ca: SwarmCa, clock: TestClock) -> AsyncIterator[tuple[Board, Office, Office]]:
    board, made, registers = Board(), [], []
    for name in ("a", "b"):
        membership = await Membership.open(real_runtime(), tmp_path / f"{name}.sqlite")
        registers.append(membership)
        registrar = await Registrar.open(real_runtime(), swarm_ca.authority, membership)
        made.append(Office(name, registrar, board, clock))
    async with trio.open_nursery() as nursery:
        for office in made:
            nursery.start_soon(office.fellows.run)
        yield board, made[0], made[1]
        nursery.cancel_scope.cancel()
    for membership in registers:
        await membership.aclose()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)


async def equal(one: Office, other: Office, count: int) -> None:
    with trio.fail_after(20):
        while True:
            members = await one.registrar.members()
            if len(members) == count and members == await other.registrar.members():
                return
            await trio.sleep(0.01)


async def test_who_was_let_in_or_shut_out_at_one_is_so_at_the_other(
    offices: tuple[Board, Office, Office], swarm_ca: SwarmCa
) -> None:
    _, one, other = offices
    ada, berta = await one.admit(swarm_ca, "ada"), await other.admit(swarm_ca, "berta", Role.STORAGE)
    await equal(one, other, 2)
    assert await other.registrar.renew(ada.node), "let in there, renewed here"
    await one.registrar.revoke(berta.node)
    await until(lambda: other.revoked == [berta.node])
    assert set(one.registrar.revoked) == set(other.registrar.revoked) == {berta.node}
    newer = swarm_ca.credentials("x").with_revocations(other.registrar.revocations)
    assert newer.is_revoked(berta.node) and not newer.is_revoked(ada.node)


async def test_of_two_lists_a_node_never_takes_the_older_for_the_newer_one(
    offices: tuple[Board, Office, Office], swarm_ca: SwarmCa
) -> None:
    _, one, other = offices
    members = [await one.admit(swarm_ca, f"n{number}") for number in range(4)]
    await equal(one, other, 4)
    held = swarm_ca.credentials("x")
    for number, member in enumerate(members):
        # Whoever revokes, and to whichever tracker the node moves then, it hears of it.
        here, there = (one, other) if number % 2 else (other, one)
        await here.registrar.revoke(member.node)
        held = held.with_revocations(here.registrar.revocations)
        assert held.is_revoked(member.node)
        await until(lambda: member.node in there.registrar.revoked)
        held = held.with_revocations(there.registrar.revocations)
        assert all(held.is_revoked(gone.node) for gone in members[: number + 1])


async def test_a_board_makes_nobody_a_member_and_brings_nobody_back(
    offices: tuple[Board, Office, Office], swarm_ca: SwarmCa
) -> None:
    board, one, other = offices
    member = await one.admit(swarm_ca, "ada")
    await equal(one, other, 1)
    (members,) = [values for key, values in board.maps.items() if key.endswith("members")]
    key = member.node.encode()
    before = members[key]
    await one.registrar.revoke(member.node)
    await until(lambda: other.revoked == [member.node])
    members[key] = before  # an older state, said again
    members[node("mallory").encode()] = before  # of somebody else
    members[node("eve").encode()] = Seal(SwarmCa("another swarm").authority).close(b"member", before[32:])
    for office in (one, other):
        office.fellows.sync_soon()
    await until(lambda: members[key] != before)
    for office in (one, other):
        assert [(one.node, one.revoked is not None) for one in await office.registrar.members()] == [
            (member.node, True)
        ]


async def test_an_order_goes_to_whoever_has_the_link_and_nothing_else_does(
    offices: tuple[Board, Office, Office],
) -> None:
    board, one, other = offices
    await until(lambda: len(board.ears) == 2)
    one.fellows.post(node("far"), ORDER)
    await until(lambda: other.delivered == [(node("far"), ORDER)])
    for forged in (b"", b"x" * 100, b"\\0" * 32 + board.published[-1][32:]):
        await board.publish("", forged)
    with pytest.raises(AssertionError):
        one.fellows.post(node("far"), m.Ping(number=1))
    assert other.delivered == [(node("far"), ORDER)]


async def test_everybody_is_listed_and_who_was_not_seen_for_a_week_is_not(
    offices: tuple[Board, Office, Office], clock: TestClock
) -> None:
    board, one, other = offices
    both = tuple(sorted((one.address, other.address)))
    await until(lambda: one.trackers == other.trackers == both or (one.fellows.sync_soon() or False))
    one.address = NodeAddress(one.address.node, Role.TRACKER, ("moved.example:4100",))
    one.fellows.sync_soon()
    await until(lambda: one.address in one.trackers)
    board.away = True
    clock.skew_seconds = LISTED_SECONDS + 1
    board.away = False
    one.fellows.sync_soon()
    await until(lambda: one.trackers == (one.address,))


async def test_a_board_that_is_away_stops_nobody(offices: tuple[Board, Office, Office], swarm_ca: SwarmCa) -> None:
    board, one, other = offices
    await until(lambda: len(board.ears) == 2)
    board.away = True
    await one.admit(swarm_ca, "ada")
    one.fellows.post(node("far"), ORDER)
    await trio.testing.wait_all_tasks_blocked(0.01)
    board.away = False
    one.fellows.sync_soon()
    await equal(one, other, 1)
