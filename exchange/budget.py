"""A cap on bytes per second: a bucket of tokens. Pure; every method takes ``now`` in seconds.

Spending may overdraw the bucket: a block is sent when there is any token at all, and the debt is waited off. That
keeps the long-run rate exact with blocks larger than the bucket, and needs no partial blocks.
"""

from __future__ import annotations

# What may leave at once after a pause. Short, so that a cap is a cap on a shared line too.
_BURST_SECONDS = 0.02


class Budget:
    """``bytes_per_second`` None: no cap; 0: nothing passes."""

    __slots__ = ("_tokens", "_updated", "bytes_per_second")

    def __init__(self, bytes_per_second: float | None, now: float) -> None:
        self.bytes_per_second = bytes_per_second
        self._tokens = 0.0
        self._updated = now

    def change(self, bytes_per_second: float | None, now: float) -> None:
        """Use another cap from now on; a debt under the old one is forgiven beyond a second's worth."""
        self._refill(now)
        self.bytes_per_second = bytes_per_second
        if bytes_per_second is not None:
            self._tokens = max(self._tokens, -bytes_per_second)

    def ease(self, bytes_per_second: float | None, now: float) -> None:
        """Use another cap from now on, which may happen all the time: a debt stays one."""
        self._refill(now)
        self.bytes_per_second = bytes_per_second

    def spend(self, size_bytes: int, now: float) -> None:
        """Take ``size_bytes`` out, into debt if need be."""
        if self.bytes_per_second is not None:
            self._refill(now)
            self._tokens -= size_bytes

    def wait_seconds(self, now: float) -> float:
        """Return how long until something may pass: 0 at once, infinity never."""
        if self.bytes_per_second is None:
            return 0.0
        if self.bytes_per_second <= 0:
            return float("inf")
        self._refill(now)
        if self._tokens >= 0:
            return 0.0
        return -self._tokens / self.bytes_per_second

    def _refill(self, now: float) -> None:
        if self.bytes_per_second is not None:
            grown = self._tokens + (now - self._updated) * self.bytes_per_second
            self._tokens = min(grown, self.bytes_per_second * _BURST_SECONDS)
        self._updated = now
