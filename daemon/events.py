"""What happened lately: a bounded ring of numbered events, for ``upswarm events``. Never a log: the log has more.

Numbers never repeat within one life of the daemon; a reader that was too slow sees the gap.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import structlog
import trio

from runtime.seam import Clock

log = structlog.get_logger()

EVENTS_MAX = 1000


class Events:
    """The ring."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ring: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._number = 0
        self._came = trio.Event()

    def add(self, event: str, **fields: Any) -> None:
        """Something happened. ``fields`` are JSON values."""
        self._number += 1
        self._ring.append({"number": self._number, "time": round(self._clock.wall(), 3), "event": event, **fields})
        log.info(event, **fields)
        self._came.set()
        self._came = trio.Event()

    def since(self, number: int = 0) -> list[dict[str, Any]]:
        """Return the events that came after ``number``, oldest first, as far as they are still there."""
        return [event for event in self._ring if event["number"] > number]

    async def wait_after(self, number: int) -> list[dict[str, Any]]:
        """Return the events after ``number``; waits until there is one."""
        while self._number <= number:
            await self._came.wait()
        return self.since(number)
