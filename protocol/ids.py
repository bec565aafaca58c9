"""Names of things: node ids, tags, addresses. What they look like to people, to programs and on the wire.

A node id is SHA-256 of an Ed25519 public key, shown as 52 characters of base32. A tag is SHA-256 over all digests of
a file plus their count, shown as ``<64 hex>-<count>``. Both are values: equal when they look equal, and sortable, so
that nothing ever depends on the order of a set.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NewType

from protocol.limits import CHUNKS_MAX, DIGEST_BYTES

NodeId = NewType("NodeId", str)

# A node speaks of the same few all the time, in most of what it says, and base32 takes 5 µs. Bounded: strangers could
# name others.
_NODES_REMEMBERED = 4096
_NODE_ID = re.compile(r"[a-z2-7]{52}")
_TAG = re.compile(r"([0-9a-f]{64})-([1-9][0-9]{0,3})")
# What a resolver can be asked without raising: labels of 1 to 63 letters, digits, hyphens and underscores.
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.-]{1,15})?")


class Role(StrEnum):
    """What a certificate says its node is."""

    PEER = "peer"
    STORAGE = "storage"
    TRACKER = "tracker"


@lru_cache(_NODES_REMEMBERED)
def node_id_from_bytes(digest: bytes) -> NodeId:
    """Return the shown form of 32 bytes."""
    assert len(digest) == DIGEST_BYTES
    return NodeId(base64.b32encode(digest).decode("ascii").rstrip("=").lower())


def node_id_of_key(public_key: bytes) -> NodeId:
    """Return the node id of a raw Ed25519 public key (32 bytes)."""
    return node_id_from_bytes(hashlib.sha256(public_key).digest())


@lru_cache(_NODES_REMEMBERED)
def node_id_to_bytes(node: NodeId) -> bytes:
    """Return the 32 bytes of a node id."""
    return base64.b32decode(node.upper() + "=" * 4)


@lru_cache(_NODES_REMEMBERED)
def parse_node_id(text: str) -> NodeId:
    """Return ``text`` as a node id.

    Raises:
        ValueError: it is none; the sentence says what one looks like.
    """
    if not _NODE_ID.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a node id: 52 characters a-z and 2-7")
    try:
        canonical = node_id_from_bytes(node_id_to_bytes(NodeId(text)))
    except binascii.Error as error:
        raise ValueError(f"{text!r} is not a node id: {error}") from error
    if canonical != text:
        raise ValueError(f"{text!r} is not a node id: its last character carries unused bits")
    return canonical


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """The file mark: SHA-256 over all digests, and how many there are."""

    root: bytes
    chunks: int

    WIRE_BYTES = DIGEST_BYTES + 4

    def __str__(self) -> str:
        return f"{self.root.hex()}-{self.chunks}"

    def to_bytes(self) -> bytes:
        """Return the wire form: 32 bytes and the count as four bytes, big-endian."""
        return self.root + self.chunks.to_bytes(4, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> Tag:
        """Return the tag of its wire form.

        Raises:
            ValueError: wrong length, or a count that no file can have.
        """
        if len(data) != cls.WIRE_BYTES:
            raise ValueError(f"a tag has {cls.WIRE_BYTES} bytes, not {len(data)}")
        chunks = int.from_bytes(data[DIGEST_BYTES:], "big")
        if not 1 <= chunks <= CHUNKS_MAX:
            raise ValueError(f"a tag of {chunks} chunks; 1 to {CHUNKS_MAX} are possible")
        return cls(data[:DIGEST_BYTES], chunks)

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Return the tag of its shown form.

        Raises:
            ValueError: it is none; the sentence says what one looks like.
        """
        match = _TAG.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:120]!r} is not a tag: 64 hex digits, '-', number of chunks")
        chunks = int(match[2])
        if chunks > CHUNKS_MAX:
            raise ValueError(f"a tag of {chunks} chunks; 1 to {CHUNKS_MAX} are possible")
        return cls(bytes.fromhex(match[1]), chunks)


@dataclass(frozen=True, slots=True, order=True)
class NodeAddress:
    """A node and where it may be dialled: ``host:port`` strings, likeliest first. Only the handshake proves it."""

    node: NodeId
    role: Role
    addresses: tuple[str, ...]


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: it is neither; the sentence says what would be right.
    """
    host, _, port = text.rpartition(":")
    pattern = _HOST
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        pattern = _IPV6
    elif ":" in host:
        raise ValueError(f"{text[:80]!r}: an IPv6 address needs brackets, as in [::1]:4100")
    if not pattern.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text[:80]!r} is not HOST:PORT, as in 127.0.0.1:4100")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
