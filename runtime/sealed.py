"""Sealed files: what the bytes of a file look like when nobody but who has its link may read them. Bytes in, bytes out.

    magic (16) ‖ salt (16) ‖ check (32) ‖ segments

A segment is 64 KiB of the file (the last one shorter, or empty) under AES-256-GCM, 16 bytes longer than its text. Its
nonce is its number (11 bytes, big-endian) and a byte that is 1 on the last one, as in STREAM (Hoang, Reyhanitabar,
Rogaway, Vizár 2015): nothing can be altered, cut off, added or moved without being found, and a segment is released
only after it was verified. The header goes into every segment as associated data.

The keys of one file are derived (HKDF-SHA256) from the key in its link and the salt, and the salt from the key and the
file's own tag. So one key and one file always make the same bytes, and two files never share a nonce under one derived
key, not even when somebody uses a key twice. ``check`` commits to the key: whoever has another one is told at once.

Whose key it is, and where the bytes lie, upswarm/sealing.py decides. Specification: docs/protocol.md#sealed.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import IntegrityError
from protocol.ids import Tag
from protocol.limits import FILE_BYTES_MAX, KIB

MAGIC = b"upswarm-sealed-1"
KEY_BYTES = 32
SALT_BYTES = 16
CHECK_BYTES = 32
HEADER_BYTES = len(MAGIC) + SALT_BYTES + CHECK_BYTES
SEGMENT_BYTES = 64 * KIB
OVERHEAD_BYTES = 16
_STEP = SEGMENT_BYTES + OVERHEAD_BYTES


def segments_of(plain_bytes: int) -> int:
    """Return how many segments a file has; an empty one has one, empty."""
    return max(1, -(-plain_bytes // SEGMENT_BYTES))


def sealed_bytes(plain_bytes: int) -> int:
    """Return how long a file of ``plain_bytes`` is when it is sealed."""
    return HEADER_BYTES + plain_bytes + OVERHEAD_BYTES * segments_of(plain_bytes)


def plain_bytes(sealed_size_bytes: int) -> int:
    """Return how long the file in a sealed one is.

    Raises:
        IntegrityError: no sealed file is so long.
    """
    body = sealed_size_bytes - HEADER_BYTES
    size = body - OVERHEAD_BYTES * max(1, -(-body // _STEP))
    if not 0 <= size <= FILE_BYTES_MAX or sealed_bytes(size) != sealed_size_bytes:
        raise IntegrityError(f"no sealed file: none is {sealed_size_bytes} bytes long")
    return size


def salt_of(key: bytes, tag: Tag, size_bytes: int) -> bytes:
    """Return the salt of a file of this tag and size under ``key``."""
    text = MAGIC + b" salt" + tag.to_bytes() + size_bytes.to_bytes(8, "big")
    return hmac.digest(key, text, hashlib.sha256)[:SALT_BYTES]


class _Keys:
    def __init__(self, key: bytes, salt: bytes) -> None:
        assert len(key) == KEY_BYTES and len(salt) == SALT_BYTES
        derived = HKDF(SHA256(), 32 + CHECK_BYTES, salt, MAGIC).derive(key)
        self.header = MAGIC + salt + derived[32:]
        self._cipher = AESGCM(derived[:32])

    def seal(self, number: int, last: bool, text: bytes) -> bytes:
        return self._cipher.encrypt(_nonce(number, last), text, self.header)

    def open(self, number: int, last: bool, sealed: bytes) -> bytes:
        return self._cipher.decrypt(_nonce(number, last), sealed, self.header)


class Sealer:
    """Seals one file, from its beginning to its end. ``header`` goes first."""

    def __init__(self, key: bytes, tag: Tag, size_bytes: int) -> None:
        self._keys = _Keys(key, salt_of(key, tag, size_bytes))
        self._segments = segments_of(size_bytes)
        self._number = 0

    @property
    def header(self) -> bytes:
        """What a sealed file begins with."""
        return self._keys.header

    def seal(self, text: bytes) -> bytes:
        """Return the next segment: ``SEGMENT_BYTES`` of the file, fewer only at its end."""
        assert self._number < self._segments and len(text) <= SEGMENT_BYTES
        last = self._number == self._segments - 1
        assert last or len(text) == SEGMENT_BYTES
        sealed = self._keys.seal(self._number, last, text)
        self._number += 1
        return sealed


class Opener:
    """Opens one sealed file, from its beginning to its end.

    Raises:
        IntegrityError: ``header`` is none, or belongs to another key.
    """

    def __init__(self, key: bytes, header: bytes, sealed_size_bytes: int) -> None:
        self.plain_bytes = plain_bytes(sealed_size_bytes)
        if len(header) != HEADER_BYTES or not header.startswith(MAGIC):
            raise IntegrityError("no sealed file: it begins otherwise")
        self._keys = _Keys(key, header[len(MAGIC) : len(MAGIC) + SALT_BYTES])
        if not hmac.compare_digest(self._keys.header, header):
            raise IntegrityError("the key of this link does not open this file")
        self._segments = segments_of(self.plain_bytes)
        self._number = 0

    def open(self, sealed: bytes) -> bytes:
        """Return the text of the next segment: ``SEGMENT_BYTES + OVERHEAD_BYTES``, fewer only at the file's end.

        Raises:
            IntegrityError: it is not what was sealed there.
        """
        last = self._number >= self._segments - 1
        try:
            text = self._keys.open(self._number, last, sealed)
        # A segment shorter than its overhead is a ValueError in some versions of cryptography.
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(f"segment {self._number} of the sealed file was altered") from error
        self._number += 1
        return text


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
