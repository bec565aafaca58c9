"""Commands about what is stored: rm and keep. Storage nodes do it, within what this member may; each of them is asked.

Only they know who put what, so nothing is decided here but what to make of several answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daemon.listing import list_nodes
from daemon.parameters import only, optional_seconds, tag_or_name, text
from protocol import messages as m
from protocol.errors import CommandError, LinkLost, NotFound, NotTrusted
from protocol.ids import NodeAddress, Role, Tag
from runtime.control import Handler, Notify

if TYPE_CHECKING:
    from daemon.app import Daemon

# In the order in which they are told when no storage node did it: what its user can do something about comes first.
_TELLING = ("refused", "quota", "no-space", "busy", "unsupported")


class CareCommands:
    """See the module; ``methods`` is the table for the control socket."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def methods(self) -> dict[str, Handler]:
        """Return handlers by method."""
        return {"rm": self.remove, "keep": self.keep}

    async def remove(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{what} → {removed, kept}: tags that are stored no longer, and tags that others named, too."""
        only(params, "what")
        what, _ = tag_or_name(text(params, "what"))
        tag, name = (what, "") if isinstance(what, Tag) else (None, what)
        answers = await self._ask_all(lambda request: m.Remove(request=request, tag=tag, name=name), str(what))
        removed = dict.fromkeys(one for answer in answers for one in answer.removed)
        kept = dict.fromkeys(one for answer in answers for one in answer.kept)
        self._daemon.events.add("removed from storage", what=str(what), tags=len(removed))
        return {"removed": [str(one) for one in removed], "kept": [str(one) for one in kept if one not in removed]}

    async def keep(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{what: a name, seconds?} → {name, tag, seconds}; without seconds: for ever."""
        only(params, "what", "seconds")
        seconds = optional_seconds(params, "seconds")
        name, _ = tag_or_name(text(params, "what"))
        if isinstance(name, Tag):
            raise CommandError("usage", "terms are of names: say the name, not the tag", 2)
        answer = await self._daemon.tracker_link.ask(
            lambda request: m.Where(request=request, tag=None, name=name, size_bytes=0, to_put=False)
        )
        assert isinstance(answer, m.WhereAnswer)
        tag = answer.tag
        await self._ask_all(lambda request: m.Keep(request=request, tag=tag, name=name, seconds=seconds or 0), name)
        return {"name": name, "tag": str(tag), "seconds": seconds}

    async def _ask_all(self, factory: Callable[[int], m.Keep | m.Remove], what: str) -> list[m.Kept]:
        """Ask all storage nodes that are there, one after the other; return what those say that did it.

        Raises:
            CommandError: none did it.
        """
        answers: list[m.Kept] = []
        failures: dict[str, CommandError] = {}
        lost = ""
        for storage in await self._storage_nodes():
            try:
                link = await self._daemon.neighbours.dial(storage)
                answers.append(await self._daemon.desk.care(link, factory))
            except CommandError as error:
                failures[error.code] = error
            except (LinkLost, NotTrusted) as error:
                lost = str(error)
        if answers:
            return answers
        for code in _TELLING:
            if code in failures:
                raise failures[code]
        if lost:
            raise LinkLost(f"a storage node did not answer: {lost}")
        raise NotFound(f"{what[:200]}: no storage node has it, or others put it")

    async def _storage_nodes(self) -> list[NodeAddress]:
        return [
            NodeAddress(record.node, record.role, record.addresses)
            for record in await list_nodes(self._daemon.tracker_link)
            if record.role is Role.STORAGE and record.state == "fresh" and record.addresses
        ]
