"""What the storage node must not forget: jobs with their acknowledged chunks, and what is stored under which names.

SQLite behind the seam, WAL and synchronous=FULL: when a method has returned, its effect survives a power cut. Each
method is one transaction, and ``acknowledge`` covers many chunks of many jobs with one (group commit).

Decides nothing: which chunks may be acknowledged (intake.py syncs them first), when a job is stored (commit.py) and
who is granted a name (jobs.py) is decided elsewhere. It does keep the rule of names: per name the newest file counts,
earlier ones stay as versions. Newest is who was written last, not whose wall clock says so: clocks jump.

Digests have a table of their own, because SQLite rewrites a whole row at each update, and the bitmap of a job is
updated many times a second beside up to 256 KiB of digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.bitmap import Bitmap
from protocol.errors import ConfigError, IntegrityError
from protocol.ids import NodeId, Tag
from protocol.limits import NAMES_PER_TAG_MAX
from protocol.manifest import Manifest
from protocol.messages import JobState
from runtime.seam import Database, Runtime
from storage.jobs import Job

FORMAT = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS format (version INTEGER NOT NULL);
INSERT INTO format SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM format);

-- One row a tag, whatever became of it: 'open', 'stored', 'failed' or 'cancelled'. Times are the wall clock's.
CREATE TABLE IF NOT EXISTS jobs (
    tag BLOB PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    durable BLOB NOT NULL,
    moved_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS manifests (
    tag BLOB PRIMARY KEY REFERENCES jobs (tag) ON DELETE CASCADE,
    digests BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS claims (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    tag BLOB NOT NULL REFERENCES jobs (tag) ON DELETE CASCADE,
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (tag, node, name)
);

CREATE TABLE IF NOT EXISTS contributions (
    tag BLOB NOT NULL REFERENCES jobs (tag) ON DELETE CASCADE,
    node TEXT NOT NULL,
    bytes_pushed INTEGER NOT NULL,
    PRIMARY KEY (tag, node)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS files (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    tag BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    name TEXT NOT NULL,
    node TEXT NOT NULL,
    stored_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS files_by_name ON files (name, position);
CREATE INDEX IF NOT EXISTS files_by_tag ON files (tag, position);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Newly durable chunks of one job: the whole bitmap as it is now, and what each sender has given in all."""

    tag: Tag
    durable: Bitmap
    pushed: Mapping[NodeId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """Something stored. ``names``: those whose newest file this is, newest first; ``since`` is the wall clock's."""

    tag: Tag
    size_bytes: int
    names: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One file that was stored under a name."""

    tag: Tag
    size_bytes: int
    name: str
    node: NodeId
    stored_at: int


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job that is not stored, as it was last written, and when (wall clock)."""

    job: Job
    moved_at: int


class Ledger:
    """The database at ``DATA/ledger.db``. Every method may raise StorageFull (nothing happened) or StorageBroken."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, runtime: Runtime, path: Path) -> Ledger:
        """Open or create it.

        Raises:
            ConfigError: damaged, or written by a later version of this program.
        """
        database = await runtime.open_database(path, SCHEMA)

        def version(cursor: Any) -> int:
            return int(next(cursor.execute("SELECT version FROM format"))[0])

        found = await database.read(version)
        if found != FORMAT:
            await database.aclose()
            raise ConfigError(f"{path}: format {found}, this program reads {FORMAT}; use the version that wrote it")
        return cls(database)

    async def aclose(self) -> None:
        """Close."""
        await self._database.aclose()

    # --- jobs ---

    async def open_job(self, manifest: Manifest, node: NodeId, names: Sequence[str], now: float) -> None:
        """A job for ``manifest``, claimed by ``node``; one that ended unfinished opens again with what it had."""
        tag = manifest.tag.to_bytes()
        empty = Bitmap(manifest.layout.chunks).to_bytes()

        def work(cursor: Any) -> None:
            cursor.execute(
                "INSERT INTO jobs VALUES (?, ?, 'open', '', ?, ?) ON CONFLICT (tag) DO UPDATE"
                " SET state = 'open', reason = '', moved_at = excluded.moved_at WHERE state != 'stored'",
                (tag, manifest.size_bytes, empty, int(now)),
            )
            cursor.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?)", (tag, manifest.joined_digests()))
            for name in names:
                _claim(cursor, tag, node, name)

        await self._database.transaction(work)

    async def claim(self, tag: Tag, node: NodeId, name: str) -> None:
        """``node`` wants this under ``name`` (too)."""
        await self._database.transaction(lambda cursor: _claim(cursor, tag.to_bytes(), node, name))

    async def withdraw(self, tag: Tag, node: NodeId) -> None:
        """``node`` no longer wants this."""

        def work(cursor: Any) -> None:
            cursor.execute("DELETE FROM claims WHERE tag = ? AND node = ?", (tag.to_bytes(), node))

        await self._database.transaction(work)

    async def acknowledge(self, batch: Sequence[Acknowledgement], now: float) -> None:
        """These chunks are durable, all of them in one transaction."""

        def work(cursor: Any) -> None:
            cursor.executemany(
                "UPDATE jobs SET durable = ?, moved_at = ? WHERE tag = ? AND state = 'open'",
                [(entry.durable.to_bytes(), int(now), entry.tag.to_bytes()) for entry in batch],
            )
            cursor.executemany(
                "INSERT INTO contributions VALUES (?, ?, ?)"
                " ON CONFLICT (tag, node) DO UPDATE SET bytes_pushed = excluded.bytes_pushed",
                [(entry.tag.to_bytes(), node, count) for entry in batch for node, count in entry.pushed.items()],
            )

        await self._database.transaction(work)

    async def set_durable(self, tag: Tag, durable: Bitmap) -> None:
        """Fewer chunks are durable than was thought: some turned out rotten, or the spool file is gone."""

        def work(cursor: Any) -> None:
            cursor.execute("UPDATE jobs SET durable = ? WHERE tag = ?", (durable.to_bytes(), tag.to_bytes()))

        await self._database.transaction(work)

    async def end_job(self, tag: Tag, state: JobState, reason: str, now: float) -> None:
        """It failed or was cancelled. What is durable stays for a later put; all claims end."""
        assert state in (JobState.FAILED, JobState.CANCELLED)

        def work(cursor: Any) -> None:
            cursor.execute(
                "UPDATE jobs SET state = ?, reason = ?, moved_at = ? WHERE tag = ?",
                (state.value, reason, int(now), tag.to_bytes()),
            )
            cursor.execute("DELETE FROM claims WHERE tag = ?", (tag.to_bytes(),))

        await self._database.transaction(work)

    async def lose(self, tag: Tag, reason: str, now: float) -> None:
        """What was stored is not there any more: a failed job without chunks, until somebody puts it again."""
        none = Bitmap(tag.chunks).to_bytes()

        def work(cursor: Any) -> None:
            cursor.execute(
                "UPDATE jobs SET state = 'failed', reason = ?, durable = ?, moved_at = ? WHERE tag = ?",
                (reason, none, int(now), tag.to_bytes()),
            )

        await self._database.transaction(work)

    async def forget_job(self, tag: Tag) -> None:
        """Remove a job that ended unfinished, with all that belongs to it."""

        def work(cursor: Any) -> None:
            cursor.execute("DELETE FROM jobs WHERE tag = ? AND state IN ('failed', 'cancelled')", (tag.to_bytes(),))

        await self._database.transaction(work)

    async def jobs(self) -> list[KeptJob]:
        """Return all jobs that are not stored.

        Raises:
            ConfigError: a row cannot be; the ledger was damaged or edited.
        """

        def work(cursor: Any) -> list[KeptJob]:
            rows = list(
                cursor.execute(
                    "SELECT tag, size_bytes, state, reason, durable, moved_at, digests"
                    " FROM jobs JOIN manifests USING (tag) WHERE state != 'stored' ORDER BY tag"
                )
            )
            return [_kept(cursor, row) for row in rows]

        return await self._database.read(work)

    async def manifest(self, tag: Tag) -> Manifest | None:
        """Return the manifest of a job or of something stored."""

        def work(cursor: Any) -> Manifest | None:
            row = next(
                cursor.execute(
                    "SELECT size_bytes, digests FROM jobs JOIN manifests USING (tag) WHERE tag = ?", (tag.to_bytes(),)
                ),
                None,
            )
            return None if row is None else _manifest(tag, row[0], row[1])

        return await self._database.read(work)

    # --- what is stored ---

    async def store(self, tag: Tag, grants: Iterable[tuple[NodeId, str]], now: float) -> list[StoredFile]:
        """The job's file is in the backend: job state and names in one transaction.

        Return it and every other file that a name was taken from by this.
        """
        taken = list(grants)

        def work(cursor: Any) -> list[StoredFile]:
            key = tag.to_bytes()
            cursor.execute(
                "UPDATE jobs SET state = 'stored', reason = '', durable = ?, moved_at = ? WHERE tag = ?",
                (Bitmap.full(tag.chunks).to_bytes(), int(now), key),
            )
            cursor.execute("DELETE FROM claims WHERE tag = ?", (key,))
            changed = {key}
            for node, name in taken:
                changed |= _name(cursor, key, node, name, int(now))
            return _stored(cursor, sorted(changed))

        return await self._database.transaction(work)

    async def add_name(self, tag: Tag, node: NodeId, name: str, now: float) -> list[StoredFile]:
        """``node`` proved that it has what is stored as ``tag`` and wants this name for it. Returns as ``store``."""

        def work(cursor: Any) -> list[StoredFile]:
            changed = {tag.to_bytes()} | _name(cursor, tag.to_bytes(), node, name, int(now))
            return _stored(cursor, sorted(changed))

        return await self._database.transaction(work)

    async def stored(self) -> list[StoredFile]:
        """Return everything stored, by tag."""

        def work(cursor: Any) -> list[StoredFile]:
            keys = [row[0] for row in cursor.execute("SELECT tag FROM jobs WHERE state = 'stored' ORDER BY tag")]
            return _stored(cursor, keys)

        return await self._database.read(work)

    async def versions(self, name: str) -> list[Version]:
        """Return every file that was stored under ``name``, newest first."""

        def work(cursor: Any) -> list[Version]:
            rows = cursor.execute(
                "SELECT tag, size_bytes, name, node, stored_at FROM files WHERE name = ? ORDER BY position DESC",
                (name,),
            )
            return [
                Version(tag=Tag.from_bytes(key), size_bytes=size, name=word, node=NodeId(node), stored_at=at)
                for key, size, word, node, at in rows
            ]

        return await self._database.read(work)


def _claim(cursor: Any, key: bytes, node: NodeId, name: str) -> None:
    cursor.execute("INSERT OR IGNORE INTO claims (tag, node, name) VALUES (?, ?, ?)", (key, node, name))


def _name(cursor: Any, key: bytes, node: NodeId, name: str, now: int) -> set[bytes]:
    """Make ``key`` the newest file of ``name``; return the keys whose names changed by that."""
    if not name:
        return set()
    newest = next(
        cursor.execute("SELECT position, tag FROM files WHERE name = ? ORDER BY position DESC LIMIT 1", (name,)), None
    )
    if newest is not None and newest[1] == key:
        # The same file put again under the same name is no new version, only newer.
        cursor.execute("UPDATE files SET stored_at = ?, node = ? WHERE position = ?", (now, node, newest[0]))
        return {key}
    cursor.execute(
        "INSERT INTO files (tag, size_bytes, name, node, stored_at)"
        " SELECT tag, size_bytes, ?, ?, ? FROM jobs WHERE tag = ?",
        (name, node, now, key),
    )
    return {key} if newest is None else {key, newest[1]}


def _stored(cursor: Any, keys: Sequence[bytes]) -> list[StoredFile]:
    found = []
    for key in keys:
        row = next(
            cursor.execute("SELECT size_bytes, moved_at FROM jobs WHERE tag = ? AND state = 'stored'", (key,)), None
        )
        if row is None:
            continue
        names = list(
            cursor.execute(
                "SELECT name, stored_at FROM files AS mine WHERE tag = ? AND NOT EXISTS"
                " (SELECT 1 FROM files AS newer WHERE newer.name = mine.name AND newer.position > mine.position)"
                " ORDER BY stored_at DESC, position DESC LIMIT ?",
                (key, NAMES_PER_TAG_MAX),
            )
        )
        found.append(
            StoredFile(
                tag=Tag.from_bytes(key),
                size_bytes=row[0],
                names=tuple(name for name, _ in names),
                since=max([row[1], *(at for _, at in names)]),
            )
        )
    return found


def _kept(cursor: Any, row: tuple[bytes, int, str, str, bytes, int, bytes]) -> KeptJob:
    key, size_bytes, state, reason, durable, moved_at, digests = row
    tag = Tag.from_bytes(key)
    claims = cursor.execute("SELECT node, name FROM claims WHERE tag = ? ORDER BY position", (key,))
    named = [(NodeId(node), name) for node, name in claims]
    pushed = cursor.execute("SELECT node, bytes_pushed FROM contributions WHERE tag = ? ORDER BY node", (key,))
    given = {NodeId(node): count for node, count in pushed}
    try:
        chunks = Bitmap.from_bytes(tag.chunks, durable)
        known = JobState(state)
    except ValueError as error:
        raise ConfigError(f"ledger: the job of {tag} cannot be read ({error}); restore the ledger") from error
    job = Job(
        _manifest(tag, size_bytes, digests), state=known, reason=reason, durable=chunks, claims=named, pushed=given
    )
    return KeptJob(job, moved_at)


def _manifest(tag: Tag, size_bytes: int, digests: bytes) -> Manifest:
    try:
        return Manifest.checked(tag, size_bytes, digests)
    except IntegrityError as error:
        raise ConfigError(f"ledger: {error}; restore the ledger") from error
