"""Who was found on the LAN, and which of their addresses lead there without a router. mDNS gives hints only: nobody is
believed before a handshake (runtime/discovery.py says how they are found)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.ids import NodeAddress, NodeId, Role
from runtime.discovery import Announcement, Discovery, LanNode, introduce_tracker
from runtime.heartbeat import TrackerLink
from runtime.hosts import Network, on_lan, on_networks


@dataclass(frozen=True, slots=True)
class _Near:
    """A node that was found. ``near``: its addresses on networks that we are on ourselves."""

    node: NodeId
    role: Role
    addresses: tuple[str, ...]
    near: tuple[str, ...]


class Lan:
    """See above. ``find_own_networks``: the networks that this machine is on, now."""

    def __init__(self, find_own_networks: Callable[[], Sequence[Network]]) -> None:
        self._find_own_networks = find_own_networks
        self._found: dict[NodeId, _Near] = {}

    def nodes(self) -> list[NodeAddress]:
        """Return the nodes that were found, the addresses that are near first."""
        return [NodeAddress(found.node, found.role, found.addresses) for found in self._found.values()]

    def near_nodes(self) -> list[NodeAddress]:
        """Return the nodes that were found, with those addresses only that lead there without a router."""
        return [NodeAddress(found.node, found.role, found.near) for found in self._found.values() if found.near]

    def is_near(self, remote: str) -> bool:
        """Return whether this address (host:port) is reached over the LAN, not over our line."""
        return on_lan(remote, self._find_own_networks())

    def found(self, node: LanNode) -> None:
        """Somebody announces itself."""
        near = on_networks(node.addresses, self._find_own_networks())
        # The others lead to the same node, maybe over its own line to the internet: they are tried last.
        rest = tuple(address for address in node.addresses if address not in near)
        self._found[node.node] = _Near(node.node, node.role, (*near, *rest), near)

    def lost(self, node: NodeId) -> None:
        """Somebody took leave, or was silent for too long."""
        self._found.pop(node, None)

    async def run(self, discovery: Discovery, own: Announcement, tracker_link: TrackerLink) -> None:
        """Announce ourselves and look for others, until cancelled. A tracker that is found is told ``tracker_link``."""
        await discovery.run(own, introduce_tracker(tracker_link, self.found), self.lost)
