"""A new authority takes the place of the old one, and for a while both are trusted: the files, and how far it has come.

    upswarm rotate            the next authority is made; every node is told, trusts both, and renews with the next
    upswarm rotate --finish   the next one is the only one; whoever has no certificate of it is out

In between the door, invites, the list of the revoked and the tracker's own certificate stay with the old authority, so
that a node which was away still recognizes its tracker, and hears of the next one from it. The next authority's word is
worth something because the old one signed it (``authority_proof_text``). The swarm keeps its id: the next certificate
names it.

    key.pem, certificate.pem             the authority in force
    next-key.pem, next-certificate.pem   the next one, between the two commands; the certificate is there last

Killed anywhere, the next start finds either state: the new key in the old one's place says that a finish was begun.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from protocol.errors import ConfigError
from protocol.ids import NodeId
from runtime.identity import authority_proof_text
from runtime.seam import Disk, Runtime
from tracker.authority import (
    BACKDATED,
    CERTIFICATE_DAYS,
    CERTIFICATE_FILE,
    KEY_FILE,
    Authority,
    certificate_ends,
    create_authority,
    open_authority,
    read_certificate,
    read_key,
)
from tracker.membership import Member, Refused

NEXT_KEY_FILE = f"next-{KEY_FILE}"
NEXT_CERTIFICATE_FILE = f"next-{CERTIFICATE_FILE}"
# What the door gives during a rotation is dated before it. Older than this it would be worth little.
DOOR_DAYS_MAX = CERTIFICATE_DAYS / 2


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far a rotation is: SHA-256 of the authority in force and of the next one; who has no certificate of it."""

    authority: bytes
    following: bytes | None
    waiting: tuple[NodeId, ...]


async def open_authorities(runtime: Runtime, folder: Path) -> tuple[Authority, Authority | None]:
    """Return the authority in force and the next one, if a rotation is under way. Raises as ``open_authority``."""
    await runtime.run_sync(_mend, runtime.disk, folder)
    authority = await open_authority(runtime, folder)
    return authority, await runtime.run_sync(_open_next, runtime.disk, folder)


async def begin(runtime: Runtime, authority: Authority, folder: Path) -> Authority:
    """Make the next authority; durable when this returns.

    Raises:
        StorageFull, StorageBroken: it could not be written; nothing has begun.
    """
    next_one = create_authority(runtime.token_bytes(32), runtime.clock.wall(), swarm=authority.swarm)

    def write() -> None:
        runtime.disk.write_small(folder / NEXT_KEY_FILE, _key_pem(next_one), mode=0o600)
        runtime.disk.write_small(folder / NEXT_CERTIFICATE_FILE, _certificate_pem(next_one), mode=0o644)

    await runtime.run_sync(write)
    return next_one


async def finish(runtime: Runtime, folder: Path, next_one: Authority) -> None:
    """Put the next authority in the old one's place; durable when this returns. The old key is gone then."""

    def write() -> None:
        runtime.disk.write_small(folder / KEY_FILE, _key_pem(next_one), mode=0o600)
        _promote(runtime.disk, folder, next_one)

    await runtime.run_sync(write)


def proof_of(authority: Authority, next_one: Authority) -> bytes:
    """Return the old authority's word for the next one."""
    return authority.key.sign(authority_proof_text(next_one.der))


def waiting(members: Iterable[Member], next_one: Authority) -> tuple[NodeId, ...]:
    """Return the members that have had no certificate since ``next_one`` was made."""
    # Ends are what the register keeps; all certificates hold equally long.
    first_end = int(certificate_ends(_made(next_one)))
    return tuple(m.node for m in members if m.revoked is None and m.certificate_expires < first_end)


def door_date(next_one: Authority, now: float) -> float:
    """Return what a certificate is dated that the old authority gives at the door while ``next_one`` waits: before it
    was made. So whoever joins now and is never seen again is among those who wait, and not shut out unsaid.

    Raises:
        Refused: that was so long ago that the certificate would be worth little.
    """
    dated = _made(next_one) - 1
    if now - dated > DOOR_DAYS_MAX * 86400:
        raise Refused("a new authority has been on its way for long; it must be finished first: upswarm rotate")
    return min(now, dated)


def _made(next_one: Authority) -> float:
    return (next_one.certificate.not_valid_before_utc + BACKDATED).timestamp()


def _open_next(disk: Disk, folder: Path) -> Authority | None:
    certificate = read_certificate(disk, folder / NEXT_CERTIFICATE_FILE)
    if certificate is None:
        return None  # A key without it was made by a begin that was killed: nobody has heard of it.
    key = read_key(disk, folder / NEXT_KEY_FILE)
    if key is None or key.public_key() != certificate.public_key():
        raise ConfigError(
            f"{folder / NEXT_KEY_FILE}: is not the key of {NEXT_CERTIFICATE_FILE}; restore both from one backup, or "
            f"remove both to give up the rotation"
        )
    return Authority(key, certificate)


def _mend(disk: Disk, folder: Path) -> None:
    """Finish a finish that was killed."""
    next_certificate = read_certificate(disk, folder / NEXT_CERTIFICATE_FILE)
    key = read_key(disk, folder / KEY_FILE)
    if next_certificate is not None and key is not None and key.public_key() == next_certificate.public_key():
        _promote(disk, folder, Authority(key, next_certificate))


def _promote(disk: Disk, folder: Path, next_one: Authority) -> None:
    disk.write_small(folder / CERTIFICATE_FILE, _certificate_pem(next_one), mode=0o644)
    for name in (NEXT_CERTIFICATE_FILE, NEXT_KEY_FILE):
        disk.remove(folder / name)
    disk.sync_folder(folder)


def _key_pem(authority: Authority) -> bytes:
    return authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _certificate_pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.PEM)
