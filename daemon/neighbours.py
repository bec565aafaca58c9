"""The nodes we have links to, as the daemon's other files want them: a link counts once its exchange is open.

``Links.dial`` returns when the handshake is done; the task that serves the link opens its exchange session a moment
later. Whoever wants to offer or ask waits for that here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from protocol.errors import LinkLost
from protocol.ids import NodeAddress, NodeId, Role
from runtime.link import Link
from runtime.links import Links

OPEN_SECONDS_MAX = 10.0
# A link to another peer is opened for one file; the next one may come soon, or never.
IDLE_SECONDS_MAX = 300.0
LOOK_SECONDS = 30.0
# Pings and a few words, in the time of a look.
STILL_BYTES_MAX = 4096


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

    async def wait_for(self, nodes: Sequence[NodeId]) -> None:
        """Wait until there is a link to one of ``nodes``, whoever dialled it."""
        while not any(self.to(node) for node in nodes):
            await self._changed.wait()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close links that we dialled to other peers and that nothing happens on, until cancelled."""
        task_status.started()
        moved: dict[Link, tuple[int, float]] = {}
        while True:
            now = trio.current_time()
            seen = {}
            for link in self:
                total = link.bytes_sent + link.bytes_received
                last, since = moved.get(link, (0, now))
                seen[link] = (total, now) if total - last > STILL_BYTES_MAX else (last, since)
                if link.dialled and link.peer.role is Role.PEER and now - seen[link][1] > IDLE_SECONDS_MAX:
                    link.close("idle", "nothing to say for a while")
            moved = seen
            await trio.sleep(LOOK_SECONDS)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
