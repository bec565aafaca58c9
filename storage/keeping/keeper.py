"""What goes, goes here: names whose time is over, files that no name leads to, and what somebody removes.

    decide    terms.py says what is due; a command or a node says what it wants removed
    ledger    in one transaction, under the file's turn: names and row go, the tag is doomed
    shelf     nobody is served or told of it any more
    backend   the object is deleted, and only then the tag is cleared

A crash in between leaves a doomed tag, whose object is deleted at the next look; put again before that, it is doomed
no longer. Who may remove: whoever operates the node everything, a member what it put itself (docs/operations.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog
import trio

from protocol.errors import CommandError, NotFound, StorageFull, StorageUnavailable
from protocol.ids import NodeId, Tag
from runtime.seam import Runtime
from storage.backends.base import Backend
from storage.holdings import StorageHoldings
from storage.keeping.terms import Terms, due
from storage.ledger.base import Binding, Ledger
from storage.passage import Passage
from storage.shelf import Shelf
from storage.spools import Spools

log = structlog.get_logger()

LOOK_SECONDS_BETWEEN = 10.0
# Other nodes that share the ledger may have set terms that we know nothing of.
READ_SECONDS_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Removed:
    """``tags``: stored no longer. ``kept``: asked for, but there under names that were not."""

    tags: list[Tag]
    kept: list[Tag]


@dataclass(slots=True)
class KeeperStatistics:
    """Since the start: names that ended by their terms, files removed, and their bytes."""

    names_ended: int = 0
    files_removed: int = 0
    bytes_removed: int = 0


class Keeper:
    """See the module."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        backend: Backend,
        shelf: Shelf,
        holdings: StorageHoldings,
        passage: Passage,
        spools: Spools,
        terms: Terms,
    ) -> None:
        self.counts = KeeperStatistics()
        self._runtime = runtime
        self._ledger = ledger
        self._backend = backend
        self._shelf = shelf
        self._holdings = holdings
        self._passage = passage
        self._spools = spools
        self._terms = terms
        self._read_at = 0.0  # wall clock; when to read all names again

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remove what is due until cancelled."""
        task_status.started()
        while True:
            try:
                await self.look()
            except (StorageFull, StorageUnavailable) as error:
                log.warning("removal waits", reason=str(error))
            await trio.sleep(LOOK_SECONDS_BETWEEN)

    async def look(self) -> None:
        """Remove what is due now, if it is time to look."""
        now = self._runtime.clock.wall()
        if now < self._read_at:
            return
        for tag in await self._ledger.doomed():
            async with self._passage.turns.of(tag):
                if tag not in self._shelf.stored and self._shelf.job_of(tag) is None:
                    await self._clear(tag)
        bindings = await self._ledger.bindings()
        stored = {tag: file.since for tag, file in self._shelf.stored.items()}
        found = due(bindings, stored, self._terms, now)
        # What is put from now on cannot end before this, but by terms that poke us.
        waits = [READ_SECONDS_MAX, self._terms.expires_seconds, self._terms.unnamed_seconds]
        self._read_at = min(found.next_at, now + max(1.0, min(wait for wait in waits if wait is not None)))
        ending = [row for row in bindings if row.position in set(found.positions)]
        if ending or found.tags:
            await self._collect(ending, found.tags)
            self.counts.names_ended += len(ending)

    async def keep(self, tag: Tag, name: str, node: NodeId | None, seconds: float | None) -> None:
        """Let ``name`` lead to ``tag`` for ``seconds`` from now; None: for ever. ``node`` None: whoever operates us.

        Raises:
            NotFound: it does not, or is not ``node``'s.
        """
        until = None if seconds is None else int(self._runtime.clock.wall() + seconds)
        if not await self._ledger.set_term(tag, name, node, until):
            raise NotFound(f"{name!r} is not the name of that file here, or somebody else put it")
        self._read_at = 0.0
        log.info("term set", tag=str(tag), name=name, until=until, node=node)

    async def remove(self, what: Tag | str, node: NodeId | None) -> Removed:
        """Remove a file with all its names, or a name with all its versions and the files that no name is left for.

        ``node``: a member, of whom only names go that it put itself; None: whoever operates this node.

        Raises:
            NotFound: there is nothing of that.
            CommandError: refused: others put it.
        """
        bindings = await self._ledger.bindings()
        meant = [row for row in bindings if (row.tag if isinstance(what, Tag) else row.name) == what]
        known = bool(meant) or (isinstance(what, Tag) and (what in self._shelf.stored or what in self._shelf.live))
        if not known:
            raise NotFound(f"{what} is not stored here")
        if isinstance(what, Tag) and node is None:
            return await self._remove_whole(what)
        rows = [row for row in meant if node in (None, row.node)]
        if not rows:
            raise CommandError("refused", f"{what} was put by others; who operates the storage node can remove it", 6)
        removed = await self._collect(rows, dict.fromkeys(row.tag for row in rows))
        log.info("removed", what=str(what), node=node, tags=[str(tag) for tag in removed])
        return Removed(removed, [tag for tag in dict.fromkeys(row.tag for row in rows) if tag not in removed])

    async def _remove_whole(self, tag: Tag) -> Removed:
        async with self._passage.turns.of(tag):
            if not await self._ledger.remove(tag):
                raise NotFound(f"{tag} is not stored here, it is still being uploaded; cancel the upload instead")
            entry = self._shelf.live.get(tag)
            if entry is not None:
                # It was being mended.
                await self._passage.set_aside(entry)
                self._shelf.book.drop(tag)
            await self._gone(tag)
        log.info("removed", what=str(tag), node=None)
        return Removed([tag], [])

    async def _collect(self, rows: Iterable[Binding], tags: Iterable[Tag]) -> list[Tag]:
        """End names, and remove those of ``tags`` that no name is left for; return these."""
        by_tag: dict[Tag, list[int]] = {tag: [] for tag in tags}
        for row in rows:
            by_tag.setdefault(row.tag, []).append(row.position)
        removed = []
        for tag, positions in by_tag.items():
            # One file at a time: nobody may be granted it between its last name and its removal.
            async with self._passage.turns.of(tag):
                collected = await self._ledger.collect(positions, [tag] if tag in self._shelf.stored else [])
                self._shelf.put_stored(collected.changed)
                if tag in collected.doomed:
                    removed.append(tag)
                    await self._gone(tag)
        return removed

    async def _gone(self, tag: Tag) -> None:
        file = self._shelf.stored.get(tag)
        self.counts.files_removed += 1
        self.counts.bytes_removed += file.size_bytes if file is not None else 0
        self._shelf.drop_stored(tag)
        await self._holdings.forget(tag)
        try:
            await self._clear(tag)
        except StorageUnavailable as error:
            log.warning("an object waits for its removal", tag=str(tag), reason=str(error))
            self._read_at = 0.0

    async def _clear(self, tag: Tag) -> None:
        if self._ledger.shared and tag not in await self._ledger.doomed():
            return  # Somebody puts it again, at another storage node.
        await self._backend.delete(tag)
        await self._spools.remove(tag)
        await self._ledger.cleared(tag)
        log.info("object removed", tag=str(tag))
