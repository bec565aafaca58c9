"""The trade in chunks: the same over every link, both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocol import fields as kinds
from protocol import limits
from protocol.ids import Tag
from protocol.messages.base import BITMAP, CHUNK, CHUNKS, SIZE, TAG, WORD, Message, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Message):
    """Receiver -> holder: I want this tag; tell me what you have and get. Answered by Offer or NotHeld."""

    TYPE: ClassVar[int] = 48

    tag: Tag = wire(TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(Message):
    """Holder -> receiver: I have these chunks, and will say Have for more. An empty bitmap means all of them.

    The receiver decides: nothing is sent that was not requested.
    """

    TYPE: ClassVar[int] = 49

    tag: Tag = wire(TAG)
    size_bytes: int = wire(SIZE)
    bitmap: bytes = wire(BITMAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotHeld(Message):
    """Holder -> receiver: I have nothing of that (any more). The offer is void; open requests still get a Reject."""

    TYPE: ClassVar[int] = 50

    tag: Tag = wire(TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Have(Message):
    """Holder -> receiver: these chunks came in since my offer."""

    TYPE: ClassVar[int] = 51

    tag: Tag = wire(TAG)
    chunks: tuple[int, ...] = wire(CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """Receiver -> holder: send me this block. Answered exactly once: by Block or by Reject, also after Cancel."""

    TYPE: ClassVar[int] = 52

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)
    offset: int = wire(SIZE)  # within the chunk
    length: int = wire(kinds.UInt(limits.BLOCK_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Message):
    """Holder -> receiver: the announced number of raw bytes follows this frame, outside msgpack."""

    TYPE: ClassVar[int] = 53

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)
    offset: int = wire(SIZE)
    length: int = wire(kinds.UInt(limits.BLOCK_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject(Message):
    """Holder -> receiver: not this block. ``code`` is gone (I no longer have it), busy, or cancelled (by you)."""

    TYPE: ClassVar[int] = 54

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)
    offset: int = wire(SIZE)
    length: int = wire(kinds.UInt(limits.BLOCK_BYTES_MAX))
    code: str = wire(WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Message):
    """Receiver -> holder: that request is superfluous. Its block may be on the way already, else Reject answers."""

    TYPE: ClassVar[int] = 55

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)
    offset: int = wire(SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(Message):
    """Storage -> holders: these chunks are verified and durable. They survive a kill and a power cut from now on."""

    TYPE: ClassVar[int] = 56

    tag: Tag = wire(TAG)
    chunks: tuple[int, ...] = wire(CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Message):
    """Receiver -> holder: I need nothing more of this tag from you."""

    TYPE: ClassVar[int] = 57

    tag: Tag = wire(TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggest(Message):
    """Holder -> receiver: take these from me first. Others get other chunks from me. A hint; needs no answer."""

    TYPE: ClassVar[int] = 129

    tag: Tag = wire(TAG)
    chunks: tuple[int, ...] = wire(CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lend(Message):
    """Peer -> storage: I have nothing of this, and would fetch chunks of it nearby to pass them on. Answered by Assign,
    whenever there is something to fetch. Peer -> peer: what I ask you for of this is for storage."""

    TYPE: ClassVar[int] = 130

    tag: Tag = wire(TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign(Message):
    """Storage -> who lends: fetch these, and offer them as they are verified."""

    TYPE: ClassVar[int] = 131

    tag: Tag = wire(TAG)
    chunks: tuple[int, ...] = wire(CHUNKS)
