"""What all messages are made of: their base, how a field says of which kind it is, and the kinds that many share."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from protocol import fields as kinds
from protocol import limits


class Message:
    """Base of all messages. ``TYPE`` is the number on the wire."""

    __slots__ = ()
    TYPE: ClassVar[int]


def wire(kind: kinds.Kind) -> Any:
    """Return a field of a message or of a record inside one, as ``dataclasses.field`` does."""
    return field(metadata={"kind": kind})


TAG = kinds.TagField()
NODE = kinds.NodeField()
SIZE = kinds.UInt(limits.FILE_BYTES_MAX)
COUNT = kinds.UInt(2**53)
CHUNK = kinds.UInt(limits.CHUNKS_MAX - 1)
CHUNKS = kinds.ListOf(CHUNK, limits.CHUNKS_PER_HAVE_MAX)
BITMAP = kinds.Bytes(limits.BITMAP_BYTES_MAX)
REQUEST = kinds.UInt(2**32 - 1)
NAME = kinds.Text(limits.NAME_BYTES_MAX)
NAMES = kinds.ListOf(NAME, limits.NAMES_PER_TAG_MAX)
WORD = kinds.Text(limits.WORD_BYTES_MAX)
SENTENCE = kinds.Text(limits.SENTENCE_BYTES_MAX)
URL = kinds.Text(limits.URL_BYTES_MAX)
ADDRESSES = kinds.ListOf(kinds.AddressField(), limits.ADDRESSES_MAX)
CERTIFICATE = kinds.Bytes(limits.CERTIFICATE_BYTES_MAX)
