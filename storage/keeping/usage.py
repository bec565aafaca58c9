"""Whether somebody may store more: quotas.py against what the ledger says is used."""

from __future__ import annotations

from protocol.ids import NodeId, Tag
from storage.keeping.quotas import Quotas, excess
from storage.ledger.base import Ledger


class Usage:
    """Asked before anything is taken; the room itself is storage/room.py's."""

    def __init__(self, ledger: Ledger, quotas: Quotas) -> None:
        self._ledger = ledger
        self._quotas = quotas

    async def excess(self, node: NodeId, name: str, tag: Tag | None, size_bytes: int) -> str | None:
        """Return why ``node`` may not store ``size_bytes`` more as ``name``; None when it may. What it has of ``tag``
        already counts once."""
        quotas = self._quotas
        if quotas.node_bytes is not None:
            used = await self._ledger.used_bytes(node=node, without=tag)
            reason = excess(f"node {node[:8]}", used, size_bytes, quotas.node_bytes)
            if reason is not None:
                return reason
        for prefix in quotas.prefixes_of(name):
            used = await self._ledger.used_bytes(prefix=prefix, without=tag)
            what = f"names that begin with {prefix!r}" if prefix else "this storage node"
            reason = excess(what, used, size_bytes, quotas.prefix_bytes[prefix])
            if reason is not None:
                return reason
        return None
