"""Joining with an invite: at a true door, at false ones, and after every kind of crash."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from support.memory_network import MemoryHub
from support.runtimes import TestClock, memory_runtime
from support.swarm import SwarmCa
from trio.testing import MockClock

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import CommandError, ConfigError, LinkLost, NotTrusted, StorageFull
from protocol.ids import NodeAddress, NodeId, Role, node_id_of_key
from protocol.invite import Invite
from runtime.join import JOIN_SECONDS_MAX, join_swarm
from runtime.keyring import KEY, is_joined, load_keyring, remove_keyring
from runtime.link import Link
from runtime.links import Links
from runtime.seam import SecureStream
from tracker.door import Door
from tracker.membership import Membership
from tracker.registrar import Registrar

HOST, PORT = "10.0.0.1", 4100


class World:
    """A tracker with a true door, and the network in front of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = MemoryHub(11)
        self.clock = TestClock()
        self.ca = SwarmCa(now=self.clock.wall())
        self.runtime = memory_runtime(self.hub.host("10.0.0.2"), clock=self.clock, name="joiner")
        self.tracker_runtime = memory_runtime(self.hub.host(HOST), clock=self.clock, name="tracker")
        self.membership: Membership
        self.registrar: Registrar
        self.nursery: trio.Nursery
        self.answered = 0
        self.lose_answers = 0

    def tracker_address(self) -> NodeAddress:
        return NodeAddress(self.ca.node("tracker"), Role.TRACKER, (f"0.0.0.0:{PORT}", "192.0.2.5:4100"))

    async def start(self) -> None:
        self.membership = await Membership.open(self.tracker_runtime, self.folder / "members.db")
        self.registrar = await Registrar.open(self.tracker_runtime, self.ca.authority, self.membership)
        door = Door(self.tracker_runtime, self.registrar, self.tracker_address)

        async def serve_door(stream: SecureStream) -> None:
            if self.lose_answers:
                self.lose_answers -= 1
                stream = Deaf(stream, 1)
            await door.serve(stream)
            self.answered += 1

        await self.listen(f"{HOST}:{PORT}", self.ca, Role.TRACKER, serve_door)

    async def listen(
        self,
        address: str,
        ca: SwarmCa,
        role: Role,
        serve_door: Callable[[SecureStream], Awaitable[None]],
    ) -> None:
        host, _, port = address.rpartition(":")
        runtime = memory_runtime(self.hub.host(host), clock=self.clock, name=address)
        links = Links(
            runtime, ca.credentials("tracker", role), name="tracker", serve=Link.wait_ended, serve_door=serve_door
        )
        await self.nursery.start(links.run, (await runtime.network.listen("0.0.0.0", int(port)),))

    async def invite(self, *addresses: str, role: Role = Role.PEER, uses: int = 1, seconds: float = 60) -> Invite:
        return await self.registrar.invite(role, uses, seconds, addresses or (f"{HOST}:{PORT}",))


class Deaf:
    """A stream whose last sends get lost: the tracker dies, or the net does, before the answer arrives."""

    def __init__(self, stream: SecureStream, good_sends: int) -> None:
        self._stream = stream
        self._good_sends = good_sends

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    async def send_all(self, data) -> None:
        if self._good_sends == 0:
            self._stream.close()
            raise LinkLost("gone")
        self._good_sends -= 1
        await self._stream.send_all(data)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    one = World(folder)
    async with trio.open_nursery() as nursery:
        one.nursery = nursery
        await one.start()
        yield one
        nursery.cancel_scope.cancel()
    await one.membership.aclose()


@pytest.mark.parametrize("role", [Role.PEER, Role.STORAGE])
async def test_an_invite_makes_a_member_once(tmp_path: Path, role: Role, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as w:
        invite = await w.invite(role=role)
        keyring = await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        assert (keyring.credentials.role, keyring.credentials.swarm) == (role, w.ca.authority.swarm)
        assert keyring.tracker == NodeAddress(
            w.ca.node("tracker"), Role.TRACKER, (f"{HOST}:{PORT}", "192.0.2.5:4100")
        ), "the address that worked comes first, one that means nothing here is left out"
        loaded = await load_keyring(w.runtime, tmp_path / "id")
        assert loaded.credentials.peer == keyring.credentials.peer and loaded.tracker == keyring.tracker
        with pytest.raises(CommandError, match="already"):
            await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        with pytest.raises(CommandError, match="used up") as caught:
            await join_swarm(w.runtime, invite, tmp_path / "other", "second")
        assert caught.value.exit_code == 6 and not await is_joined(w.runtime, tmp_path / "other")


async def test_who_joins_knows_at_once_who_was_shut_out(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as w:
        invite = await w.invite(uses=2)
        mallory = await join_swarm(w.runtime, invite, tmp_path / "mallory", "mallory")
        await w.registrar.revoke(mallory.credentials.node)
        keyring = await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        assert keyring.credentials.is_revoked(mallory.credentials.node)
        assert (await load_keyring(w.runtime, tmp_path / "id")).credentials.is_revoked(mallory.credentials.node)


async def test_a_member_that_leaves_joins_again_as_somebody_new(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as w:
        invite = await w.invite(uses=2)
        first = await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        await remove_keyring(w.runtime, tmp_path / "id")
        second = await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        assert first.credentials.node != second.credentials.node


async def test_a_join_whose_answer_was_lost_is_repeated_with_the_same_invite(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as w:
        invite = await w.invite(uses=1)
        w.lose_answers = 2
        for _ in range(2):
            with pytest.raises(LinkLost):
                await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        keyring = await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        assert keyring.credentials.node == await node_of(tmp_path / "id")


async def test_a_join_that_crashed_while_saving_is_repeated_with_the_same_invite(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        invite = await w.invite(uses=1)
        write = type(w.runtime.disk).write_small
        nodes: set[NodeId] = set()
        for good_writes in range(1, 5):
            count = 0

            def crash(disk, path, data, *, mode=0o600, good_writes=good_writes) -> None:
                nonlocal count
                count += 1
                if count > good_writes:
                    raise StorageFull("no room")
                write(disk, path, data, mode=mode)

            with monkeypatch.context() as patch:
                patch.setattr(type(w.runtime.disk), "write_small", crash)
                with pytest.raises(StorageFull):
                    await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
            assert not await is_joined(w.runtime, tmp_path / "id")
            nodes.add(await node_of(tmp_path / "id"))
        keyring = await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        assert nodes == {keyring.credentials.node}, "one node, one use"


async def node_of(folder: Path) -> NodeId:
    from runtime.identity import raw_public_key, read_private_key

    key = read_private_key((folder / KEY).read_bytes(), "key")
    return node_id_of_key(raw_public_key(key.public_key()))


async def test_an_expired_or_unknown_invite_is_refused_with_the_reason(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as w:
        invite = await w.invite(seconds=10)
        w.clock.skew_seconds = 11
        with pytest.raises(CommandError, match="expired"):
            await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        unknown = Invite(
            addresses=invite.addresses, authority=invite.authority, token=bytes(32), role=Role.PEER, expires=0
        )
        with pytest.raises(CommandError, match="no such invite"):
            await join_swarm(w.runtime, unknown, tmp_path / "id", "laptop")


async def test_all_addresses_of_an_invite_are_tried(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as w:
        w.hub.silent.add("10.9.9.9:1")
        invite = await w.invite("10.9.9.9:1", "10.9.9.8:1", f"{HOST}:{PORT}")
        keyring = await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")
        assert keyring.tracker.addresses[0] == f"{HOST}:{PORT}"


async def test_where_nobody_answers_the_join_is_lost_and_may_be_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as w:
        for addresses in (("10.9.9.9:1",), ()):
            invite = Invite(
                addresses=addresses,
                authority=w.ca.authority.fingerprint,
                token=bytes(32),
                role=Role.PEER,
                expires=0,
            )
            with pytest.raises(LinkLost):
                await join_swarm(w.runtime, invite, tmp_path / "id", "laptop")


# --- false doors ---


async def heard_by(w: World, ca: SwarmCa, role: Role, authority: bytes, tmp_path: Path, invite: Invite) -> list:
    """What a door that shows ``authority`` gets to hear from a joiner with ``invite``."""
    heard: list[m.Message] = []

    async def serve(stream: SecureStream) -> None:
        connection = Connection(Role.TRACKER, None)
        await stream.send_all(connection.send(m.DoorOpen(authority=authority, nonce=bytes(32))))
        while True:
            count = await stream.receive_into(connection.wanted())
            if count == 0:
                return
            connection.filled(count)
            while (message := connection.next_message()) is not None:
                heard.append(message)

    await w.listen("10.66.0.1:4100", ca, role, serve)
    return heard


async def test_a_false_tracker_learns_neither_token_nor_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    evil = SwarmCa("evil")
    for number, (ca, role, authority) in enumerate(
        [
            (evil, Role.TRACKER, evil.authority.der),  # another swarm
            (evil, Role.TRACKER, SwarmCa(now=TestClock().wall()).authority.der),  # shows our CA, is not of it
            (SwarmCa(now=TestClock().wall()), Role.STORAGE, SwarmCa(now=TestClock().wall()).authority.der),
            (evil, Role.TRACKER, b"garbage"),
        ]
    ):
        async with world(tmp_path / str(number)) as w:
            w.ca = SwarmCa(now=TestClock().wall())
            invite = await w.invite("10.66.0.1:4100")
            invite = Invite(
                addresses=invite.addresses,
                authority=hashlib.sha256(w.ca.authority.der).digest(),
                token=invite.token,
                role=invite.role,
                expires=invite.expires,
            )
            heard = await heard_by(w, ca, role, authority, tmp_path, invite)
            with pytest.raises(NotTrusted):
                await join_swarm(w.runtime, invite, tmp_path / f"id {number}", "laptop")
            assert not heard
            both = Invite(
                addresses=("10.66.0.1:4100", f"{HOST}:{PORT}"),
                authority=invite.authority,
                token=invite.token,
                role=invite.role,
                expires=invite.expires,
            )
            await join_swarm(w.runtime, both, tmp_path / f"id {number}", "laptop")
            assert not heard, "the true one is found behind it"


def answering(*answers: Callable[[m.Join], m.Message | bytes]) -> Callable[[SecureStream], Awaitable[None]]:
    """A door of the true tracker that answers oddly."""

    async def serve(stream: SecureStream) -> None:
        connection = Connection(Role.TRACKER, None)
        open_door = m.DoorOpen(authority=SwarmCa(now=TestClock().wall()).authority.der, nonce=bytes(32))
        await stream.send_all(connection.send(open_door))
        while (join := connection.next_message()) is None:
            count = await stream.receive_into(connection.wanted())
            if count == 0:
                return
            connection.filled(count)
        assert isinstance(join, m.Join)
        for answer in answers:
            made = answer(join)
            await stream.send_all(made if isinstance(made, bytes) else connection.send(made))
        if not answers:
            await trio.sleep_forever()

    return serve


def joined(w: World, *, node: str = "tracker", certificate: bytes | None = None, role: Role = Role.PEER):
    def make(join: m.Join) -> m.Message:
        made = certificate or w.ca.authority.issue(join.public_key, role, w.ca.now)
        tracker = NodeAddress(w.ca.node(node), Role.TRACKER, ())
        return m.Joined(certificate=made, revocations=w.ca.revocations(), tracker=tracker)

    return make


async def test_odd_answers_of_a_tracker_make_no_member(tmp_path: Path, autojump_clock: MockClock) -> None:
    cases: list[tuple[Callable[[World], tuple], type[Exception], str]] = [
        (lambda w: (joined(w, role=Role.STORAGE),), NotTrusted, "the invite was for a peer"),
        (lambda w: (joined(w, node="other"),), LinkLost, "another tracker than itself"),
        (lambda w: (joined(w, certificate=w.ca.credentials("x").certificate),), NotTrusted, "another key"),
        (lambda w: (joined(w, certificate=b"garbage"),), NotTrusted, "none of ours"),
        (lambda w: (lambda join: m.DoorOpen(authority=b"", nonce=bytes(32)),), LinkLost, "DoorOpen"),
        (lambda w: (lambda join: m.Goodbye(code="no", reason="closed today"),), LinkLost, "closed today"),
        (lambda w: (lambda join: b"\xff" * 100,), LinkLost, "frame"),
        (lambda w: (lambda join: m.Failure(request=0, code="unavailable", reason="later"),), CommandError, "later"),
        (lambda w: (), LinkLost, "took longer"),
    ]
    for number, (answers, error, reason) in enumerate(cases):
        async with world(tmp_path / str(number)) as w:
            await w.listen("10.0.0.7:4100", w.ca, Role.TRACKER, answering(*answers(w)))
            invite = await w.invite("10.0.0.7:4100")
            begun = trio.current_time()
            with pytest.raises(error, match=reason) as caught:
                await join_swarm(w.runtime, invite, tmp_path / f"id {number}", "laptop")
            assert trio.current_time() - begun <= JOIN_SECONDS_MAX
            if isinstance(caught.value, CommandError):
                assert caught.value.exit_code == 5
            assert not await is_joined(w.runtime, tmp_path / f"id {number}")
            await trio.testing.wait_all_tasks_blocked()
            assert not w.hub.open_streams() or not answers(w)


async def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as w:
        (tmp_path / "id").mkdir()
        (tmp_path / "id" / KEY).write_bytes(w.ca.credentials("x").private_pem())
        (tmp_path / "id" / KEY).chmod(0o644)
        with pytest.raises(ConfigError, match="0600"):
            await join_swarm(w.runtime, await w.invite(), tmp_path / "id", "laptop")


async def test_the_name_is_cut_to_fit(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as w:
        keyring = await join_swarm(w.runtime, await w.invite(), tmp_path / "id", "ä" * 500)
        assert keyring.credentials.role is Role.PEER
