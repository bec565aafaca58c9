"""A LAN in one process: who announces is found at once by all others of its swarm."""

from __future__ import annotations

import trio

from runtime.discovery import Announcement, Found, LanNode, Lost, Neighbours


class MemoryLan:
    """The ether. Announcements may also be forged by whoever sits on it (``announce``)."""

    def __init__(self) -> None:
        self._listeners: list[Neighbours] = []
        self._announced: dict[str, tuple[str, LanNode]] = {}

    def discovery(self) -> MemoryDiscovery:
        """One node's way to it."""
        return MemoryDiscovery(self)

    def announce(self, swarm: str, node: LanNode) -> None:
        """Everybody hears of ``node``."""
        self._announced[node.node] = (swarm, node)
        for listener in list(self._listeners):
            listener.see(swarm, node)

    def retract(self, node: str) -> None:
        """Everybody hears that it is gone."""
        known = self._announced.pop(node, None)
        if known is not None:
            for listener in list(self._listeners):
                listener.miss(known[1].node)

    async def listen(self, neighbours: Neighbours) -> None:
        self._listeners.append(neighbours)
        try:
            for swarm, node in list(self._announced.values()):
                neighbours.see(swarm, node)
            await trio.sleep_forever()
        finally:
            self._listeners.remove(neighbours)


class MemoryDiscovery:
    """``Discovery`` on a ``MemoryLan``."""

    def __init__(self, lan: MemoryLan) -> None:
        self._lan = lan

    async def run(self, own: Announcement, found: Found, lost: Lost) -> None:
        if own.addresses:
            self._lan.announce(own.swarm, LanNode(own.node, own.role, own.addresses, own.version))
        try:
            await self._lan.listen(Neighbours(own, found, lost))
        finally:
            self._lan.retract(own.node)
