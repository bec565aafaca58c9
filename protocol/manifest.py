"""File size, chunk size, all digests: what a file is, and how it is cut. Verifies against the tag.

The chunk size depends on the file's size alone, so that equal files have equal tags everywhere. A tag of a file that
was stored by S3 multipart upload with part = chunk is S3's composite SHA-256 checksum (docs/protocol.md#tag).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.bitmap import Bitmap
from protocol.errors import IntegrityError
from protocol.ids import Tag
from protocol.limits import (
    CHUNKS_MAX,
    DIGEST_BYTES,
    FILE_BYTES_MAX,
    LARGE_CHUNK_BYTES,
    SMALL_CHUNK_BYTES,
    SMALL_FILE_BYTES_MAX,
)


def chunk_bytes_for(size_bytes: int) -> int:
    """Return the chunk size of a file of ``size_bytes``."""
    assert 0 <= size_bytes <= FILE_BYTES_MAX
    if size_bytes <= SMALL_FILE_BYTES_MAX:
        return SMALL_CHUNK_BYTES
    chunk_bytes = LARGE_CHUNK_BYTES
    while chunk_count_for(size_bytes, chunk_bytes) > CHUNKS_MAX:
        chunk_bytes *= 2
    return chunk_bytes


def chunk_count_for(size_bytes: int, chunk_bytes: int) -> int:
    """Return how many chunks there are; an empty file is one empty chunk."""
    return max(1, -(-size_bytes // chunk_bytes))


def tag_of(digests: Sequence[bytes]) -> Tag:
    """Return the tag: SHA-256 over the joined digests, and their count."""
    return Tag(hashlib.sha256(b"".join(digests)).digest(), len(digests))


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file of ``size_bytes`` is cut into chunks."""

    size_bytes: int
    chunk_bytes: int
    chunks: int

    @classmethod
    def of_size(cls, size_bytes: int) -> Layout:
        """Return the only layout a file of this size has."""
        chunk_bytes = chunk_bytes_for(size_bytes)
        return cls(size_bytes, chunk_bytes, chunk_count_for(size_bytes, chunk_bytes))

    def offset_of(self, chunk: int) -> int:
        """Return where ``chunk`` begins in the file, in bytes."""
        return chunk * self.chunk_bytes

    def bytes_of(self, chunk: int) -> int:
        """Return how long ``chunk`` is: the last one may be shorter."""
        assert 0 <= chunk < self.chunks
        return min(self.chunk_bytes, self.size_bytes - chunk * self.chunk_bytes)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Size and all digests of one file. Build with ``of_digests`` or ``checked``; both verify what they are given."""

    layout: Layout
    digests: tuple[bytes, ...]
    tag: Tag

    @classmethod
    def of_digests(cls, size_bytes: int, digests: Sequence[bytes]) -> Manifest:
        """Return the manifest of a file whose chunks have these digests."""
        layout = Layout.of_size(size_bytes)
        assert len(digests) == layout.chunks, (len(digests), layout)
        return cls(layout, tuple(digests), tag_of(digests))

    @classmethod
    def checked(cls, tag: Tag, size_bytes: int, joined_digests: bytes) -> Manifest:
        """Return the manifest that a stranger sent for ``tag``.

        Raises:
            IntegrityError: it is not the manifest of that tag.
        """
        if not 0 <= size_bytes <= FILE_BYTES_MAX:
            raise IntegrityError(f"manifest of {tag}: a size of {size_bytes} bytes cannot be")
        layout = Layout.of_size(size_bytes)
        if layout.chunks != tag.chunks or len(joined_digests) != layout.chunks * DIGEST_BYTES:
            raise IntegrityError(
                f"manifest of {tag}: {size_bytes} bytes make {layout.chunks} chunks, "
                f"{len(joined_digests)} bytes of digests came"
            )
        if hashlib.sha256(joined_digests).digest() != tag.root:
            raise IntegrityError(f"manifest of {tag}: its digests do not make this tag")
        digests = tuple(
            joined_digests[start : start + DIGEST_BYTES] for start in range(0, len(joined_digests), DIGEST_BYTES)
        )
        return cls(layout, digests, tag)

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self.layout.size_bytes

    def leaves_open(self, size_bytes: int, verified: Bitmap) -> bool:
        """Whether the file could still turn out to have ``size_bytes`` when the chunks ``verified`` are right.

        The tag binds digests, not the size. A chunk's digest binds how long it is: the first one that is verified
        proves the chunk size, the last one proves the size.
        """
        if size_bytes == self.size_bytes or not 0 <= size_bytes <= FILE_BYTES_MAX:
            return False
        other = Layout.of_size(size_bytes)
        if other.chunks != self.tag.chunks or self.tag.chunks - 1 in verified:
            return False
        return not verified or other.chunk_bytes == self.layout.chunk_bytes

    def of_size(self, size_bytes: int) -> Manifest:
        """Return the manifest of the same digests for another size that makes as many chunks."""
        return Manifest.checked(self.tag, size_bytes, self.joined_digests())

    def joined_digests(self) -> bytes:
        """Return all digests as they travel."""
        return b"".join(self.digests)
