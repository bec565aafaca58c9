"""Who may have a file is dialled over the LAN first, whatever addresses the tracker knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from daemon.holders import Holders
from daemon.library import Library
from daemon.neighbours import Neighbours
from exchange.engine import Engine
from protocol import messages as m
from protocol.ids import NodeAddress, NodeId, Role, Tag

TAG = Tag(b"t" * 32, 1)
OURS, NEAR, FAR = (NodeId(letter * 52) for letter in "abc")
INTERNET, LAN = "198.51.100.1:4101", "192.168.1.7:4101"


class Tracker:
    """Knows everybody by one address, which leads over the internet."""

    connected = True

    async def ask(self, factory: Callable[[int], m.Message]) -> m.Message:
        asked = factory(1)
        assert isinstance(asked, m.Where)
        holders = tuple(NodeAddress(node, Role.PEER, (INTERNET,)) for node in (OURS, NEAR, FAR))
        return m.WhereAnswer(
            request=1, tag=TAG, name="", size_bytes=0, state=m.Whereabouts.OPEN, storage=None, holders=holders
        )


async def test_who_was_found_on_the_lan_is_dialled_there_first() -> None:
    found = [NodeAddress(NEAR, Role.PEER, (LAN, INTERNET))]
    nobody = cast("Neighbours", ())
    holders = Holders(OURS, Tracker(), nobody, cast("Library", None), cast("Engine", None), lambda: found)
    located = await holders.locate(TAG)
    assert {source.node: source.addresses for source in located.sources} == {NEAR: (LAN, INTERNET), FAR: (INTERNET,)}
