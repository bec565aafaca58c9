"""The nodes we have links to, as the daemon's other files want them: a link counts once its exchange is open.

``Links.dial`` returns when the handshake is done; the task that serves the link opens its exchange session a moment
later. Whoever wants to offer or ask waits for that here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from protocol.errors import LinkLost
from protocol.ids import NodeAddress, NodeId
from runtime.link import Link
from runtime.links import Links

OPEN_SECONDS_MAX = 10.0


class Neighbours:
    """Links with an open exchange."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._open: dict[Link, None] = {}
        self._changed = trio.Event()

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._open))

    def to(self, node: NodeId) -> Link | None:
        """Return a live link to ``node`` whose exchange is open, or None."""
        return next((link for link in self._open if link.peer.node == node and link.alive), None)

    @contextmanager
    def opened(self, link: Link) -> Iterator[None]:
        """The exchange over ``link`` is open while the block lasts."""
        self._open[link] = None
        self._wake()
        try:
            yield
        finally:
            del self._open[link]
            self._wake()

    async def dial(self, address: NodeAddress) -> Link:
        """Return a link to that node with its exchange open: a live one, or a new one.

        Raises:
            LinkLost: no address answers.
            NotTrusted: who answers is not that node.
        """
        link = self.to(address.node) or await self._links.dial(address)
        with trio.move_on_after(OPEN_SECONDS_MAX):
            while link not in self._open and link.alive:
                await self._changed.wait()
        if link not in self._open or not link.alive:
            raise LinkLost(link.lost or f"{link.remote} did not come up")
        return link

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
