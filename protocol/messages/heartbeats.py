"""Nodes tell the tracker that they live, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import Tag
from protocol.messages.base import BITMAP, COUNT, NAMES, REQUEST, SIZE, TAG, Message, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a node holds of one tag. ``bitmap`` is empty when it holds all of it.

    ``since`` is the holder's wall clock in whole seconds at which it got it (for "last put wins", and for display).
    """

    tag: Tag = wire(TAG)
    size_bytes: int = wire(SIZE)
    names: tuple[str, ...] = wire(NAMES)
    since: int = wire(COUNT)
    bitmap: bytes = wire(BITMAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Message):
    """Node -> tracker: I live, and my inventory is at this epoch and sequence. Answered by HeartbeatAnswer.

    ``epoch`` is drawn at each start of the node; ``sequence`` counts Inventory messages within it.
    """

    TYPE: ClassVar[int] = 16

    number: int = wire(REQUEST)
    epoch: int = wire(COUNT)
    sequence: int = wire(COUNT)
    room_bytes: int = wire(COUNT)  # what a storage node could still take
    lend: bool = wire(kinds.Flag())
    paused: bool = wire(kinds.Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer(Message):
    """Tracker -> node: heard. ``inventory_wanted``: my picture of what you hold is not yours; send it in full."""

    TYPE: ClassVar[int] = 17

    number: int = wire(REQUEST)
    interval_milliseconds: int = wire(REQUEST)
    inventory_wanted: bool = wire(kinds.Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory(Message):
    """Node -> tracker: changes of what I hold since ``sequence - 1``; with ``full`` the beginning of a whole list.

    A whole list may take several messages, the later ones without ``full``.
    """

    TYPE: ClassVar[int] = 18

    epoch: int = wire(COUNT)
    sequence: int = wire(COUNT)
    full: bool = wire(kinds.Flag())
    held: tuple[Holding, ...] = wire(kinds.ListOf(kinds.Record(Holding), limits.HOLDINGS_PER_FRAME_MAX))
    dropped: tuple[Tag, ...] = wire(kinds.ListOf(TAG, limits.HOLDINGS_PER_FRAME_MAX))
