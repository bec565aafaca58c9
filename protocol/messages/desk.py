"""An upload between who wants it stored and the storage node: asked for, proven or sent, watched, ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import Tag
from protocol.messages.base import BITMAP, COUNT, NAME, REQUEST, SENTENCE, SIZE, TAG, Message, wire
from protocol.messages.jobs import JobState, Pushed


class DeskState(StrEnum):
    """What the desk says to who wants to put a tag."""

    NEW = "new"
    PARTLY = "partly"
    STORED = "stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A range of a file, in bytes."""

    offset: int = wire(SIZE)
    length: int = wire(kinds.UInt(limits.PROOF_RANGE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose(Message):
    """Uploader -> storage: I want this file stored under this name.

    Answered by DeskAnswer, or Failure (no-space, refused). An empty name means: none.
    """

    TYPE: ClassVar[int] = 40

    request: int = wire(REQUEST)
    tag: Tag = wire(TAG)
    size_bytes: int = wire(SIZE)
    name: str = wire(NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskAnswer(Message):
    """Storage -> uploader.

    new: send the Manifest, then offer. partly: a job is open (or resumes); ``bitmap`` says what is stored; offer.
    stored: it is all here; ``nonce`` and ``ranges`` are the possession challenge; send Proof.
    """

    TYPE: ClassVar[int] = 41

    request: int = wire(REQUEST)
    tag: Tag = wire(TAG)
    state: DeskState = wire(kinds.Word(DeskState))
    bitmap: bytes = wire(BITMAP)
    nonce: bytes = wire(kinds.Bytes(32))
    ranges: tuple[Range, ...] = wire(kinds.ListOf(kinds.Record(Range), limits.PROOF_RANGES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof(Message):
    """Uploader -> storage: SHA-256 over ``b"upswarm proof 1"``, nonce, own node id (32 bytes), tag and all ranges.

    Answered by JobClosed (stored) or Failure (refused).
    """

    TYPE: ClassVar[int] = 42

    request: int = wire(REQUEST)
    tag: Tag = wire(TAG)
    digest: bytes = wire(kinds.Bytes(32, exact=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedManifest(Message):
    """Receiver -> holder: send the manifest of this tag. Answered by ManifestIs or NotHeld."""

    TYPE: ClassVar[int] = 43

    tag: Tag = wire(TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestIs(Message):
    """Holder -> receiver: size and joined digests; whoever sent them, they verify against the tag."""

    TYPE: ClassVar[int] = 44

    tag: Tag = wire(TAG)
    size_bytes: int = wire(SIZE)
    digests: bytes = wire(kinds.Bytes(limits.CHUNKS_MAX * limits.DIGEST_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress(Message):
    """Storage -> all links of a job, a few times a second at most while it moves.

    ``safe``: every chunk is stored or held by somebody who is not an uploader: the uploaders may leave.
    """

    TYPE: ClassVar[int] = 45

    tag: Tag = wire(TAG)
    state: JobState = wire(kinds.Word(JobState))
    chunks_stored: int = wire(COUNT)
    bytes_stored: int = wire(COUNT)
    safe: bool = wire(kinds.Flag())
    pushed: tuple[Pushed, ...] = wire(kinds.ListOf(kinds.Record(Pushed), limits.PUSHED_NODES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClosed(Message):
    """Storage -> uploaders and helpers: this job has ended. ``proven``: stored, and granted to you.

    An uploader who gets ``stored`` without ``proven`` delivered no chunk of it: it proposes again, and proves.
    """

    TYPE: ClassVar[int] = 46

    tag: Tag = wire(TAG)
    state: JobState = wire(kinds.Word(JobState))
    proven: bool = wire(kinds.Flag())
    reason: str = wire(SENTENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw(Message):
    """Uploader -> storage: I no longer want this stored. The last uploader's word cancels the job."""

    TYPE: ClassVar[int] = 47

    tag: Tag = wire(TAG)
