"""The registrar: joins what the register of members says (membership.py) to what the authority signs (authority.py).

Everything that makes or unmakes a member goes through here, in this order: first the register, durably, then the
signature, and only then whoever asked hears of it. Keeps the current revocation list, which every link is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import trio

from protocol import messages as m
from protocol.ids import NodeId, Role
from protocol.invite import Invite
from runtime.seam import Runtime
from tracker.authority import Authority
from tracker.membership import Member, Membership
from tracker.rotation import door_date, proof_of

TOKEN_BYTES = 32


class Registrar:
    """Members and their papers. ``open`` it."""

    def __init__(self, runtime: Runtime, authority: Authority, membership: Membership) -> None:
        self.authority = authority
        self.next: Authority | None = None  # while a rotation is under way (rotation.py)
        self.revocations = b""  # DER, as it stands
        self.number = 0  # of that list
        self.on_change: Callable[[], None] = lambda: None  # called when other trackers must hear of something
        self._runtime = runtime
        self._membership = membership
        self._revoking = trio.Lock()
        self._revoked: dict[NodeId, Member] = {}

    @classmethod
    async def open(cls, runtime: Runtime, authority: Authority, membership: Membership) -> Registrar:
        """Return the registrar with the list of who is shut out, signed anew."""
        registrar = cls(runtime, authority, membership)
        await registrar._sign()
        return registrar

    @property
    def revoked(self) -> Mapping[NodeId, Member]:
        """Who was shut out."""
        return self._revoked

    async def invite(self, role: Role, uses: int, expires_seconds: float, addresses: tuple[str, ...]) -> Invite:
        """Return a new invite to the tracker at ``addresses``.

        Raises:
            CommandError: such invites are not given out.
        """
        token = self._runtime.token_bytes(TOKEN_BYTES)
        expires = await self._membership.invite(token, role, uses, expires_seconds, self._runtime.clock.wall())
        return Invite(
            addresses=addresses, authority=self.authority.fingerprint, token=token, role=role, expires=expires
        )

    async def admit(self, token: bytes, public_key: bytes, name: str) -> tuple[Member, bytes]:
        """Let in the node whose key was proven; return it and its certificate (DER).

        Raises:
            Refused: the invite does not admit it.
        """
        now = self._runtime.clock.wall()
        dated = now if self.next is None else door_date(self.next, now)
        member = await self._membership.admit(token, public_key, name, now, certified_at=dated)
        self.on_change()
        return member, self.authority.issue(public_key, member.role, dated)

    async def renew(self, node: NodeId) -> bytes:
        """Return a new certificate (DER) for a member.

        Raises:
            Refused: it is none, or none any more.
        """
        now = self._runtime.clock.wall()
        member = await self._membership.renew(node, now)
        self.on_change()
        return (self.next or self.authority).issue(member.public_key, member.role, now)

    @property
    def authorities(self) -> m.Authorities | None:
        """What nodes are told of authorities; None: there never was but one."""
        if self.next is None:
            if self.authority.is_first:
                return None
            return m.Authorities(authorities=(self.authority.der,), proof=b"", revocations=self.revocations)
        return m.Authorities(
            authorities=(self.authority.der, self.next.der),
            proof=proof_of(self.authority, self.next),
            revocations=self.revocations,
        )

    async def rotated(self) -> None:
        """The next authority is the only one from now on."""
        assert self.next is not None
        async with self._revoking:
            self.authority, self.next = self.next, None
            await self._sign()

    async def revoke(self, prefix: str) -> Member:
        """Shut out the node whose id is or begins with ``prefix``; ``revocations`` names it then.

        Raises:
            NotFound, CommandError: see ``Membership.revoke``.
        """
        # One at a time: of two lists that are made side by side, the older one could come last.
        async with self._revoking:
            member = await self._membership.revoke(prefix, self._runtime.clock.wall())
            await self._sign()
        self.on_change()
        return member

    async def merge(self, members: Iterable[Member], number: int) -> tuple[Member, ...]:
        """Take over what another tracker knows (``Membership.merge``); return who was shut out there and not yet here.
        ``revocations`` names them then."""
        async with self._revoking:
            news = await self._membership.merge(members, number, self._runtime.clock.wall())
            if news or number > self.number:
                await self._sign()
        return news

    async def members(self) -> tuple[Member, ...]:
        """Return all nodes that were ever let in, by id."""
        return await self._membership.members()

    async def _sign(self) -> None:
        now = self._runtime.clock.wall()
        shut_out = await self._membership.shut_out(now)
        self._revoked = {member.node: member for member in await self._membership.members() if member.revoked}
        self.revocations = self.authority.sign_revocations(shut_out.nodes, shut_out.number, now)
        self.number = shut_out.number
