"""Legal moves: who may say what to whom, and when. Read it as the protocol's table of contents.

A link is NEW until both sides have said Hello (listener first), READY then, CLOSED after a Goodbye. On a READY link
the roles of both ends, proven by the handshake, decide which messages may pass in which direction. The tables serve
both directions: what we send is held to the same rules as what we receive.
"""

from __future__ import annotations

from enum import StrEnum

from protocol import messages as m
from protocol.ids import Role


class State(StrEnum):
    """Where one direction of a link is."""

    NEW = "new"
    READY = "ready"
    CLOSED = "closed"


_ALWAYS: tuple[type[m.Message], ...] = (m.Goodbye, m.Ping, m.Pong, m.Failure)

_TO_TRACKER: tuple[type[m.Message], ...] = (
    m.Renew,
    m.Heartbeat,
    m.Inventory,
    m.Where,
    m.ListNodes,
    m.ListTags,
)
_FROM_TRACKER: tuple[type[m.Message], ...] = (
    m.Renewed,
    m.Revocations,
    m.Authorities,
    m.Trackers,
    m.HeartbeatAnswer,
    m.WhereAnswer,
    m.NodesAnswer,
    m.TagsAnswer,
    m.Order,
    m.RelayOrder,
)
# The trade in chunks is symmetric: whoever dialled, either side may offer and either side may request.
_EXCHANGE: tuple[type[m.Message], ...] = (
    m.Ask,
    m.Offer,
    m.NotHeld,
    m.Have,
    m.NeedManifest,
    m.ManifestIs,
    m.Request,
    m.Block,
    m.Reject,
    m.Cancel,
    m.Complete,
    m.Suggest,
)
_TO_DESK: tuple[type[m.Message], ...] = (
    m.Propose,
    m.Proof,
    m.Withdraw,
    m.Lend,
    m.PartPut,
    m.PartFailed,
    m.Keep,
    m.Remove,
)
_FROM_STORAGE: tuple[type[m.Message], ...] = (
    m.DeskAnswer,
    m.JobProgress,
    m.JobClosed,
    m.Stored,
    m.Assign,
    m.PartGrant,
    m.PartRecall,
    m.Kept,
)

MOVES: dict[tuple[Role, Role], frozenset[type[m.Message]]] = {
    (Role.PEER, Role.TRACKER): frozenset(_ALWAYS + _TO_TRACKER),
    (Role.STORAGE, Role.TRACKER): frozenset((*_ALWAYS, *_TO_TRACKER, m.JobUpdate, m.JobMap)),
    (Role.TRACKER, Role.PEER): frozenset(_ALWAYS + _FROM_TRACKER),
    (Role.TRACKER, Role.STORAGE): frozenset(_ALWAYS + _FROM_TRACKER),
    (Role.TRACKER, Role.TRACKER): frozenset(_ALWAYS),
    (Role.PEER, Role.PEER): frozenset((*_ALWAYS, *_EXCHANGE, m.Lend)),
    (Role.PEER, Role.STORAGE): frozenset(_ALWAYS + _EXCHANGE + _TO_DESK),
    (Role.STORAGE, Role.PEER): frozenset(_ALWAYS + _EXCHANGE + _FROM_STORAGE),
    # A storage node fetches from another one as any holder would, to repair or to move.
    (Role.STORAGE, Role.STORAGE): frozenset(_ALWAYS + _EXCHANGE + _FROM_STORAGE),
}

# The join door knows three messages and a refusal; who stands outside has no role yet.
DOOR_MOVES_IN: frozenset[type[m.Message]] = frozenset((m.Join, m.Goodbye))
DOOR_MOVES_OUT: frozenset[type[m.Message]] = frozenset((m.DoorOpen, m.Joined, m.Failure, m.Goodbye))
