"""Invites admit whom they should, as often as they should, and nobody else; what was admitted is durable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.runtimes import memory_runtime
from support.swarm import SwarmCa

from protocol.errors import CommandError, NotFound
from protocol.ids import Role
from runtime.identity import raw_public_key
from tracker.authority import CERTIFICATE_DAYS
from tracker.membership import EXPIRES_SECONDS_MAX, USES_MAX, Membership, Refused

NOW = 1_800_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
TOKEN = bytes(range(32))
CA = SwarmCa()


def public_key(name: str) -> bytes:
    return raw_public_key(CA.key(name).public_key())


@pytest.fixture
async def membership(tmp_path: Path) -> AsyncIterator[Membership]:
    membership = await Membership.open(memory_runtime(), tmp_path / "state" / "members.sqlite")
    yield membership
    await membership.aclose()


async def test_an_invite_gives_its_role(membership: Membership) -> None:
    assert await membership.invite(TOKEN, Role.STORAGE, 1, HOUR, NOW) == NOW + HOUR
    member = await membership.admit(TOKEN, public_key("ada"), "Ada's disk", NOW)
    assert (member.node, member.role, member.name) == (CA.node("ada"), Role.STORAGE, "Ada's disk")
    assert member.certificate_expires == NOW + CERTIFICATE_DAYS * DAY and member.revoked is None
    assert await membership.members() == (member,)


async def test_a_guessed_or_altered_token_admits_nobody(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 1, HOUR, NOW)
    for token in (bytes(32), TOKEN[::-1], bytes([TOKEN[0] ^ 1]) + TOKEN[1:]):
        with pytest.raises(Refused, match="no such invite"):
            await membership.admit(token, public_key("eve"), "eve", NOW)
    assert await membership.members() == ()


async def test_an_expired_invite_admits_nobody(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 2, HOUR, NOW)
    await membership.admit(TOKEN, public_key("ada"), "ada", NOW + HOUR - 1)
    for name in ("ada", "bob"):
        with pytest.raises(Refused, match="expired"):
            await membership.admit(TOKEN, public_key(name), name, NOW + HOUR)


async def test_an_invite_admits_as_many_nodes_as_it_says(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 2, HOUR, NOW)
    for name in ("ada", "bob"):
        await membership.admit(TOKEN, public_key(name), name, NOW)
    with pytest.raises(Refused, match="used up"):
        await membership.admit(TOKEN, public_key("eve"), "eve", NOW)


async def test_a_lost_answer_does_not_cost_a_use(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 2, HOUR, NOW)
    for _ in range(3):
        await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    await membership.admit(TOKEN, public_key("bob"), "bob", NOW)
    await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    assert len(await membership.members()) == 2


async def test_who_joins_again_with_another_invite_uses_it_and_takes_its_role(membership: Membership) -> None:
    other = bytes(32)
    await membership.invite(TOKEN, Role.PEER, 1, HOUR, NOW)
    await membership.invite(other, Role.STORAGE, 1, HOUR, NOW)
    await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    assert (await membership.admit(other, public_key("ada"), "ada", NOW)).role is Role.STORAGE
    with pytest.raises(Refused, match="used up"):
        await membership.admit(other, public_key("bob"), "bob", NOW)
    assert len(await membership.members()) == 1


async def test_what_was_admitted_and_used_up_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "members.sqlite"
    membership = await Membership.open(memory_runtime(), path)
    await membership.invite(TOKEN, Role.PEER, 1, HOUR, NOW)
    member = await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    await membership.revoke(member.node, NOW)
    number = (await membership.shut_out(NOW)).number
    await membership.aclose()
    membership = await Membership.open(memory_runtime(), path)
    assert [one.node for one in await membership.members()] == [member.node]
    assert (await membership.shut_out(NOW)).number == number
    with pytest.raises(Refused):
        await membership.admit(TOKEN, public_key("bob"), "bob", NOW)
    await membership.aclose()


async def test_the_register_holds_no_token(tmp_path: Path) -> None:
    membership = await Membership.open(memory_runtime(), tmp_path / "members.sqlite")
    await membership.invite(TOKEN, Role.PEER, 1, HOUR, NOW)
    await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    await membership.aclose()
    assert not any(TOKEN in file.read_bytes() for file in tmp_path.iterdir())


async def test_only_sensible_invites_are_given_out(membership: Membership) -> None:
    wrong = [
        (Role.TRACKER, 1, HOUR),
        (Role.PEER, 0, HOUR),
        (Role.PEER, USES_MAX + 1, HOUR),
        (Role.PEER, 1, 0.0),
        (Role.PEER, 1, EXPIRES_SECONDS_MAX * 2),
        (Role.PEER, 1, float("nan")),
    ]
    for role, uses, seconds in wrong:
        with pytest.raises(CommandError) as caught:
            await membership.invite(TOKEN, role, uses, seconds, NOW)
        assert caught.value.exit_code == 2


async def test_a_revoked_node_neither_renews_nor_joins_again(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 9, HOUR, NOW)
    ada = await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    assert (await membership.revoke(ada.node[:6], NOW)).revoked == NOW
    with pytest.raises(Refused, match="revoked"):
        await membership.renew(ada.node, NOW)
    with pytest.raises(Refused, match="revoked"):
        await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    assert (await membership.shut_out(NOW)).nodes == (ada.node,)


async def test_each_revocation_makes_a_higher_number_even_after_an_old_backup(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 9, HOUR, NOW)
    numbers = [(await membership.shut_out(NOW)).number]
    for name in ("ada", "bob", "eve"):
        member = await membership.admit(TOKEN, public_key(name), name, NOW)
        await membership.revoke(member.node, NOW)
        numbers.append((await membership.shut_out(NOW)).number)
    assert numbers == sorted(set(numbers))
    # A register that was restored knows a lower number; the clock has gone on, and so the next one is higher.
    assert numbers[-1] >= NOW
    await membership.revoke(CA.node("ada"), NOW + 9)
    assert (await membership.shut_out(NOW)).number == numbers[-1], "revoked already: nothing changes"


async def test_the_beginning_of_an_id_must_be_long_enough_and_unique(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 9, HOUR, NOW)
    ada = await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    with pytest.raises(CommandError, match="at least 6"):
        await membership.revoke(ada.node[:5], NOW)
    with pytest.raises(CommandError, match="at least 6"):
        await membership.revoke("", NOW)
    for nobody in ("aaaaaa", "%%%%%%", "______", "??????", ada.node + "a", "*" * 4000):
        with pytest.raises(NotFound):
            await membership.revoke(nobody, NOW)
    twins = twin_keys()
    for key in twins:
        await membership.admit(TOKEN, key[1], "twin", NOW)
    with pytest.raises(CommandError, match="several"):
        await membership.revoke(twins[0][0][:6], NOW)
    assert (await membership.revoke(twins[0][0], NOW)).node == twins[0][0]


def twin_keys() -> list[tuple[str, bytes]]:
    """Two keys whose node ids begin with the same six characters. (Any 32 bytes will do as a key here.)"""
    from protocol.ids import node_id_of_key

    seen: dict[str, tuple[str, bytes]] = {}
    for number in range(2**20):
        key = number.to_bytes(32, "big")
        node = node_id_of_key(key)
        if node[:6] in seen:
            return [seen[node[:6]], (node, key)]
        seen[node[:6]] = (node, key)
    raise AssertionError("no twins")


async def test_a_revoked_node_leaves_the_list_when_its_last_certificate_has_expired(membership: Membership) -> None:
    await membership.invite(TOKEN, Role.PEER, 9, HOUR, NOW)
    ada = await membership.admit(TOKEN, public_key("ada"), "ada", NOW)
    await membership.renew(ada.node, NOW + 10 * DAY)
    await membership.revoke(ada.node, NOW + 20 * DAY)
    end = NOW + (10 + CERTIFICATE_DAYS) * DAY
    assert (await membership.shut_out(end)).nodes == (ada.node,)
    assert (await membership.shut_out(end + 8 * DAY)).nodes == ()
    with pytest.raises(Refused):
        await membership.renew(ada.node, end + 8 * DAY)


async def test_a_node_the_register_does_not_know_gets_no_certificate(membership: Membership) -> None:
    with pytest.raises(Refused, match="register"):
        await membership.renew(CA.node("ada"), NOW)
