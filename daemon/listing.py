"""Whole lists from the tracker, which gives them page by page.

An empty page is the end. The lists are for people: what is longer than anybody could read is cut.
"""

from __future__ import annotations

from protocol import messages as m
from protocol.ids import NodeId, Tag
from runtime.heartbeat import TrackerLink

TAGS_MAX = 50_000
NODES_MAX = 50_000


async def list_nodes(tracker: TrackerLink) -> list[m.NodeRecord]:
    """Return the members of the swarm. Raises as ``TrackerLink.ask``."""
    found: list[m.NodeRecord] = []
    while len(found) < NODES_MAX:
        page = await _nodes_after(tracker, found[-1].node if found else None)
        if not page:
            break
        found += page
    return found


async def list_tags(tracker: TrackerLink, *, stored_only: bool) -> list[m.TagRecord]:
    """Return the files that the swarm knows. Raises as ``TrackerLink.ask``."""
    found: list[m.TagRecord] = []
    while len(found) < TAGS_MAX:
        page = await _tags_after(tracker, found[-1].tag if found else None, stored_only=stored_only)
        if not page:
            break
        found += page
    return found


async def _nodes_after(tracker: TrackerLink, last: NodeId | None) -> tuple[m.NodeRecord, ...]:
    answer = await tracker.ask(lambda request: m.ListNodes(request=request, after=last))
    assert isinstance(answer, m.NodesAnswer)
    return answer.nodes


async def _tags_after(tracker: TrackerLink, last: Tag | None, *, stored_only: bool) -> tuple[m.TagRecord, ...]:
    answer = await tracker.ask(lambda request: m.ListTags(request=request, stored_only=stored_only, after=last))
    assert isinstance(answer, m.TagsAnswer)
    return answer.tags
