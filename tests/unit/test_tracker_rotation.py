"""A new authority takes the old one's place, whoever kills us where, and nobody is taken in by another one's."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from support.runtimes import memory_runtime
from support.swarm import SwarmCa

from protocol.errors import ConfigError, NotTrusted
from protocol.ids import NodeAddress, Role
from runtime.identity import Credentials, raw_public_key, swarm_of
from runtime.keyring import Keyring, KeyringKeeper, load_keyring, save_keyring
from runtime.real import RealDisk
from runtime.seam import Runtime
from tracker import rotation
from tracker.authority import Authority, certificate_ends, create_authority
from tracker.membership import Member, Refused
from tracker.rotation import DOOR_DAYS_MAX, begin, door_date, finish, open_authorities, proof_of, waiting


class Killed(Exception):
    """The process ended here."""


class MortalDisk(RealDisk):
    """Dies before its n-th write or removal."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def _live(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise Killed

    def write_small(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        self._live()
        super().write_small(path, data, mode=mode)

    def remove(self, path: Path) -> None:
        self._live()
        super().remove(path)


def mortal(runtime: Runtime, lives: int) -> Runtime:
    return replace(runtime, disk=MortalDisk(lives))


async def test_a_rotation_that_is_killed_anywhere_leaves_one_of_both_states(tmp_path: Path) -> None:
    runtime = memory_runtime()
    for lives in range(5):
        folder = tmp_path / str(lives)
        old, nothing = await open_authorities(runtime, folder)
        assert nothing is None
        try:
            next_one = await begin(mortal(runtime, lives), old, folder)
        except Killed:
            assert await opened_as(runtime, folder) == (old.der, None)
            continue
        assert await opened_as(runtime, folder) == (old.der, next_one.der)
        for more in range(5):
            try:
                await finish(mortal(runtime, more), folder, next_one)
            except Killed:
                assert await opened_as(runtime, folder) in ((old.der, next_one.der), (next_one.der, None))
            else:
                break
        assert await opened_as(runtime, folder) == (next_one.der, None)
        assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "key.pem"]
        assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600


async def opened_as(runtime: Runtime, folder: Path) -> tuple[bytes, bytes | None]:
    authority, next_one = await open_authorities(runtime, folder)
    return authority.der, next_one.der if next_one is not None else None


async def test_the_next_key_is_for_its_owner_alone_and_fits_its_certificate(tmp_path: Path) -> None:
    runtime = memory_runtime()
    old, _ = await open_authorities(runtime, tmp_path)
    await begin(runtime, old, tmp_path)
    key = tmp_path / rotation.NEXT_KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 0600"):
        await open_authorities(runtime, tmp_path)
    key.chmod(0o600)
    key.write_bytes((tmp_path / "key.pem").read_bytes())
    (tmp_path / "key.pem").rename(tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="is not the key"):
        await open_authorities(runtime, tmp_path)


def next_of(ca: SwarmCa, seed: int = 7) -> Authority:
    return create_authority(bytes([seed]) * 32, ca.now, swarm=ca.authority.swarm)


def test_the_swarm_keeps_its_id() -> None:
    ca = SwarmCa()
    next_one = next_of(ca)
    assert swarm_of(next_one.certificate) == next_one.swarm == ca.authority.swarm
    assert ca.authority.is_first and not next_one.is_first and next_one.fingerprint != ca.authority.fingerprint


def test_both_are_trusted_and_then_only_the_next_one() -> None:
    ca = SwarmCa()
    next_one, old = next_of(ca), ca.credentials("a")
    both = old.with_authorities((ca.authority.der, next_one.der), proof_of(ca.authority, next_one), ca.revocations())
    assert both.node == old.node and not both.of_the_newest and old.of_the_newest
    other = ca.credentials("b")
    renewed = next_one.issue(raw_public_key(ca.key("b").public_key()), Role.PEER, ca.now)
    assert both.judge(other.certificate).node == both.judge(renewed).node == other.node
    with pytest.raises(NotTrusted, match="another swarm"):
        old.judge(renewed)
    own = both.with_certificate(next_one.issue(raw_public_key(ca.key("a").public_key()), Role.PEER, ca.now))
    assert own.of_the_newest
    alone = own.with_authorities((next_one.der,), b"", next_one.sign_revocations([], 1, ca.now))
    assert alone.judge(renewed).node == other.node
    with pytest.raises(NotTrusted, match="another swarm"):
        alone.judge(other.certificate)
    assert alone.with_authorities((next_one.der,), b"", next_one.sign_revocations([], 1, ca.now)) is alone


@pytest.mark.parametrize("what", ["no proof", "its own proof", "another swarm", "no certificate", "older list"])
def test_an_authority_that_nobody_vouches_for_is_refused(what: str) -> None:
    ca, evil = SwarmCa(), SwarmCa("evil")
    next_one, old = next_of(ca), ca.credentials("a", number=5)
    der, proof, revocations = next_one.der, proof_of(ca.authority, next_one), ca.revocations(5)
    if what == "no proof":
        proof = b""
    elif what == "its own proof":
        proof = proof_of(next_one, next_one)
    elif what == "another swarm":
        der, proof = evil.authority.der, proof_of(ca.authority, evil.authority)
    elif what == "no certificate":
        der = b"nothing"
    else:
        revocations = ca.revocations(4)
    with pytest.raises(NotTrusted):
        old.with_authorities((ca.authority.der, der), proof, revocations)


def test_who_has_no_certificate_of_the_next_one_does_not_drop_the_old_one() -> None:
    ca = SwarmCa()
    next_one = next_of(ca)
    both = ca.credentials("a").with_authorities(
        (ca.authority.der, next_one.der), proof_of(ca.authority, next_one), ca.revocations()
    )
    with pytest.raises(NotTrusted):
        both.with_authorities((next_one.der,), b"", next_one.sign_revocations([], 1, ca.now))


async def test_a_node_that_is_killed_while_it_writes_the_next_authority_still_starts(tmp_path: Path) -> None:
    ca = SwarmCa()
    next_one, first = next_of(ca), ca.credentials("a")
    both = first.with_authorities((ca.authority.der, next_one.der), proof_of(ca.authority, next_one), ca.revocations())
    renewed = both.with_certificate(next_one.issue(raw_public_key(ca.key("a").public_key()), Role.PEER, ca.now))
    alone = renewed.with_authorities((next_one.der,), b"", next_one.sign_revocations([], 2, ca.now))
    steps: list[tuple[Credentials, Credentials]] = [(first, both), (first, renewed), (both, renewed), (renewed, alone)]
    runtime = memory_runtime()
    tracker = SwarmCa().credentials("t", Role.TRACKER)
    address = NodeAddress(tracker.node, Role.TRACKER, ("127.0.0.1:1",))
    for number, (before, after) in enumerate(steps):
        for lives in range(4):
            folder = tmp_path / f"{number}-{lives}"
            keyring = Keyring(folder, before, address)
            await save_keyring(runtime, keyring)
            with contextlib.suppress(Killed):
                await KeyringKeeper(mortal(runtime, lives), keyring).keep_credentials(after)
            assert (await load_keyring(runtime, folder)).credentials.node == first.node


def test_who_joins_during_a_rotation_waits_until_it_has_renewed() -> None:
    ca = SwarmCa()
    next_one, day = next_of(ca), 86400.0
    for later in (0.0, 1.0, 3 * day):
        member = member_at(ca, certificate_ends(door_date(next_one, ca.now + later)))
        assert waiting([member], next_one) == (member.node,)
        renewed = member_at(ca, certificate_ends(ca.now + later))
        assert waiting([renewed], next_one) == ()
    with pytest.raises(Refused, match="upswarm rotate"):
        door_date(next_one, ca.now + (DOOR_DAYS_MAX + 1) * day)


def member_at(ca: SwarmCa, ends: float) -> Member:
    key = raw_public_key(ca.key("a").public_key())
    return Member(
        node=ca.node("a"), role=Role.PEER, name="a", public_key=key, joined=int(ca.now), certificate_expires=int(ends),
        revoked=None,
    )  # fmt: skip
