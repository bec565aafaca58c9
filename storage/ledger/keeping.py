"""What the ledger knows of keeping: how long names hold, what is to be removed, what was read again and when, who uses
how much. Part of every ledger that speaks SQL (sql.py says which SQL); the laws are base.py's.

Nothing is decided here: what is due is decided in storage/keeping/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Tag
from runtime.seam import Database
from storage.ledger.base import Binding, Collected, Scrub, StoredFile

KEEPING_SCHEMA = """
-- How long names hold; without a row as long as the node's settings say. -1: for ever.
CREATE TABLE IF NOT EXISTS terms (
    position {number} PRIMARY KEY REFERENCES files (position) ON DELETE CASCADE,
    until {number} NOT NULL
){clustered};
-- Stored no longer; their objects may still be there.
CREATE TABLE IF NOT EXISTS doomed (tag {bytes} PRIMARY KEY){clustered};
-- Jobs of files that were stored and turned out rotten.
CREATE TABLE IF NOT EXISTS mending (
    tag {bytes} PRIMARY KEY REFERENCES jobs (tag) ON DELETE CASCADE
){clustered};
-- Up to which chunk a stored file has been read again, and when it is due.
CREATE TABLE IF NOT EXISTS scrubs (
    tag {bytes} PRIMARY KEY REFERENCES jobs (tag) ON DELETE CASCADE,
    chunk {number} NOT NULL,
    due_at {number} NOT NULL
){clustered};
CREATE INDEX IF NOT EXISTS files_by_node ON files (node, tag);
"""
FOR_EVER = -1


class KeepingSql:
    """A part of ``SqlLedger``."""

    _database: Database

    def _files(self, cursor: Any, keys: Sequence[bytes]) -> list[StoredFile]:
        """Return those of ``keys`` that are stored."""
        raise AssertionError("a ledger must say what is stored")

    # --- names, and how long they hold ---

    async def bindings(self) -> list[Binding]:
        def work(cursor: Any) -> list[Binding]:
            rows = cursor.execute(
                "SELECT files.position, tag, name, node, stored_at, until FROM files"
                " LEFT JOIN terms ON terms.position = files.position ORDER BY files.position"
            )
            return [
                Binding(
                    position=position, tag=Tag.from_bytes(key), name=name, node=NodeId(node), stored_at=at, until=until
                )
                for position, key, name, node, at, until in rows
            ]

        return await self._database.read(work)

    async def set_term(self, tag: Tag, name: str, node: NodeId | None, until: int | None) -> bool:
        def work(cursor: Any) -> bool:
            newest = next(
                cursor.execute(
                    "SELECT position, tag, node FROM files WHERE name = ? ORDER BY position DESC LIMIT 1", (name,)
                ),
                None,
            )
            if newest is None or newest[1] != tag.to_bytes() or node not in (None, newest[2]):
                return False
            cursor.execute(
                "INSERT INTO terms VALUES (?, ?) ON CONFLICT (position) DO UPDATE SET until = excluded.until",
                (newest[0], FOR_EVER if until is None else until),
            )
            return True

        return await self._database.transaction(work)

    # --- what goes ---

    async def collect(self, positions: Iterable[int], tags: Iterable[Tag]) -> Collected:
        rows, keys = list(positions), [tag.to_bytes() for tag in tags]

        def work(cursor: Any) -> Collected:
            names: dict[str, None] = {}
            changed: dict[bytes, None] = {}
            for position in rows:
                for name, key in list(cursor.execute("SELECT name, tag FROM files WHERE position = ?", (position,))):
                    names[name] = changed[key] = None
                cursor.execute("DELETE FROM files WHERE position = ?", (position,))
            for name in names:
                # An earlier version that was not meant is the newest one now.
                query = "SELECT tag FROM files WHERE name = ? ORDER BY position DESC LIMIT 1"
                changed |= dict.fromkeys(key for (key,) in list(cursor.execute(query, (name,))))
            doomed = [
                Tag.from_bytes(key)
                for key in keys
                if next(cursor.execute("SELECT 1 FROM files WHERE tag = ? LIMIT 1", (key,)), None) is None
                and _doom(cursor, key)
            ]
            return Collected(doomed, self._files(cursor, sorted(changed)))

        return await self._database.transaction(work)

    async def remove(self, tag: Tag) -> bool:
        def work(cursor: Any) -> bool:
            found = _doom(cursor, tag.to_bytes())
            if found:
                cursor.execute("DELETE FROM files WHERE tag = ?", (tag.to_bytes(),))
            return found

        return await self._database.transaction(work)

    async def doomed(self) -> list[Tag]:
        def work(cursor: Any) -> list[Tag]:
            # Whoever puts it again just now makes a new object of the same key.
            query = "SELECT tag FROM doomed WHERE tag NOT IN (SELECT tag FROM jobs) ORDER BY tag"
            return [Tag.from_bytes(key) for (key,) in cursor.execute(query)]

        return await self._database.read(work)

    async def cleared(self, tag: Tag) -> None:
        def work(cursor: Any) -> None:
            cursor.execute("DELETE FROM doomed WHERE tag = ?", (tag.to_bytes(),))

        await self._database.transaction(work)

    # --- who uses how much ---

    async def used_bytes(self, *, node: NodeId | None = None, prefix: str = "", without: Tag | None = None) -> int:
        condition: str = "node = ?"
        values: tuple[str | int, ...] = (node or "",)
        if node is None:
            condition, values = "SUBSTR(name, 1, ?) = ?", (len(prefix), prefix)
        left_out = b"" if without is None else without.to_bytes()

        def work(cursor: Any) -> int:
            # UNION, not UNION ALL: a file of two names takes its room once.
            ((used,),) = cursor.execute(
                "SELECT COALESCE(SUM(size_bytes), 0) FROM ("
                f"SELECT tag, size_bytes FROM files WHERE {condition} AND tag != ?"
                " UNION SELECT jobs.tag, jobs.size_bytes FROM claims JOIN jobs ON jobs.tag = claims.tag"
                f" WHERE {condition} AND jobs.tag != ?) AS used",
                (*values, left_out, *values, left_out),
            )
            return int(used)

        return await self._database.read(work)

    # --- what was read again ---

    async def scrubs(self) -> dict[Tag, Scrub]:
        def work(cursor: Any) -> dict[Tag, Scrub]:
            rows = cursor.execute("SELECT tag, chunk, due_at FROM scrubs ORDER BY tag")
            return {Tag.from_bytes(key): Scrub(chunk=chunk, due_at=due) for key, chunk, due in rows}

        return await self._database.read(work)

    async def set_scrub(self, tag: Tag, scrub: Scrub) -> None:
        def work(cursor: Any) -> None:
            cursor.execute(
                "INSERT INTO scrubs SELECT tag, CAST(? AS BIGINT), CAST(? AS BIGINT) FROM jobs WHERE tag = ?"
                " ON CONFLICT (tag) DO UPDATE SET chunk = excluded.chunk, due_at = excluded.due_at",
                (scrub.chunk, scrub.due_at, tag.to_bytes()),
            )

        await self._database.transaction(work)

    async def reopen(self, tag: Tag, durable: Bitmap, node: NodeId, now: float) -> bool:
        return await self._database.transaction(lambda cursor: self.write_reopen(cursor, tag, durable, node, now))

    def write_reopen(self, cursor: Any, tag: Tag, durable: Bitmap, node: NodeId, now: float) -> bool:
        """What ``reopen`` writes."""
        key = tag.to_bytes()
        if next(cursor.execute("SELECT 1 FROM jobs WHERE tag = ? AND state = 'stored'", (key,)), None) is None:
            return False
        cursor.execute(
            "UPDATE jobs SET state = 'open', reason = '', durable = ?, moved_at = ? WHERE tag = ?",
            (durable.to_bytes(), int(now), key),
        )
        cursor.execute("INSERT INTO mending VALUES (?) ON CONFLICT DO NOTHING", (key,))
        cursor.execute("INSERT INTO claims (tag, node, name) VALUES (?, ?, '') ON CONFLICT DO NOTHING", (key, node))
        return True

    async def mending(self) -> set[Tag]:
        def work(cursor: Any) -> set[Tag]:
            return {Tag.from_bytes(key) for (key,) in cursor.execute("SELECT tag FROM mending")}

        return await self._database.read(work)


def note_stored(cursor: Any, key: bytes) -> None:
    """``key`` is stored (again): nothing that was to become of it holds any more."""
    cursor.execute("DELETE FROM doomed WHERE tag = ?", (key,))
    cursor.execute("DELETE FROM mending WHERE tag = ?", (key,))
    cursor.execute("DELETE FROM scrubs WHERE tag = ?", (key,))


def _doom(cursor: Any, key: bytes) -> bool:
    """Let a stored file, or one that is being mended, be stored no longer."""
    row = next(
        cursor.execute(
            "SELECT 1 FROM jobs LEFT JOIN mending ON mending.tag = jobs.tag"
            " WHERE jobs.tag = ? AND (state = 'stored' OR mending.tag IS NOT NULL)",
            (key,),
        ),
        None,
    )
    if row is None:
        return False
    cursor.execute("DELETE FROM jobs WHERE tag = ?", (key,))
    cursor.execute("INSERT INTO doomed VALUES (?) ON CONFLICT DO NOTHING", (key,))
    return True
