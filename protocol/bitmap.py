"""Which chunks of a file: a set of small integers that travels as bytes.

Chunk 0 is the lowest bit of byte 0. Bits behind the last chunk must be zero, so that equal sets have equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Bitmap:
    """A mutable set of chunk indices 0 <= i < ``length``, kept as one Python integer: union and difference are single
    operations however long it is."""

    __slots__ = ("_bits", "length")

    def __init__(self, length: int, bits: int = 0) -> None:
        assert bits >> length == 0
        self.length = length
        self._bits = bits

    @classmethod
    def full(cls, length: int) -> Bitmap:
        """Return the set of all."""
        return cls(length, (1 << length) - 1)

    @classmethod
    def of(cls, length: int, indices: Iterable[int]) -> Bitmap:
        """Return the set of ``indices``."""
        bitmap = cls(length)
        for index in indices:
            bitmap.add(index)
        return bitmap

    @classmethod
    def from_bytes(cls, length: int, data: bytes) -> Bitmap:
        """Return the set that ``data`` says.

        Raises:
            ValueError: wrong number of bytes, or bits behind the last chunk.
        """
        if len(data) != (length + 7) // 8:
            raise ValueError(f"a bitmap of {length} chunks has {(length + 7) // 8} bytes, not {len(data)}")
        bits = int.from_bytes(data, "little")
        if bits >> length:
            raise ValueError(f"a bitmap of {length} chunks has bits behind the last one")
        return cls(length, bits)

    def to_bytes(self) -> bytes:
        """Return the wire form, ``ceil(length / 8)`` bytes."""
        return self._bits.to_bytes((self.length + 7) // 8, "little")

    def add(self, index: int) -> None:
        """Put ``index`` in; it may be there already."""
        assert 0 <= index < self.length, index
        self._bits |= 1 << index

    def discard(self, index: int) -> None:
        """Take ``index`` out; it may be absent."""
        self._bits &= ~(1 << index)

    def __contains__(self, index: int) -> bool:
        return index >= 0 and bool(self._bits >> index & 1)

    def __len__(self) -> int:
        return self._bits.bit_count()

    def __iter__(self) -> Iterator[int]:
        bits = self._bits
        while bits:
            lowest = bits & -bits
            yield lowest.bit_length() - 1
            bits ^= lowest

    def __bool__(self) -> bool:
        return self._bits != 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        return self.length == other.length and self._bits == other._bits

    def __hash__(self) -> int:
        raise TypeError("a bitmap changes; it cannot be a key")

    def __or__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.length, self._bits | other._bits)

    def __and__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.length, self._bits & other._bits)

    def __sub__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.length, self._bits & ~other._bits)

    def __repr__(self) -> str:
        return f"Bitmap({len(self)} of {self.length})"

    @property
    def complete(self) -> bool:
        """Whether every chunk is in."""
        return self._bits == (1 << self.length) - 1

    def first_from(self, start: int) -> int:
        """Return the lowest index that is not below ``start``, or the lowest of all. The set must not be empty."""
        assert self._bits
        above = self._bits >> start << start
        bits = above or self._bits
        return (bits & -bits).bit_length() - 1

    def copy(self) -> Bitmap:
        """Return an independent copy."""
        return Bitmap(self.length, self._bits)

    def missing(self) -> Bitmap:
        """Return the complement."""
        return Bitmap(self.length, self._bits ^ ((1 << self.length) - 1))
