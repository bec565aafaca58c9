"""What nodes ask the tracker: where a file is, who is in the swarm, what files there are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import NodeAddress, NodeId, Role, Tag
from protocol.messages.base import ADDRESSES, COUNT, NAME, NAMES, NODE, REQUEST, SIZE, TAG, WORD, Message, wire


class Whereabouts(StrEnum):
    """What the tracker knows of a tag's storage."""

    STORED = "stored"  # that storage node has it
    OPEN = "open"  # that storage node has a job open for it
    ASSIGNED = "assigned"  # nobody has it yet; that storage node should take it
    NONE = "none"  # no storage node is there, or none has room


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node as the tracker knows it. ``state`` is fresh, silent, revoked; ``seen_seconds_ago`` since its last beat."""

    node: NodeId = wire(NODE)
    role: Role = wire(kinds.Word(Role))
    name: str = wire(WORD)
    addresses: tuple[str, ...] = wire(ADDRESSES)
    state: str = wire(WORD)
    seen_seconds_ago: int = wire(COUNT)
    tags: int = wire(COUNT)
    room_bytes: int = wire(COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRecord:
    """A tag as the tracker knows it. ``holders`` counts nodes that have all of it."""

    tag: Tag = wire(TAG)
    size_bytes: int = wire(SIZE)
    names: tuple[str, ...] = wire(NAMES)
    since: int = wire(COUNT)
    state: str = wire(WORD)  # stored, open, shared
    holders: int = wire(COUNT)
    storage: NodeId | None = wire(kinds.Maybe(NODE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Where(Message):
    """Node -> tracker: where is this tag, or the newest file of this name? One of both is given.

    With ``to_put`` a storage node is assigned when none has it. Answered by WhereAnswer, or Failure (not-found).
    """

    TYPE: ClassVar[int] = 20

    request: int = wire(REQUEST)
    tag: Tag | None = wire(kinds.Maybe(TAG))
    name: str | None = wire(kinds.Maybe(NAME))
    size_bytes: int = wire(SIZE)
    to_put: bool = wire(kinds.Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereAnswer(Message):
    """Tracker -> node: the storage node that has it, takes it or should take it, and who else holds some of it."""

    TYPE: ClassVar[int] = 21

    request: int = wire(REQUEST)
    tag: Tag = wire(TAG)
    size_bytes: int = wire(SIZE)
    name: str = wire(NAME)
    state: Whereabouts = wire(kinds.Word(Whereabouts))
    storage: NodeAddress | None = wire(kinds.Maybe(kinds.NodeAddressField()))
    holders: tuple[NodeAddress, ...] = wire(kinds.ListOf(kinds.NodeAddressField(), limits.HOLDERS_PER_ANSWER_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNodes(Message):
    """Node -> tracker: who is in the swarm? ``after`` continues a long list. Answered by NodesAnswer."""

    TYPE: ClassVar[int] = 22

    request: int = wire(REQUEST)
    after: NodeId | None = wire(kinds.Maybe(NODE))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesAnswer(Message):
    """Tracker -> node: a page of nodes, in the order of their ids; an empty page is the end."""

    TYPE: ClassVar[int] = 23

    request: int = wire(REQUEST)
    nodes: tuple[NodeRecord, ...] = wire(kinds.ListOf(kinds.Record(NodeRecord), 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTags(Message):
    """Node -> tracker: what files are there? ``after`` continues a long list. Answered by TagsAnswer."""

    TYPE: ClassVar[int] = 24

    request: int = wire(REQUEST)
    stored_only: bool = wire(kinds.Flag())
    after: Tag | None = wire(kinds.Maybe(TAG))


@dataclass(frozen=True, slots=True, kw_only=True)
class TagsAnswer(Message):
    """Tracker -> node: a page of tags, in their order; an empty page is the end."""

    TYPE: ClassVar[int] = 25

    request: int = wire(REQUEST)
    tags: tuple[TagRecord, ...] = wire(kinds.ListOf(kinds.Record(TagRecord), limits.HOLDINGS_PER_FRAME_MAX))
