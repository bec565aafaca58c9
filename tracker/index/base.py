"""The index: who is there, who holds which chunks of which tag, what files are called, which uploads are open.

This interface is law for every index (tests/contract/index_contract.py holds them to it); memory.py is the default,
redis.py is shared by several trackers, and steady.py goes on when that is away. It remembers and answers; whom to
order to help whom, and where a new file should go, is decided in matchmaking.py.

An index is soft state: it may forget everything at any time and is complete again two heartbeats later. So nothing in
it is ever needed to keep a promise, and nothing in it is trusted further than a hint: only bytes are.

What MUST hold:

* ``now`` is the monotonic clock of the runtime, in seconds; an index that is shared makes a common time of it. Answers
  depend on what was said and on ``now``, never on how often anybody looked or swept.
* A node is *fresh* while it has a link and was heard of within ``silent_seconds``; then it is *silent*. Silent and
  forgotten are kept apart because a silent node may hold chunks nobody else has: we stop handing it out at once, but
  plan around its loss only later. After ``forgotten_seconds`` it is as if it had never been, and so is all it said.
* Methods are atomic: nobody sees half of a message applied.
* What a node says replaces only what that node said.

An index that is shared may be away: each of its methods may raise ``StorageUnavailable`` then, and has changed nothing
or all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from protocol.bitmap import Bitmap
from protocol.errors import RemoteProtocolError
from protocol.ids import NodeAddress, NodeId, Role, Tag
from protocol.manifest import Layout
from protocol.messages import Heartbeat, Holding, Inventory, JobState, JobUpdate, Pushed

# The picture of one node takes at most so many tags; a colleague's folder has some thousand files, a storage node has
# everybody's. At about 500 bytes each, this bounds what one member can make us remember.
HOLDINGS_MAX = {Role.PEER: 50_000, Role.STORAGE: 1_000_000}
# Uploads that ended, kept for people to look at.
ENDED_JOBS_MAX = 32

# Two beats may be lost, and the third be a little late.
SILENT_INTERVALS = 2.5

OPEN_STATES = frozenset((JobState.OPEN, JobState.COMMITTING))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a node may say nothing, in seconds."""

    silent_seconds: float
    forgotten_seconds: float

    @classmethod
    def of_interval(cls, interval_seconds: float) -> Patience:
        """Return what fits heartbeats of this interval: silent after two lost beats, forgotten after 120."""
        return cls(SILENT_INTERVALS * interval_seconds, 120 * interval_seconds)

    def silent_after(self, interval_seconds: float | None) -> float:
        """Return after how many seconds a node is silent that was told to beat so often; None: as often as all."""
        if interval_seconds is None:
            return self.silent_seconds
        return max(self.silent_seconds, SILENT_INTERVALS * interval_seconds)


class Standing(StrEnum):
    """How sure we are that a node is there."""

    FRESH = "fresh"
    SILENT = "silent"


class TagState(StrEnum):
    """What has become of a file."""

    STORED = "stored"  # a storage node has all of it, and its job is over
    OPEN = "open"  # on its way into storage
    SHARED = "shared"  # offered among peers only


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Who a node is (proven) and what it says of itself when it connects."""

    node: NodeId
    role: Role
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as the index knows it now."""

    node: NodeId
    role: Role
    name: str
    addresses: tuple[str, ...]
    standing: Standing
    seen_seconds_ago: float
    tags: int
    room_bytes: int
    lend: bool
    paused: bool

    @property
    def fresh(self) -> bool:
        """Whether it may be handed out."""
        return self.standing is Standing.FRESH

    @property
    def address(self) -> NodeAddress:
        """Where it may be dialled."""
        return NodeAddress(self.node, self.role, self.addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """What one node holds of a tag. ``bitmap`` is None when it holds all; it may be empty. Do not change it."""

    node: NodeView
    bitmap: Bitmap | None
    size_bytes: int
    names: tuple[str, ...]
    since: int

    @property
    def complete(self) -> bool:
        """Whether it has every chunk."""
        return self.bitmap is None

    @property
    def any(self) -> bool:
        """Whether it has a chunk at all."""
        return self.bitmap is None or bool(self.bitmap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An upload as its storage node last told it. Times are seconds before ``now``."""

    tag: Tag
    storage: NodeId
    size_bytes: int
    name: str
    state: JobState
    reason: str
    chunks_stored: int
    safe: bool
    uploaders: tuple[NodeId, ...]
    pushed: tuple[Pushed, ...]
    opened_seconds_ago: float
    updated_seconds_ago: float

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in OPEN_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class TagView:
    """A tag as the index knows it now. ``holders`` counts nodes that have all of it; ``storage`` has it or takes it."""

    tag: Tag
    size_bytes: int
    names: tuple[str, ...]
    since: int
    state: TagState
    holders: int
    storage: NodeId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much is in the index."""

    nodes: int
    tags: int
    holdings: int


def chunks_of(holding: Holding) -> Bitmap | None:
    """Return which chunks a holding says are held; None for all of them.

    Raises:
        RemoteProtocolError: no file can be so.
    """
    if Layout.of_size(holding.size_bytes).chunks != holding.tag.chunks:
        raise RemoteProtocolError(f"inventory: {holding.tag} cannot be a file of {holding.size_bytes} bytes")
    if not holding.bitmap:
        return None
    try:
        bitmap = Bitmap.from_bytes(holding.tag.chunks, holding.bitmap)
    except ValueError as error:
        raise RemoteProtocolError(f"inventory: {holding.tag}: {error}") from error
    return None if bitmap.complete else bitmap


class Index(Protocol):
    """See the head of this file for what all methods promise."""

    # --- what nodes say ---

    async def arrived(self, profile: Profile, now: float) -> None:
        """A link to the node is up. Its open jobs must be told again (``job``) within ``silent_seconds``: those that
        are not have ended while nobody listened, and are gone then."""
        ...

    async def left(self, node: NodeId, now: float) -> None:
        """The last link to the node is gone: it is silent at once. Unknown nodes are fine."""
        ...

    async def beat(
        self, profile: Profile, heartbeat: Heartbeat, now: float, *, interval_seconds: float | None = None
    ) -> bool:
        """The node lives; a forgotten one is known again. Return whether its inventory is wanted in full: its epoch or
        sequence is not that of the last message ``take`` accepted, or there was none. ``interval_seconds``: it is told
        to beat so often, and silent no sooner than two lost beats take (``Patience.silent_after``)."""
        ...

    async def take(self, node: NodeId, inventory: Inventory, now: float) -> tuple[Tag, ...] | None:
        """Apply an inventory message and return the tags of which the node has gained chunks.

        A full one replaces all the node said; another one is applied when it is the next of the known epoch. Otherwise,
        and for unknown nodes, nothing is applied, None is returned, and the next ``beat`` wants the inventory in full.
        Tags beyond HOLDINGS_MAX are left out.

        Raises:
            RemoteProtocolError: the message cannot be true; nothing of it was applied.
        """
        ...

    async def job(self, storage: NodeId, update: JobUpdate, now: float) -> bool:
        """Note what a storage node says of a job. Return whether it is open now and was not known to be before, or is
        told for the first time since the node arrived: helpers need orders then."""
        ...

    async def forget(self, node: NodeId) -> None:
        """Forget the node and all it said, at once."""
        ...

    async def sweep(self, now: float) -> tuple[NodeId, ...]:
        """Free what is kept of nodes that have been forgotten, and return them. Changes no answer."""
        ...

    # --- what is asked ---

    async def node(self, node: NodeId, now: float) -> NodeView | None:
        """Return one node."""
        ...

    async def nodes(self, now: float, *, role: Role | None = None) -> tuple[NodeView, ...]:
        """Return all nodes (of ``role``), by id."""
        ...

    async def holders(self, tag: Tag, now: float) -> tuple[Holder, ...]:
        """Return who holds something of ``tag``, by node id; silent ones too."""
        ...

    async def holder(self, tag: Tag, node: NodeId, now: float) -> Holder | None:
        """Return what one node holds of ``tag``; None when it says nothing of it."""
        ...

    async def held_by(self, node: NodeId, now: float, limit: int) -> tuple[tuple[Tag, Holder], ...]:
        """Return what a node says it holds, the newest ``since`` first, then by tag; nothing of an unknown node."""
        ...

    async def named(self, name: str, now: float) -> Tag | None:
        """Return the newest file of this name: what a storage node holds completely comes before what others say, then
        the newest ``since``, then the highest tag."""
        ...

    async def tag(self, tag: Tag, now: float) -> TagView | None:
        """Return one tag; None when nobody holds it."""
        ...

    async def tags(self, now: float, *, after: Tag | None, limit: int, stored_only: bool) -> tuple[TagView, ...]:
        """Return a page of tags in their order, behind ``after``."""
        ...

    async def newest_tags(self, now: float, limit: int) -> tuple[TagView, ...]:
        """Return the tags with the newest ``since``, newest first, then by tag."""
        ...

    async def jobs(self, now: float) -> tuple[Job, ...]:
        """Return all open jobs, the oldest first."""
        ...

    async def jobs_of(self, tag: Tag, now: float) -> tuple[Job, ...]:
        """Return the open jobs of one tag: one, or several when storage nodes disagree."""
        ...

    async def open_tags_of(self, node: NodeId, now: float) -> tuple[Tag, ...]:
        """Return the tags of which the node holds something and a job is open, in their order."""
        ...

    async def ended_jobs(self, now: float) -> tuple[Job, ...]:
        """Return some of the jobs that ended last, newest first."""
        ...

    async def counts(self, now: float) -> Counts:
        """Return how much there is."""
        ...
