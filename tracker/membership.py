"""Who is a member: invites, the nodes they let in, and who was shut out again. Durable; everything else is soft state.

Decides who gets a certificate. An admission is one transaction, committed before the certificate is handed out: a
crash can waste a use of an invite, never grant one twice. A node that lost the answer joins again with the same key
and the same token, and no further use is taken.

The token itself is never stored, only its SHA-256: who reads this file can invite nobody. Tokens have 256 bits, so
that looking one up by its hash gives a guesser nothing. Times are the tracker's own wall clock, the only one that
judges invites; certificates carry their end in themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.errors import CommandError, ConfigError, NotFound
from protocol.ids import NodeId, Role, node_id_of_key
from protocol.limits import REVOCATIONS_BYTES_MAX
from runtime.seam import Database, Runtime
from tracker.authority import REVOKED_KEPT, certificate_ends

USES_MAX = 10_000
EXPIRES_SECONDS_MAX = 366 * 86400.0
PREFIX_CHARACTERS_MIN = 6
# An entry of the list takes up to 40 bytes; one more must still fit a message.
REVOKED_MAX = (REVOCATIONS_BYTES_MAX - 4096) // 40
# Invites that have ended are kept so long, to tell an expired one from one that never was.
_ENDED_KEPT_SECONDS = 30 * 86400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS invites (
    token_sha256 BLOB PRIMARY KEY,
    role TEXT NOT NULL,
    uses INTEGER NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (
    node TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    public_key BLOB NOT NULL,
    token_sha256 BLOB NOT NULL,
    joined INTEGER NOT NULL,
    certificate_expires INTEGER NOT NULL,
    revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revocations (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    number INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO revocations VALUES (1, 1);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node that was let in. Times are seconds of the tracker's wall clock; ``revoked`` is None while it is one."""

    node: NodeId
    role: Role
    name: str
    public_key: bytes = field(repr=False)
    joined: int
    certificate_expires: int
    revoked: int | None


@dataclass(frozen=True, slots=True)
class ShutOut:
    """The list of who was revoked and might still show a certificate, and its number."""

    number: int
    nodes: tuple[NodeId, ...]


class Refused(CommandError):
    """An invite that admits nobody. The sentence is for the one who stands outside."""

    def __init__(self, sentence: str) -> None:
        super().__init__("refused", sentence, 6)


class Membership:
    """The register. ``open`` it; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, runtime: Runtime, path: Path) -> Membership:
        """Open or create the register.

        Raises:
            ConfigError: it is damaged.
        """
        await runtime.run_sync(runtime.disk.make_folder, path.parent)
        return cls(await runtime.open_database(path, _SCHEMA))

    async def aclose(self) -> None:
        """Close it."""
        await self._database.aclose()

    async def invite(self, token: bytes, role: Role, uses: int, expires_seconds: float, now: float) -> int:
        """Let ``uses`` nodes join as ``role`` with ``token`` until the returned wall clock second.

        Raises:
            CommandError: a role, a number of uses or a time that is not given out.
        """
        if role is Role.TRACKER:
            raise CommandError("invalid", "there is one tracker; peers and storage nodes are invited", 2)
        if not 1 <= uses <= USES_MAX:
            raise CommandError("invalid", f"{uses} uses: 1 to {USES_MAX} are possible", 2)
        if not 1 <= expires_seconds <= EXPIRES_SECONDS_MAX:
            raise CommandError("invalid", f"an invite is valid for 1 s to {EXPIRES_SECONDS_MAX / 86400:.0f} days", 2)
        expires = int(now + expires_seconds)

        def work(cursor: Any) -> None:
            cursor.execute("DELETE FROM invites WHERE expires < ?", (int(now) - _ENDED_KEPT_SECONDS,))
            row = (_hash(token), role.value, uses, uses, expires)
            cursor.execute("INSERT INTO invites VALUES (?, ?, ?, ?, ?)", row)

        await self._database.transaction(work)
        return expires

    async def admit(
        self, token: bytes, public_key: bytes, name: str, now: float, *, certified_at: float | None = None
    ) -> Member:
        """Take a use of the invite and record the node whose key was proven. Durable when it returns.

        ``certified_at``: what its certificate will be dated; ``now`` when None.

        Raises:
            Refused: the invite does not admit it.
        """
        node = node_id_of_key(public_key)
        ends = int(certificate_ends(now if certified_at is None else certified_at))

        def work(cursor: Any) -> Member:
            invite = cursor.execute(
                "SELECT role, uses_left, expires FROM invites WHERE token_sha256 = ?", (_hash(token),)
            ).fetchone()
            if invite is None:
                raise Refused("this tracker gave no such invite; ask for a new one")
            role, uses_left, expires = invite
            if now >= expires:
                raise Refused("the invite has expired; ask for a new one")
            known = cursor.execute("SELECT token_sha256, revoked FROM nodes WHERE node = ?", (node,)).fetchone()
            if known is not None and known[1] is not None:
                raise Refused("this node was revoked; join with a new key")
            if known is None or known[0] != _hash(token):
                if uses_left < 1:
                    raise Refused("the invite was used up; ask for a new one")
                cursor.execute("UPDATE invites SET uses_left = uses_left - 1 WHERE token_sha256 = ?", (_hash(token),))
            cursor.execute(
                "INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT (node) DO UPDATE SET"
                " role = excluded.role, name = excluded.name, token_sha256 = excluded.token_sha256,"
                " certificate_expires = max(certificate_expires, excluded.certificate_expires)",
                (node, role, name, public_key, _hash(token), int(now), ends),
            )
            return _member(cursor, node)

        return await self._database.transaction(work)

    async def renew(self, node: NodeId, now: float) -> Member:
        """Record that ``node`` gets a new certificate for the key and the role it was admitted with.

        Raises:
            Refused: it was revoked, or the register does not know it.
        """

        def work(cursor: Any) -> Member:
            known = cursor.execute("SELECT revoked FROM nodes WHERE node = ?", (node,)).fetchone()
            if known is None:
                raise Refused("the tracker's register does not know this node; join again with a new invite")
            if known[0] is not None:
                raise Refused("this node was revoked")
            cursor.execute(
                "UPDATE nodes SET certificate_expires = max(certificate_expires, ?) WHERE node = ?",
                (int(certificate_ends(now)), node),
            )
            return _member(cursor, node)

        return await self._database.transaction(work)

    async def revoke(self, prefix: str, now: float) -> Member:
        """Shut out the node whose id is or begins with ``prefix``. Shut out already is fine.

        Raises:
            NotFound: no member's id begins so.
            CommandError: several do, or it is too short, or the list is full.
        """
        if len(prefix) < PREFIX_CHARACTERS_MIN:
            raise CommandError("invalid", f"at least {PREFIX_CHARACTERS_MIN} characters of the node id are needed", 2)

        def work(cursor: Any) -> Member:
            # substr, not LIKE or GLOB: the prefix is a text of the caller's, without wildcards.
            found = cursor.execute(
                "SELECT node FROM nodes WHERE substr(node, 1, ?) = ? LIMIT 2", (len(prefix), prefix)
            ).fetchall()
            if not found:
                raise NotFound(f"no node of this swarm has an id that begins with {prefix[:52]!r}")
            if len(found) > 1:
                raise CommandError("ambiguous", f"several node ids begin with {prefix!r}; give more of it", 2)
            node = found[0][0]
            if _member(cursor, node).revoked is None:
                if len(_shut_out(cursor, now).nodes) >= REVOKED_MAX:
                    raise CommandError("full", f"the list has {REVOKED_MAX} revoked nodes already; some must expire", 1)
                cursor.execute("UPDATE nodes SET revoked = ? WHERE node = ?", (int(now), node))
                # Nodes ignore a number that is not higher than what they know. Seconds of the clock rather than a
                # mere count: a register that was restored from an old backup must not fall behind them for ever.
                cursor.execute("UPDATE revocations SET number = max(number + 1, ?)", (int(now),))
            return _member(cursor, node)

        return await self._database.transaction(work)

    async def merge(self, members: Iterable[Member], number: int, now: float) -> tuple[Member, ...]:
        """Take over what another tracker of this swarm knows of members, and that its list of who was revoked has this
        number; return who was shut out there and not yet here.

        Both registers are equal after each has taken over the other's, in whatever order: the earliest revocation and
        the latest certificate count, and with that the name and the role it was given for.
        """
        told = list(members)

        def work(cursor: Any) -> tuple[Member, ...]:
            news = []
            for one in told:
                cursor.execute("SELECT revoked FROM nodes WHERE node = ?", (one.node,))
                row = cursor.fetchone()
                if one.revoked is not None and (row is None or row[0] is None):
                    news.append(one.node)
                cursor.execute(
                    "INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET"
                    # Who joined again may have another name and role; the later admission is what counts.
                    " name = CASE WHEN (excluded.certificate_expires, excluded.name) > (certificate_expires, name)"
                    " THEN excluded.name ELSE name END,"
                    " role = CASE WHEN (excluded.certificate_expires, excluded.role) > (certificate_expires, role)"
                    " THEN excluded.role ELSE role END,"
                    " joined = min(joined, excluded.joined),"
                    " certificate_expires = max(certificate_expires, excluded.certificate_expires),"
                    " revoked = coalesce(min(revoked, excluded.revoked), revoked, excluded.revoked)",
                    (
                        one.node,
                        one.role.value,
                        one.name,
                        one.public_key,
                        b"",  # no invite of ours
                        one.joined,
                        one.certificate_expires,
                        one.revoked,
                    ),
                )
            # Ours has other contents than either before, and whoever has seen either must take it for the newer one.
            if news:
                cursor.execute("UPDATE revocations SET number = max(number + 1, ? + 1, ?)", (number, int(now)))
            else:
                cursor.execute("UPDATE revocations SET number = max(number, ?)", (number,))
            return tuple(_member(cursor, node) for node in news)

        return await self._database.transaction(work)

    async def shut_out(self, now: float) -> ShutOut:
        """Return who was revoked and whose last certificate might still be shown somewhere."""
        return await self._database.read(lambda cursor: _shut_out(cursor, now))

    async def members(self) -> tuple[Member, ...]:
        """Return all nodes that were ever let in, by id."""

        def work(cursor: Any) -> tuple[Member, ...]:
            return tuple(_row(row) for row in cursor.execute(f"{_SELECT} ORDER BY node"))

        return await self._database.read(work)


_SELECT = "SELECT node, role, name, public_key, joined, certificate_expires, revoked FROM nodes"


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _row(row: tuple[Any, ...]) -> Member:
    node, role, name, public_key, joined, expires, revoked = row
    try:
        known_role = Role(role)
    except ValueError as error:
        raise ConfigError(f"the register names {role!r}, which is no role; it was written by something else") from error
    return Member(
        node=NodeId(node),
        role=known_role,
        name=name,
        public_key=public_key,
        joined=joined,
        certificate_expires=expires,
        revoked=revoked,
    )


def _member(cursor: Any, node: NodeId) -> Member:
    return _row(cursor.execute(f"{_SELECT} WHERE node = ?", (node,)).fetchone())


def _shut_out(cursor: Any, now: float) -> ShutOut:
    ended = int(now - REVOKED_KEPT.total_seconds())
    rows = cursor.execute(
        "SELECT node FROM nodes WHERE revoked IS NOT NULL AND certificate_expires > ? ORDER BY node", (ended,)
    ).fetchall()
    number = cursor.execute("SELECT number FROM revocations").fetchone()[0]
    return ShutOut(number, tuple(NodeId(row[0]) for row in rows))
