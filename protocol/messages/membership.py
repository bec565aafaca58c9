"""How a node becomes a member and stays one: the join door (ALPN upswarm-join/1), certificates, who was shut out, by
whom certificates may be issued, and which trackers there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import NodeAddress
from protocol.messages.base import CERTIFICATE, REQUEST, WORD, Message, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorOpen(Message):
    """Tracker -> joiner: who we are, and what to sign. The joiner compares the CA with its invite before it goes on."""

    TYPE: ClassVar[int] = 8

    authority: bytes = wire(CERTIFICATE)  # DER
    nonce: bytes = wire(kinds.Bytes(32, exact=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Message):
    """Joiner -> tracker: this invite, this key.

    ``proof`` signs ``b"upswarm join 1" + nonce + SHA-256(token)``.

    Answered by Joined or Failure.
    """

    TYPE: ClassVar[int] = 9

    token: bytes = wire(kinds.Bytes(32, exact=True))
    public_key: bytes = wire(kinds.Bytes(32, exact=True))
    proof: bytes = wire(kinds.Bytes(64, exact=True))
    name: str = wire(WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Message):
    """Tracker -> joiner: your certificate, and whom to trust."""

    TYPE: ClassVar[int] = 10

    certificate: bytes = wire(CERTIFICATE)
    revocations: bytes = wire(kinds.Bytes(limits.REVOCATIONS_BYTES_MAX))
    tracker: NodeAddress = wire(kinds.NodeAddressField())


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew(Message):
    """Node -> tracker: my certificate grows old. The key stays. Answered by Renewed or Failure."""

    TYPE: ClassVar[int] = 12

    request: int = wire(REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed(Message):
    """Tracker -> node: your new certificate."""

    TYPE: ClassVar[int] = 13

    request: int = wire(REQUEST)
    certificate: bytes = wire(CERTIFICATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations(Message):
    """Tracker -> node: the signed list (DER CRL) of who was shut out. Sent on connecting and at every change."""

    TYPE: ClassVar[int] = 14

    revocations: bytes = wire(kinds.Bytes(limits.REVOCATIONS_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities(Message):
    """Tracker -> node: by whom certificates may be issued from now on, oldest first. Sent on connecting and at every
    change by the tracker of a swarm whose authority was ever rotated."""

    TYPE: ClassVar[int] = 15

    authorities: tuple[bytes, ...] = wire(kinds.ListOf(CERTIFICATE, limits.AUTHORITIES_MAX))  # DER
    proof: bytes = wire(kinds.Bytes(64))  # of an older one for the newest; empty when there is none
    revocations: bytes = wire(kinds.Bytes(limits.REVOCATIONS_BYTES_MAX))  # signed by one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Trackers(Message):
    """Tracker -> node: the trackers of this swarm, any of which will do; this one is among them. Sent on connecting and
    at every change by a tracker that is not the only one. May be ignored."""

    TYPE: ClassVar[int] = 137

    trackers: tuple[NodeAddress, ...] = wire(kinds.ListOf(kinds.NodeAddressField(), limits.TRACKERS_MAX))
