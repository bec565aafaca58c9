"""A whole tracker on 127.0.0.1, and nodes that say what a test tells them: real sockets, TLS and SQLite."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from contract.index_contract import beat, said
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import LinkLost
from protocol.ids import Role, Tag, parse_address
from protocol.invite import Invite
from protocol.limits import PROTOCOL_VERSION
from runtime.control import ControlServer
from runtime.identity import Credentials, raw_public_key
from runtime.link import Link
from runtime.real import RealClock, real_runtime
from runtime.seam import SecureStream
from support.strangers import link_to, next_message
from tracker import app
from tracker.config import TrackerConfig
from tracker.door import join_proof_text


class SkewedClock(RealClock):
    """This machine's clock, set forward."""

    skew_seconds = 0.0

    def wall(self) -> float:
        return super().wall() + self.skew_seconds


@dataclass
class World:
    """A running tracker and its control methods."""

    clock: SkewedClock
    address: str
    methods: dict[str, Any]
    node: str

    async def command(self, name: str, **params: Any) -> Any:
        async def nobody(_method: str, _params: dict[str, Any]) -> None:
            raise AssertionError("no notifications here")

        return await self.methods[name](params, nobody)

    async def invite(self, role: Role = Role.PEER, uses: int = 1, seconds: float = 60) -> Invite:
        answer = await self.command("invite", role=role.value, uses=uses, expires_seconds=seconds)
        return Invite.parse(answer["invite"])

    async def member(self, name: str, role: Role = Role.PEER) -> Credentials:
        """Let a new node join."""
        return await join(await self.invite(role), name)


async def start_tracker(home: Path, nursery: trio.Nursery, patch: pytest.MonkeyPatch) -> World:
    """Run a tracker in ``nursery``; its clock can be set forward."""
    methods: dict[str, Any] = {}
    init = ControlServer.__init__

    def remember(self: ControlServer, path: Path, given: Any) -> None:
        methods.update(given)
        init(self, path, given)

    patch.setattr(ControlServer, "__init__", remember)
    config = TrackerConfig(home=home, listen="127.0.0.1:0", http=None, heartbeat_seconds=5.0, mdns=False)

    async def start(task_status: trio.TaskStatus[dict[str, str | None]] = trio.TASK_STATUS_IGNORED) -> None:
        await app.run(config, replace(real_runtime(), clock=clock), find_own_hosts=tuple, task_status=task_status)

    clock = SkewedClock()
    ready = await nursery.start(start)
    return World(clock, ready["listen"], methods, ready["node"])


# --- the door ---


@asynccontextmanager
async def at_the_door(address: str) -> AsyncIterator[tuple[SecureStream, Connection]]:
    runtime = real_runtime()
    raw = await runtime.network.dial(*parse_address(address))
    stream = await runtime.security.dial_door(raw)
    try:
        yield stream, Connection(None, None)
    finally:
        stream.close()


async def hear(stream: SecureStream, connection: Connection) -> m.Message | None:
    """Return what the door says next; None when it shut."""
    with trio.fail_after(5):
        while (message := connection.next_message()) is None:
            try:
                count = await stream.receive_into(connection.wanted())
            except LinkLost:
                return None  # shut without a word
            if count == 0:
                return None
            connection.filled(count)
        return message


def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def join_message(door: m.DoorOpen, token: bytes, key: Ed25519PrivateKey, name: str = "") -> m.Join:
    return m.Join(
        token=token,
        public_key=raw_public_key(key.public_key()),
        proof=key.sign(join_proof_text(door.nonce, token)),
        name=name,
    )


async def ask_door(invite: Invite, name: str) -> tuple[m.DoorOpen, m.Message | None]:
    async with at_the_door(invite.addresses[0]) as (stream, connection):
        door = await hear(stream, connection)
        assert isinstance(door, m.DoorOpen)
        assert hashlib.sha256(door.authority).digest() == invite.authority
        await stream.send_all(connection.send(join_message(door, invite.token, key_of(name), name)))
        return door, await hear(stream, connection)


async def join(invite: Invite, name: str) -> Credentials:
    door, joined = await ask_door(invite, name)
    assert isinstance(joined, m.Joined), joined
    return Credentials.of(key_of(name), joined.certificate, (door.authority,), joined.revocations)


async def refusal(invite: Invite, name: str) -> str:
    """Join, be refused, and return the reason."""
    _, answer = await ask_door(invite, name)
    assert isinstance(answer, m.Failure) and answer.code == "refused"
    return answer.reason


# --- links ---


def greeting(*addresses: str, name: str = "") -> m.Hello:
    return m.Hello(version=PROTOCOL_VERSION, features=(), name=name, agent="test/0", addresses=addresses)


@asynccontextmanager
async def present(
    world: World, credentials: Credentials, *addresses: str, held: tuple[m.Holding, ...] = (), room_bytes: int = 0
) -> AsyncIterator[Link]:
    """Be connected, and have said what is held."""
    hello = greeting(*(addresses or ("127.0.0.1:9",)), name=str(credentials.role))
    async with link_to(credentials, world.address, role=Role.TRACKER, greeting=hello) as link:
        link.post(beat(sequence=1, room_bytes=room_bytes))
        link.post(said(*held, sequence=1))
        await settled(link)
        yield link


async def settled(link: Link) -> None:
    """Return when the tracker has dealt with all we said; what it says meanwhile is skipped."""
    link.post(m.ListNodes(request=999, after="7" * 51 + "q"))  # behind everybody
    while True:
        message = await next_message(link, m.NodesAnswer)
        assert isinstance(message, m.NodesAnswer)
        if message.request == 999:
            return


async def ask(link: Link, question: m.Message, kind: type[m.Message]) -> Any:
    link.post(question)
    return await next_message(link, kind, m.Failure)


def where(tag: Tag | None = None, name: str | None = None, *, to_put: bool = False, size_bytes: int = 0) -> m.Where:
    return m.Where(request=1, tag=tag, name=name, size_bytes=size_bytes, to_put=to_put)
