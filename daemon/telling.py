"""Tells the hooks of transfers that have ended, one after the other; whoever is slow delays the next, never a transfer.

If more than a thousand events come while one hook runs, the oldest are left out: the ring of events keeps no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from daemon.events import Events

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]

TOLD = ("put stored", "put failed", "get done", "get failed")


async def tell_hooks(events: Events, tell: Tell) -> None:
    """Call ``tell`` for every end of a transfer, until cancelled."""
    last = 0
    while True:
        for event in await events.wait_after(last):
            last = event["number"]
            if event["event"] in TOLD:
                await tell(event)
