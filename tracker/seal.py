"""What trackers of one swarm say to each other through a store that others may write to, under a seal of their own.

The seal is an HMAC with a key that follows from the swarm's authority, which its trackers have in common and nobody
else has. ``purpose`` keeps what was sealed for one thing from being taken for another. Nothing is hidden by it, and
what was said once can be said again by whoever heard it; nothing that is sealed here is harmed by that.
"""

from __future__ import annotations

import hashlib
import hmac

from tracker.authority import Authority

SEAL_BYTES = 32


class Seal:
    """The seal of one swarm."""

    def __init__(self, authority: Authority) -> None:
        self._key = hmac.digest(authority.key.private_bytes_raw(), b"upswarm trackers 1", hashlib.sha256)

    def close(self, purpose: bytes, said: bytes) -> bytes:
        """Return ``said`` with its seal before it."""
        return self._of(purpose, said) + said

    def open(self, purpose: bytes, sealed: bytes) -> bytes | None:
        """Return what was said; None when no tracker of ours said it for this purpose."""
        seal, said = sealed[:SEAL_BYTES], sealed[SEAL_BYTES:]
        return said if hmac.compare_digest(seal, self._of(purpose, said)) else None

    def _of(self, purpose: bytes, said: bytes) -> bytes:
        return hmac.digest(self._key, len(purpose).to_bytes(1, "big") + purpose + said, hashlib.sha256)
