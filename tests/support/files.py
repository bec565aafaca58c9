"""Files for tests: made from a seed, compared by digest, and their tags computed by other means than ours.

``tag_by_hand`` is the plainest model of docs/protocol.md#tag that one can write; it imports nothing of what it checks.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

MIB = 1024 * 1024


def make_file(path: Path, size_bytes: int, seed: int = 0) -> Path:
    """Write ``size_bytes`` pseudo-random bytes, the same for the same seed, and return ``path``."""
    generator = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        rest = size_bytes
        while rest:
            piece = min(rest, 4 * MIB)
            file.write(generator.randbytes(piece))
            rest -= piece
    return path


def make_sparse_mix(path: Path, size_bytes: int, seed: int = 0) -> Path:
    """Write a file of which every eighth MiB is random and the rest is a hole: large, and cheap to keep."""
    generator = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for offset in range(0, size_bytes, 8 * MIB):
            file.seek(offset)
            file.write(generator.randbytes(min(MIB, size_bytes - offset)))
    return path


def digest_of(path: Path) -> str:
    """Return SHA-256 of the whole file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_bytes(one: Path, other: Path) -> bool:
    """Whether both files hold the same bytes."""
    return one.stat().st_size == other.stat().st_size and digest_of(one) == digest_of(other)


def chunk_bytes_by_hand(size_bytes: int) -> int:
    """Return the chunk size that the specification gives a file."""
    if size_bytes <= 64 * MIB:
        return MIB
    chunk_bytes = 8 * MIB
    while size_bytes > 8192 * chunk_bytes:
        chunk_bytes *= 2
    return chunk_bytes


def tag_by_hand(path: Path) -> str:
    """Return the tag of a file as the specification says, by hashlib alone."""
    size_bytes = path.stat().st_size
    chunk_bytes = chunk_bytes_by_hand(size_bytes)
    whole = hashlib.sha256()
    count = 0
    with path.open("rb") as file:
        while (piece := file.read(chunk_bytes)) or count == 0:
            whole.update(hashlib.sha256(piece).digest())
            count += 1
    return f"{whole.hexdigest()}-{count}"
