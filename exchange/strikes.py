"""Who delivered wrong bytes, and who is shut out for it. Pure; every method takes ``now`` in seconds.

A strike is given only where one sender alone made a chunk, so that nobody is struck for another's lie. One strike may
be a bad disk; three within ten minutes are enough for an hour.
"""

from __future__ import annotations

from protocol.ids import NodeId

STRIKES_MAX = 3
STRIKE_SECONDS = 600.0
SHUT_OUT_SECONDS = 3600.0


class Strikes:
    """The strikes of all nodes we know."""

    def __init__(self) -> None:
        self._given: dict[NodeId, list[float]] = {}
        self._shut_out_until: dict[NodeId, float] = {}

    def strike(self, node: NodeId, now: float) -> bool:
        """Give one; return whether the node is shut out now."""
        recent = [at for at in self._given.get(node, ()) if now - at < STRIKE_SECONDS]
        recent.append(now)
        self._given[node] = recent
        if len(recent) >= STRIKES_MAX:
            self._shut_out_until[node] = now + SHUT_OUT_SECONDS
            del self._given[node]
            return True
        return False

    def is_shut_out(self, node: NodeId, now: float) -> bool:
        """Whether nothing may be requested from ``node``."""
        until = self._shut_out_until.get(node)
        if until is None:
            return False
        if now >= until:
            del self._shut_out_until[node]
            return False
        return True

    def given(self, node: NodeId, now: float) -> int:
        """Return how many recent strikes ``node`` has."""
        return sum(1 for at in self._given.get(node, ()) if now - at < STRIKE_SECONDS)
