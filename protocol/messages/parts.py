"""Chunks that helpers put straight into the store; between nodes that both named the feature "direct-parts"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocol.ids import Tag
from protocol.messages.base import CHUNK, COUNT, SENTENCE, TAG, URL, WORD, Message, wire


@dataclass(frozen=True, slots=True, kw_only=True)
class PartGrant(Message):
    """Storage -> holder: put this chunk there yourself: PUT ``url``, header x-amz-checksum-sha256 ``checksum``, the
    chunk as body. Begin within ``seconds``. Answered by PartPut or PartFailed."""

    TYPE: ClassVar[int] = 133

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)
    url: str = wire(URL)
    checksum: str = wire(WORD)
    seconds: int = wire(COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPut(Message):
    """Holder -> storage: the store has taken it. Believed once the store shows it."""

    TYPE: ClassVar[int] = 134

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFailed(Message):
    """Holder -> storage: I did not put it. ``code``: gone, refused (by me), store (it said no, or did not answer),
    recalled."""

    TYPE: ClassVar[int] = 135

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)
    code: str = wire(WORD)
    reason: str = wire(SENTENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecall(Message):
    """Storage -> holder: leave it; somebody else put it, or is to. A grant that is not answered yet still is."""

    TYPE: ClassVar[int] = 136

    tag: Tag = wire(TAG)
    chunk: int = wire(CHUNK)
