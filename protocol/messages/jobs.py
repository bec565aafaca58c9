"""Uploads as storage nodes tell the tracker of them, and whom the tracker orders to help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import NodeAddress, NodeId, Tag
from protocol.messages.base import COUNT, NAME, NODE, SENTENCE, SIZE, TAG, Message, wire


class JobState(StrEnum):
    """A job as the storage node sees it."""

    OPEN = "open"
    COMMITTING = "committing"
    STORED = "stored"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """How many verified bytes of a job one node has delivered to storage."""

    node: NodeId = wire(NODE)
    bytes_pushed: int = wire(COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUpdate(Message):
    """Storage -> tracker: a job is open, moves on, or has ended (any state but open and committing ends it).

    All open jobs are told again after every reconnect, so that a tracker that forgot everything knows them again.
    ``safe``: every chunk is stored or held by somebody who is not an uploader.
    """

    TYPE: ClassVar[int] = 32

    tag: Tag = wire(TAG)
    size_bytes: int = wire(SIZE)
    name: str = wire(NAME)
    state: JobState = wire(kinds.Word(JobState))
    reason: str = wire(SENTENCE)
    chunks_stored: int = wire(COUNT)
    safe: bool = wire(kinds.Flag())
    uploaders: tuple[NodeId, ...] = wire(kinds.ListOf(NODE, limits.PUSHED_NODES_MAX))
    pushed: tuple[Pushed, ...] = wire(kinds.ListOf(kinds.Record(Pushed), limits.PUSHED_NODES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMap(Message):
    """Storage -> tracker, where both named the feature "job-maps": which chunks of a job are missing, on their way or
    stored, and by whom. For people who look on; may be ignored, and is left out when there is no room for it.

    ``runs`` is read with protocol/jobmap.py; it names senders by their place in the list, from 1.
    """

    TYPE: ClassVar[int] = 128

    tag: Tag = wire(TAG)
    senders: tuple[NodeId, ...] = wire(kinds.ListOf(NODE, limits.PUSHED_NODES_MAX))
    runs: bytes = wire(kinds.Bytes(limits.RUNS_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Message):
    """Tracker -> node: offer ``tag`` to ``target``. A hint: the node checks by the handshake who ``target`` is.

    Void after ``lifetime_seconds``. Repeated at heartbeats while the job is open; an order that is being carried out
    changes nothing.
    """

    TYPE: ClassVar[int] = 33

    tag: Tag = wire(TAG)
    target: NodeAddress = wire(kinds.NodeAddressField())
    lifetime_seconds: int = wire(kinds.UInt(int(limits.ORDER_SECONDS_MAX)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOrder(Message):
    """Tracker -> a node that lends: lend your line to the job of ``tag`` at ``target``, if one of ``sources`` is near
    you. A hint like Order."""

    TYPE: ClassVar[int] = 132

    tag: Tag = wire(TAG)
    target: NodeAddress = wire(kinds.NodeAddressField())
    sources: tuple[NodeId, ...] = wire(kinds.ListOf(NODE, limits.RELAY_SOURCES_MAX))
    lifetime_seconds: int = wire(kinds.UInt(int(limits.ORDER_SECONDS_MAX)))
