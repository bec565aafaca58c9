"""The join door admits whom it should; who is no member gets no further than the handshake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from cryptography import x509
from support.strangers import knock, link_to, next_message
from support.swarm import SwarmCa
from support.tracker_world import (
    World,
    ask_door,
    at_the_door,
    greeting,
    hear,
    join,
    join_message,
    key_of,
    refusal,
    start_tracker,
)

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import NotTrusted
from protocol.ids import Role, parse_address
from protocol.limits import ALPN, ALPN_JOIN
from runtime.identity import Credentials, raw_public_key
from runtime.real import real_runtime
from runtime.tls import Expected


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> World:
    return await start_tracker(tmp_path, nursery, monkeypatch)


# --- joining ---


async def test_an_invite_makes_a_member(world: World) -> None:
    invite = await world.invite(Role.STORAGE)
    door, joined = await ask_door(invite, "disk")
    assert isinstance(joined, m.Joined)
    credentials = Credentials.of(key_of("disk"), joined.certificate, (door.authority,), joined.revocations)
    assert credentials.role is Role.STORAGE
    assert (joined.tracker.node, joined.tracker.role) == (world.node, Role.TRACKER)
    assert world.address in joined.tracker.addresses
    async with link_to(credentials, world.address, role=Role.TRACKER) as link:
        await next_message(link, m.Revocations)


async def test_the_door_shows_a_certificate_of_the_authority_in_the_invite(world: World) -> None:
    async with at_the_door(world.address) as (stream, connection):
        door = await hear(stream, connection)
        assert isinstance(door, m.DoorOpen) and stream.certificate is not None
        leaf, issuer = (x509.load_der_x509_certificate(der) for der in (stream.certificate, door.authority))
        leaf.verify_directly_issued_by(issuer)


async def test_who_should_not_join_is_refused_in_clear_words(world: World) -> None:
    invite = await world.invite()
    assert "no such invite" in await refusal(replace(invite, token=bytes(32)), "guesser")
    assert "no such invite" in await refusal(replace(invite, token=invite.token[:-1] + b"\0"), "forger")
    await join(invite, "ada")
    assert "used up" in await refusal(invite, "bob")
    await join(invite, "ada")  # a lost answer
    late = await world.invite(seconds=60)
    world.clock.skew_seconds = 61
    assert "expired" in await refusal(late, "eve")


async def test_a_proof_for_another_nonce_token_or_key_is_worth_nothing(world: World) -> None:
    invite = await world.invite()
    key = key_of("ada")
    async with at_the_door(world.address) as (stream, connection):
        older = await hear(stream, connection)
    assert isinstance(older, m.DoorOpen)
    for make in (
        lambda door: join_message(older, invite.token, key),
        lambda door: replace(join_message(door, bytes(32), key), token=invite.token),
        lambda door: replace(
            join_message(door, invite.token, key_of("eve")), public_key=raw_public_key(key.public_key())
        ),
        lambda door: replace(join_message(door, invite.token, key), public_key=bytes(32)),
    ):
        async with at_the_door(world.address) as (stream, connection):
            door = await hear(stream, connection)
            await stream.send_all(connection.send(make(door)))
            answer = await hear(stream, connection)
            assert isinstance(answer, m.Failure) and "proof" in answer.reason
    assert await world.command("nodes") == {"nodes": []}


async def test_the_door_hears_one_join_and_nothing_else(world: World) -> None:
    hello = Connection(Role.PEER, Role.TRACKER).send(greeting())
    for garbage in (hello, b"\xff" * 64, b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"):
        async with at_the_door(world.address) as (stream, connection):
            await hear(stream, connection)
            await stream.send_all(garbage)
            assert await hear(stream, connection) is None
    assert (await world.command("status"))["traffic"]["joins_refused"] == 4


# --- who is refused in the handshake ---


async def test_strangers_are_refused_before_the_first_application_byte(world: World) -> None:
    foreign = [SwarmCa("another").credentials("a node", role) for role in Role]
    for credentials in (None, *foreign):
        assert await trio.to_thread.run_sync(knock, world.address, credentials, ALPN) == b""
    # With a certificate of another authority not even the join door opens; without one it does.
    assert await trio.to_thread.run_sync(knock, world.address, foreign[0], ALPN_JOIN) == b""
    assert await trio.to_thread.run_sync(knock, world.address, None, ALPN_JOIN) != b""


async def test_a_certificate_for_another_role_does_not_help(world: World) -> None:
    credentials = await world.member("ada")
    runtime = real_runtime()
    raw = await runtime.network.dial(*parse_address(world.address))
    with pytest.raises(NotTrusted, match="was expected"):
        await runtime.security.dial(raw, credentials, Expected(role=Role.STORAGE))
