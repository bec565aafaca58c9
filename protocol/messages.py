"""Every message, grouped by the conversation it belongs to. The order of the fields is the order on the wire.

Who may send what to whom is in states.py; how the bytes look is in codec.py; the words are in docs/protocol.md.
A type number below 128 is critical: who does not know it must drop the link. From 128 on it may be ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import NodeAddress, NodeId, Role, Tag


def _wire(kind: kinds.Kind) -> Any:
    return field(metadata={"kind": kind})


_TAG = kinds.TagField()
_NODE = kinds.NodeField()
_SIZE = kinds.UInt(limits.FILE_BYTES_MAX)
_COUNT = kinds.UInt(2**53)
_CHUNK = kinds.UInt(limits.CHUNKS_MAX - 1)
_CHUNKS = kinds.ListOf(_CHUNK, limits.CHUNKS_PER_HAVE_MAX)
_BITMAP = kinds.Bytes(limits.BITMAP_BYTES_MAX)
_REQUEST = kinds.UInt(2**32 - 1)
_NAME = kinds.Text(limits.NAME_BYTES_MAX)
_NAMES = kinds.ListOf(_NAME, limits.NAMES_PER_TAG_MAX)
_WORD = kinds.Text(limits.WORD_BYTES_MAX)
_SENTENCE = kinds.Text(limits.SENTENCE_BYTES_MAX)
_URL = kinds.Text(limits.URL_BYTES_MAX)
_ADDRESSES = kinds.ListOf(kinds.AddressField(), limits.ADDRESSES_MAX)
_CERTIFICATE = kinds.Bytes(limits.CERTIFICATE_BYTES_MAX)


class JobState(StrEnum):
    """A job as the storage node sees it."""

    OPEN = "open"
    COMMITTING = "committing"
    STORED = "stored"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeskState(StrEnum):
    """What the desk says to who wants to put a tag."""

    NEW = "new"
    PARTLY = "partly"
    STORED = "stored"


class Whereabouts(StrEnum):
    """What the tracker knows of a tag's storage."""

    STORED = "stored"  # that storage node has it
    OPEN = "open"  # that storage node has a job open for it
    ASSIGNED = "assigned"  # nobody has it yet; that storage node should take it
    NONE = "none"  # no storage node is there, or none has room


class Message:
    """Base of all messages. ``TYPE`` is the number on the wire."""

    __slots__ = ()
    TYPE: ClassVar[int]


# --- records inside messages ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a node holds of one tag. ``bitmap`` is empty when it holds all of it.

    ``since`` is the holder's wall clock in whole seconds at which it got it (for "last put wins", and for display).
    """

    tag: Tag = _wire(_TAG)
    size_bytes: int = _wire(_SIZE)
    names: tuple[str, ...] = _wire(_NAMES)
    since: int = _wire(_COUNT)
    bitmap: bytes = _wire(_BITMAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """How many verified bytes of a job one node has delivered to storage."""

    node: NodeId = _wire(_NODE)
    bytes_pushed: int = _wire(_COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node as the tracker knows it. ``state`` is fresh, silent, revoked; ``seen_seconds_ago`` since its last beat."""

    node: NodeId = _wire(_NODE)
    role: Role = _wire(kinds.Word(Role))
    name: str = _wire(_WORD)
    addresses: tuple[str, ...] = _wire(_ADDRESSES)
    state: str = _wire(_WORD)
    seen_seconds_ago: int = _wire(_COUNT)
    tags: int = _wire(_COUNT)
    room_bytes: int = _wire(_COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRecord:
    """A tag as the tracker knows it. ``holders`` counts nodes that have all of it."""

    tag: Tag = _wire(_TAG)
    size_bytes: int = _wire(_SIZE)
    names: tuple[str, ...] = _wire(_NAMES)
    since: int = _wire(_COUNT)
    state: str = _wire(_WORD)  # stored, open, shared
    holders: int = _wire(_COUNT)
    storage: NodeId | None = _wire(kinds.Maybe(_NODE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A range of a file, in bytes."""

    offset: int = _wire(_SIZE)
    length: int = _wire(kinds.UInt(limits.PROOF_RANGE_BYTES))


# --- every link ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """First message each way; the listener speaks first: only then does the dialler know that it was accepted.

    Both sides use the features that both name; unknown names are ignored. ``addresses`` is where the sender listens
    ("0.0.0.0:port" when it does not know how others see it). ``name`` is for people.
    """

    TYPE: ClassVar[int] = 1

    version: int = _wire(kinds.UInt(2**16))
    features: tuple[str, ...] = _wire(kinds.ListOf(_WORD, limits.FEATURES_MAX))
    name: str = _wire(_WORD)
    agent: str = _wire(_WORD)
    addresses: tuple[str, ...] = _wire(_ADDRESSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye(Message):
    """I close this link, and this is why. Nothing follows."""

    TYPE: ClassVar[int] = 2

    code: str = _wire(_WORD)
    reason: str = _wire(_SENTENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    """Are you there? Answered by Pong with the same number."""

    TYPE: ClassVar[int] = 3

    number: int = _wire(_REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Message):
    """I am."""

    TYPE: ClassVar[int] = 4

    number: int = _wire(_REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Message):
    """Answer to a request that could not be granted. ``code`` is a word of docs/protocol.md#codes."""

    TYPE: ClassVar[int] = 5

    request: int = _wire(_REQUEST)
    code: str = _wire(_WORD)
    reason: str = _wire(_SENTENCE)


# --- the join door (ALPN upswarm-join/1) ---


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorOpen(Message):
    """Tracker -> joiner: who we are, and what to sign. The joiner compares the CA with its invite before it goes on."""

    TYPE: ClassVar[int] = 8

    authority: bytes = _wire(_CERTIFICATE)  # DER
    nonce: bytes = _wire(kinds.Bytes(32, exact=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Message):
    """Joiner -> tracker: this invite, this key.

    ``proof`` signs ``b"upswarm join 1" + nonce + SHA-256(token)``.

    Answered by Joined or Failure.
    """

    TYPE: ClassVar[int] = 9

    token: bytes = _wire(kinds.Bytes(32, exact=True))
    public_key: bytes = _wire(kinds.Bytes(32, exact=True))
    proof: bytes = _wire(kinds.Bytes(64, exact=True))
    name: str = _wire(_WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Message):
    """Tracker -> joiner: your certificate, and whom to trust."""

    TYPE: ClassVar[int] = 10

    certificate: bytes = _wire(_CERTIFICATE)
    revocations: bytes = _wire(kinds.Bytes(limits.REVOCATIONS_BYTES_MAX))
    tracker: NodeAddress = _wire(kinds.NodeAddressField())


# --- membership ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew(Message):
    """Node -> tracker: my certificate grows old. The key stays. Answered by Renewed or Failure."""

    TYPE: ClassVar[int] = 12

    request: int = _wire(_REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed(Message):
    """Tracker -> node: your new certificate."""

    TYPE: ClassVar[int] = 13

    request: int = _wire(_REQUEST)
    certificate: bytes = _wire(_CERTIFICATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations(Message):
    """Tracker -> node: the signed list (DER CRL) of who was shut out. Sent on connecting and at every change."""

    TYPE: ClassVar[int] = 14

    revocations: bytes = _wire(kinds.Bytes(limits.REVOCATIONS_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities(Message):
    """Tracker -> node: by whom certificates may be issued from now on, oldest first. Sent on connecting and at every
    change by the tracker of a swarm whose authority was ever rotated."""

    TYPE: ClassVar[int] = 15

    authorities: tuple[bytes, ...] = _wire(kinds.ListOf(_CERTIFICATE, limits.AUTHORITIES_MAX))  # DER
    proof: bytes = _wire(kinds.Bytes(64))  # of an older one for the newest; empty when there is none
    revocations: bytes = _wire(kinds.Bytes(limits.REVOCATIONS_BYTES_MAX))  # signed by one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Trackers(Message):
    """Tracker -> node: the trackers of this swarm, any of which will do; this one is among them. Sent on connecting and
    at every change by a tracker that is not the only one. May be ignored."""

    TYPE: ClassVar[int] = 137

    trackers: tuple[NodeAddress, ...] = _wire(kinds.ListOf(kinds.NodeAddressField(), limits.TRACKERS_MAX))


# --- heartbeats ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Message):
    """Node -> tracker: I live, and my inventory is at this epoch and sequence. Answered by HeartbeatAnswer.

    ``epoch`` is drawn at each start of the node; ``sequence`` counts Inventory messages within it.
    """

    TYPE: ClassVar[int] = 16

    number: int = _wire(_REQUEST)
    epoch: int = _wire(_COUNT)
    sequence: int = _wire(_COUNT)
    room_bytes: int = _wire(_COUNT)  # what a storage node could still take
    lend: bool = _wire(kinds.Flag())
    paused: bool = _wire(kinds.Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer(Message):
    """Tracker -> node: heard. ``inventory_wanted``: my picture of what you hold is not yours; send it in full."""

    TYPE: ClassVar[int] = 17

    number: int = _wire(_REQUEST)
    interval_milliseconds: int = _wire(_REQUEST)
    inventory_wanted: bool = _wire(kinds.Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory(Message):
    """Node -> tracker: changes of what I hold since ``sequence - 1``; with ``full`` the beginning of a whole list.

    A whole list may take several messages, the later ones without ``full``.
    """

    TYPE: ClassVar[int] = 18

    epoch: int = _wire(_COUNT)
    sequence: int = _wire(_COUNT)
    full: bool = _wire(kinds.Flag())
    held: tuple[Holding, ...] = _wire(kinds.ListOf(kinds.Record(Holding), limits.HOLDINGS_PER_FRAME_MAX))
    dropped: tuple[Tag, ...] = _wire(kinds.ListOf(_TAG, limits.HOLDINGS_PER_FRAME_MAX))


# --- questions to the tracker ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Where(Message):
    """Node -> tracker: where is this tag, or the newest file of this name? One of both is given.

    With ``to_put`` a storage node is assigned when none has it. Answered by WhereAnswer, or Failure (not-found).
    """

    TYPE: ClassVar[int] = 20

    request: int = _wire(_REQUEST)
    tag: Tag | None = _wire(kinds.Maybe(_TAG))
    name: str | None = _wire(kinds.Maybe(_NAME))
    size_bytes: int = _wire(_SIZE)
    to_put: bool = _wire(kinds.Flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereAnswer(Message):
    """Tracker -> node: the storage node that has it, takes it or should take it, and who else holds some of it."""

    TYPE: ClassVar[int] = 21

    request: int = _wire(_REQUEST)
    tag: Tag = _wire(_TAG)
    size_bytes: int = _wire(_SIZE)
    name: str = _wire(_NAME)
    state: Whereabouts = _wire(kinds.Word(Whereabouts))
    storage: NodeAddress | None = _wire(kinds.Maybe(kinds.NodeAddressField()))
    holders: tuple[NodeAddress, ...] = _wire(kinds.ListOf(kinds.NodeAddressField(), limits.HOLDERS_PER_ANSWER_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNodes(Message):
    """Node -> tracker: who is in the swarm? ``after`` continues a long list. Answered by NodesAnswer."""

    TYPE: ClassVar[int] = 22

    request: int = _wire(_REQUEST)
    after: NodeId | None = _wire(kinds.Maybe(_NODE))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesAnswer(Message):
    """Tracker -> node: a page of nodes, in the order of their ids; an empty page is the end."""

    TYPE: ClassVar[int] = 23

    request: int = _wire(_REQUEST)
    nodes: tuple[NodeRecord, ...] = _wire(kinds.ListOf(kinds.Record(NodeRecord), 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTags(Message):
    """Node -> tracker: what files are there? ``after`` continues a long list. Answered by TagsAnswer."""

    TYPE: ClassVar[int] = 24

    request: int = _wire(_REQUEST)
    stored_only: bool = _wire(kinds.Flag())
    after: Tag | None = _wire(kinds.Maybe(_TAG))


@dataclass(frozen=True, slots=True, kw_only=True)
class TagsAnswer(Message):
    """Tracker -> node: a page of tags, in their order; an empty page is the end."""

    TYPE: ClassVar[int] = 25

    request: int = _wire(_REQUEST)
    tags: tuple[TagRecord, ...] = _wire(kinds.ListOf(kinds.Record(TagRecord), limits.HOLDINGS_PER_FRAME_MAX))


# --- jobs and orders ---


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUpdate(Message):
    """Storage -> tracker: a job is open, moves on, or has ended (any state but open and committing ends it).

    All open jobs are told again after every reconnect, so that a tracker that forgot everything knows them again.
    ``safe``: every chunk is stored or held by somebody who is not an uploader.
    """

    TYPE: ClassVar[int] = 32

    tag: Tag = _wire(_TAG)
    size_bytes: int = _wire(_SIZE)
    name: str = _wire(_NAME)
    state: JobState = _wire(kinds.Word(JobState))
    reason: str = _wire(_SENTENCE)
    chunks_stored: int = _wire(_COUNT)
    safe: bool = _wire(kinds.Flag())
    uploaders: tuple[NodeId, ...] = _wire(kinds.ListOf(_NODE, limits.PUSHED_NODES_MAX))
    pushed: tuple[Pushed, ...] = _wire(kinds.ListOf(kinds.Record(Pushed), limits.PUSHED_NODES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Message):
    """Tracker -> node: offer ``tag`` to ``target``. A hint: the node checks by the handshake who ``target`` is.

    Void after ``lifetime_seconds``. Repeated at heartbeats while the job is open; an order that is being carried out
    changes nothing.
    """

    TYPE: ClassVar[int] = 33

    tag: Tag = _wire(_TAG)
    target: NodeAddress = _wire(kinds.NodeAddressField())
    lifetime_seconds: int = _wire(kinds.UInt(int(limits.ORDER_SECONDS_MAX)))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMap(Message):
    """Storage -> tracker, where both named the feature "job-maps": which chunks of a job are missing, on their way or
    stored, and by whom. For people who look on; may be ignored, and is left out when there is no room for it.

    ``runs`` is read with protocol/jobmap.py; it names senders by their place in the list, from 1.
    """

    TYPE: ClassVar[int] = 128

    tag: Tag = _wire(_TAG)
    senders: tuple[NodeId, ...] = _wire(kinds.ListOf(_NODE, limits.PUSHED_NODES_MAX))
    runs: bytes = _wire(kinds.Bytes(limits.RUNS_BYTES_MAX))


# --- the desk of a storage node ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose(Message):
    """Uploader -> storage: I want this file stored under this name.

    Answered by DeskAnswer, or Failure (no-space, refused). An empty name means: none.
    """

    TYPE: ClassVar[int] = 40

    request: int = _wire(_REQUEST)
    tag: Tag = _wire(_TAG)
    size_bytes: int = _wire(_SIZE)
    name: str = _wire(_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskAnswer(Message):
    """Storage -> uploader.

    new: send the Manifest, then offer. partly: a job is open (or resumes); ``bitmap`` says what is stored; offer.
    stored: it is all here; ``nonce`` and ``ranges`` are the possession challenge; send Proof.
    """

    TYPE: ClassVar[int] = 41

    request: int = _wire(_REQUEST)
    tag: Tag = _wire(_TAG)
    state: DeskState = _wire(kinds.Word(DeskState))
    bitmap: bytes = _wire(_BITMAP)
    nonce: bytes = _wire(kinds.Bytes(32))
    ranges: tuple[Range, ...] = _wire(kinds.ListOf(kinds.Record(Range), limits.PROOF_RANGES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof(Message):
    """Uploader -> storage: SHA-256 over ``b"upswarm proof 1"``, nonce, own node id (32 bytes), tag and all ranges.

    Answered by JobClosed (stored) or Failure (refused).
    """

    TYPE: ClassVar[int] = 42

    request: int = _wire(_REQUEST)
    tag: Tag = _wire(_TAG)
    digest: bytes = _wire(kinds.Bytes(32, exact=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedManifest(Message):
    """Receiver -> holder: send the manifest of this tag. Answered by ManifestIs or NotHeld."""

    TYPE: ClassVar[int] = 43

    tag: Tag = _wire(_TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestIs(Message):
    """Holder -> receiver: size and joined digests; whoever sent them, they verify against the tag."""

    TYPE: ClassVar[int] = 44

    tag: Tag = _wire(_TAG)
    size_bytes: int = _wire(_SIZE)
    digests: bytes = _wire(kinds.Bytes(limits.CHUNKS_MAX * limits.DIGEST_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress(Message):
    """Storage -> all links of a job, a few times a second at most while it moves.

    ``safe``: every chunk is stored or held by somebody who is not an uploader: the uploaders may leave.
    """

    TYPE: ClassVar[int] = 45

    tag: Tag = _wire(_TAG)
    state: JobState = _wire(kinds.Word(JobState))
    chunks_stored: int = _wire(_COUNT)
    bytes_stored: int = _wire(_COUNT)
    safe: bool = _wire(kinds.Flag())
    pushed: tuple[Pushed, ...] = _wire(kinds.ListOf(kinds.Record(Pushed), limits.PUSHED_NODES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClosed(Message):
    """Storage -> uploaders and helpers: this job has ended. ``proven``: stored, and granted to you.

    An uploader who gets ``stored`` without ``proven`` delivered no chunk of it: it proposes again, and proves.
    """

    TYPE: ClassVar[int] = 46

    tag: Tag = _wire(_TAG)
    state: JobState = _wire(kinds.Word(JobState))
    proven: bool = _wire(kinds.Flag())
    reason: str = _wire(_SENTENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw(Message):
    """Uploader -> storage: I no longer want this stored. The last uploader's word cancels the job."""

    TYPE: ClassVar[int] = 47

    tag: Tag = _wire(_TAG)


# --- exchange: the same over every link, both ways ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Message):
    """Receiver -> holder: I want this tag; tell me what you have and get. Answered by Offer or NotHeld."""

    TYPE: ClassVar[int] = 48

    tag: Tag = _wire(_TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(Message):
    """Holder -> receiver: I have these chunks, and will say Have for more. An empty bitmap means all of them.

    The receiver decides: nothing is sent that was not requested.
    """

    TYPE: ClassVar[int] = 49

    tag: Tag = _wire(_TAG)
    size_bytes: int = _wire(_SIZE)
    bitmap: bytes = _wire(_BITMAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotHeld(Message):
    """Holder -> receiver: I have nothing of that (any more). The offer is void; open requests still get a Reject."""

    TYPE: ClassVar[int] = 50

    tag: Tag = _wire(_TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Have(Message):
    """Holder -> receiver: these chunks came in since my offer."""

    TYPE: ClassVar[int] = 51

    tag: Tag = _wire(_TAG)
    chunks: tuple[int, ...] = _wire(_CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """Receiver -> holder: send me this block. Answered exactly once: by Block or by Reject, also after Cancel."""

    TYPE: ClassVar[int] = 52

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)
    offset: int = _wire(_SIZE)  # within the chunk
    length: int = _wire(kinds.UInt(limits.BLOCK_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Message):
    """Holder -> receiver: the announced number of raw bytes follows this frame, outside msgpack."""

    TYPE: ClassVar[int] = 53

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)
    offset: int = _wire(_SIZE)
    length: int = _wire(kinds.UInt(limits.BLOCK_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject(Message):
    """Holder -> receiver: not this block. ``code`` is gone (I no longer have it), busy, or cancelled (by you)."""

    TYPE: ClassVar[int] = 54

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)
    offset: int = _wire(_SIZE)
    length: int = _wire(kinds.UInt(limits.BLOCK_BYTES_MAX))
    code: str = _wire(_WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Message):
    """Receiver -> holder: that request is superfluous. Its block may be on the way already, else Reject answers."""

    TYPE: ClassVar[int] = 55

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)
    offset: int = _wire(_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(Message):
    """Storage -> holders: these chunks are verified and durable. They survive a kill and a power cut from now on."""

    TYPE: ClassVar[int] = 56

    tag: Tag = _wire(_TAG)
    chunks: tuple[int, ...] = _wire(_CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Message):
    """Receiver -> holder: I need nothing more of this tag from you."""

    TYPE: ClassVar[int] = 57

    tag: Tag = _wire(_TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggest(Message):
    """Holder -> receiver: take these from me first. Others get other chunks from me. A hint; needs no answer."""

    TYPE: ClassVar[int] = 129

    tag: Tag = _wire(_TAG)
    chunks: tuple[int, ...] = _wire(_CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lend(Message):
    """Peer -> storage: I have nothing of this, and would fetch chunks of it nearby to pass them on. Answered by Assign,
    whenever there is something to fetch. Peer -> peer: what I ask you for of this is for storage."""

    TYPE: ClassVar[int] = 130

    tag: Tag = _wire(_TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign(Message):
    """Storage -> who lends: fetch these, and offer them as they are verified."""

    TYPE: ClassVar[int] = 131

    tag: Tag = _wire(_TAG)
    chunks: tuple[int, ...] = _wire(_CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOrder(Message):
    """Tracker -> a node that lends: lend your line to the job of ``tag`` at ``target``, if one of ``sources`` is near
    you. A hint like Order."""

    TYPE: ClassVar[int] = 132

    tag: Tag = _wire(_TAG)
    target: NodeAddress = _wire(kinds.NodeAddressField())
    sources: tuple[NodeId, ...] = _wire(kinds.ListOf(_NODE, limits.RELAY_SOURCES_MAX))
    lifetime_seconds: int = _wire(kinds.UInt(int(limits.ORDER_SECONDS_MAX)))


# --- keeping; between nodes that both named the feature "keeping" ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(Message):
    """Peer -> storage: this name of mine leads to that file for so long from now; 0 seconds: for ever.

    Answered by Kept, or Failure (not-found: it does not, or others put it).
    """

    TYPE: ClassVar[int] = 140

    request: int = _wire(_REQUEST)
    tag: Tag = _wire(_TAG)
    name: str = _wire(_NAME)
    seconds: int = _wire(_COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(Message):
    """Peer -> storage: remove what I put of this file, or without a tag, what I put under this name.

    Answered by Kept, or Failure (not-found; refused: others put it).
    """

    TYPE: ClassVar[int] = 141

    request: int = _wire(_REQUEST)
    tag: Tag | None = _wire(kinds.Maybe(_TAG))
    name: str = _wire(_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Message):
    """Storage -> peer: it is done. ``removed``: files that are stored no longer; ``kept``: those that lost names."""

    TYPE: ClassVar[int] = 142

    request: int = _wire(_REQUEST)
    removed: tuple[Tag, ...] = _wire(kinds.ListOf(_TAG, limits.RECORDS_PER_ANSWER_MAX))
    kept: tuple[Tag, ...] = _wire(kinds.ListOf(_TAG, limits.RECORDS_PER_ANSWER_MAX))


# --- parts that helpers put straight into the store; between nodes that both named the feature "direct-parts" ---


@dataclass(frozen=True, slots=True, kw_only=True)
class PartGrant(Message):
    """Storage -> holder: put this chunk there yourself: PUT ``url``, header x-amz-checksum-sha256 ``checksum``, the
    chunk as body. Begin within ``seconds``. Answered by PartPut or PartFailed."""

    TYPE: ClassVar[int] = 133

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)
    url: str = _wire(_URL)
    checksum: str = _wire(_WORD)
    seconds: int = _wire(_COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPut(Message):
    """Holder -> storage: the store has taken it. Believed once the store shows it."""

    TYPE: ClassVar[int] = 134

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFailed(Message):
    """Holder -> storage: I did not put it. ``code``: gone, refused (by me), store (it said no, or did not answer),
    recalled."""

    TYPE: ClassVar[int] = 135

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)
    code: str = _wire(_WORD)
    reason: str = _wire(_SENTENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecall(Message):
    """Storage -> holder: leave it; somebody else put it, or is to. A grant that is not answered yet still is."""

    TYPE: ClassVar[int] = 136

    tag: Tag = _wire(_TAG)
    chunk: int = _wire(_CHUNK)


MESSAGES: dict[int, type[Message]] = {
    thing.TYPE: thing
    for thing in list(globals().values())
    if isinstance(thing, type) and issubclass(thing, Message) and thing is not Message
}
CRITICAL_TYPES_END = 128
