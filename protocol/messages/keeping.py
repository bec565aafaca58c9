"""How long names hold, and what is removed; between nodes that both named the feature "keeping"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import Tag
from protocol.messages.base import COUNT, NAME, REQUEST, TAG, Message, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(Message):
    """Peer -> storage: this name of mine leads to that file for so long from now; 0 seconds: for ever.

    Answered by Kept, or Failure (not-found: it does not, or others put it).
    """

    TYPE: ClassVar[int] = 140

    request: int = wire(REQUEST)
    tag: Tag = wire(TAG)
    name: str = wire(NAME)
    seconds: int = wire(COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(Message):
    """Peer -> storage: remove what I put of this file, or without a tag, what I put under this name.

    Answered by Kept, or Failure (not-found; refused: others put it).
    """

    TYPE: ClassVar[int] = 141

    request: int = wire(REQUEST)
    tag: Tag | None = wire(kinds.Maybe(TAG))
    name: str = wire(NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Message):
    """Storage -> peer: it is done. ``removed``: files that are stored no longer; ``kept``: those that lost names."""

    TYPE: ClassVar[int] = 142

    request: int = wire(REQUEST)
    removed: tuple[Tag, ...] = wire(kinds.ListOf(TAG, limits.RECORDS_PER_ANSWER_MAX))
    kept: tuple[Tag, ...] = wire(kinds.ListOf(TAG, limits.RECORDS_PER_ANSWER_MAX))
