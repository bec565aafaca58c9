"""A ledger in SQL that SQLite and PostgreSQL both understand: written once, so that both keep the same laws (base.py).

The common ground, for whoever adds a statement: placeholders are ``?``; bytes, text and whole numbers only; ON CONFLICT
instead of OR IGNORE; nothing about the types' names outside SCHEMA, which each ledger fills in. Transactions are
serializable in both, so ``work`` may read and then write; it may be run again, so it has no other effects.

Digests have a table of their own, because both databases rewrite a whole row at each update, and the bitmap of a job is
updated many times a second beside up to 256 KiB of digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protocol.bitmap import Bitmap
from protocol.errors import ConfigError, IntegrityError
from protocol.ids import NodeId, Tag
from protocol.limits import NAMES_PER_TAG_MAX
from protocol.manifest import Manifest
from protocol.messages import JobState
from runtime.seam import Database
from storage.jobs import Job
from storage.ledger.base import Acknowledgement, Changes, KeptJob, KeptUpload, StoredFile, Version
from storage.ledger.keeping import KEEPING_SCHEMA, KeepingSql, note_stored

FORMAT = 1

# {bytes} is the type of byte strings, {number} of whole numbers, {position} of a key that counts up by itself.
SCHEMA = """
CREATE TABLE IF NOT EXISTS format (version {number} NOT NULL);
INSERT INTO format SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM format);

-- One row a tag, whatever became of it: 'open', 'stored', 'failed' or 'cancelled'. Times are the wall clock's.
CREATE TABLE IF NOT EXISTS jobs (
    tag {bytes} PRIMARY KEY,
    size_bytes {number} NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    durable {bytes} NOT NULL,
    moved_at {number} NOT NULL
){clustered};

CREATE TABLE IF NOT EXISTS manifests (
    tag {bytes} PRIMARY KEY REFERENCES jobs (tag) ON DELETE CASCADE,
    digests {bytes} NOT NULL
);

-- What the store has begun for a job, and which durable chunks are there alone.
CREATE TABLE IF NOT EXISTS uploads (
    tag {bytes} PRIMARY KEY REFERENCES jobs (tag) ON DELETE CASCADE,
    upload TEXT NOT NULL,
    apart {bytes} NOT NULL
);

CREATE TABLE IF NOT EXISTS claims (
    position {position},
    tag {bytes} NOT NULL REFERENCES jobs (tag) ON DELETE CASCADE,
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (tag, node, name)
);

CREATE TABLE IF NOT EXISTS contributions (
    tag {bytes} NOT NULL REFERENCES jobs (tag) ON DELETE CASCADE,
    node TEXT NOT NULL,
    bytes_pushed {number} NOT NULL,
    PRIMARY KEY (tag, node)
){clustered};

CREATE TABLE IF NOT EXISTS files (
    position {position},
    tag {bytes} NOT NULL,
    size_bytes {number} NOT NULL,
    name TEXT NOT NULL,
    node TEXT NOT NULL,
    stored_at {number} NOT NULL
);
CREATE INDEX IF NOT EXISTS files_by_name ON files (name, position);
CREATE INDEX IF NOT EXISTS files_by_tag ON files (tag, position);
"""
SCHEMA += KEEPING_SCHEMA


class SqlLedger(KeepingSql):
    """``database`` has the tables of SCHEMA. See base.py for what each method promises.

    What is written about a job begins with ``_fence``; here, where there is nobody else, it lets all pass.
    """

    shared = False

    def __init__(self, database: Database) -> None:
        self._database = database

    def _files(self, cursor: Any, keys: Sequence[bytes]) -> list[StoredFile]:
        return stored_files(cursor, keys)

    def _fence(self, cursor: Any, tag: Tag) -> None:
        """Raise ``LeaseLost`` when ``tag``'s job is not this process's own."""

    async def _check_format(self, where: str) -> None:
        """Close and refuse a ledger that a later version of this program wrote."""

        def version(cursor: Any) -> int:
            return int(next(cursor.execute("SELECT version FROM format"))[0])

        found = await self._database.read(version)
        if found != FORMAT:
            await self._database.aclose()
            raise ConfigError(f"{where}: format {found}, this program reads {FORMAT}; use the version that wrote it")

    async def aclose(self) -> None:
        await self._database.aclose()

    # --- jobs ---

    async def open_job(self, manifest: Manifest, node: NodeId, names: Sequence[str], now: float) -> None:
        await self._database.transaction(lambda cursor: self.write_open_job(cursor, manifest, node, names, now))

    def write_open_job(self, cursor: Any, manifest: Manifest, node: NodeId, names: Sequence[str], now: float) -> None:
        """What ``open_job`` writes."""
        tag = manifest.tag.to_bytes()
        empty = Bitmap(manifest.layout.chunks).to_bytes()
        cursor.execute(
            "INSERT INTO jobs VALUES (?, ?, 'open', '', ?, ?) ON CONFLICT (tag) DO UPDATE"
            " SET state = 'open', reason = '', moved_at = excluded.moved_at, size_bytes = excluded.size_bytes"
            " WHERE jobs.state != 'stored'",
            (tag, manifest.size_bytes, empty, int(now)),
        )
        cursor.execute("INSERT INTO manifests VALUES (?, ?) ON CONFLICT DO NOTHING", (tag, manifest.joined_digests()))
        for name in names:
            _claim(cursor, tag, node, name)

    async def claim(self, tag: Tag, node: NodeId, name: str) -> None:
        def work(cursor: Any) -> None:
            self._fence(cursor, tag)
            _claim(cursor, tag.to_bytes(), node, name)

        await self._database.transaction(work)

    async def withdraw(self, tag: Tag, node: NodeId) -> None:
        def work(cursor: Any) -> None:
            self._fence(cursor, tag)
            cursor.execute("DELETE FROM claims WHERE tag = ? AND node = ?", (tag.to_bytes(), node))

        await self._database.transaction(work)

    async def acknowledge(self, batch: Sequence[Acknowledgement], now: float) -> None:
        def work(cursor: Any) -> None:
            for entry in batch:
                self._fence(cursor, entry.tag)
            cursor.executemany(
                "UPDATE jobs SET durable = ?, moved_at = ? WHERE tag = ? AND state = 'open'",
                [(entry.durable.to_bytes(), int(now), entry.tag.to_bytes()) for entry in batch],
            )
            cursor.executemany(
                "INSERT INTO contributions VALUES (?, ?, ?)"
                " ON CONFLICT (tag, node) DO UPDATE SET bytes_pushed = excluded.bytes_pushed",
                [(entry.tag.to_bytes(), node, count) for entry in batch for node, count in entry.pushed.items()],
            )
            cursor.executemany(
                "UPDATE uploads SET apart = ? WHERE tag = ?",
                [(entry.apart.to_bytes(), entry.tag.to_bytes()) for entry in batch if entry.apart is not None],
            )

        await self._database.transaction(work)

    async def set_upload(self, tag: Tag, upload: str) -> None:
        none = Bitmap(tag.chunks).to_bytes()

        def work(cursor: Any) -> None:
            self._fence(cursor, tag)
            cursor.execute(
                "INSERT INTO uploads VALUES (?, ?, ?)"
                " ON CONFLICT (tag) DO UPDATE SET upload = excluded.upload, apart = excluded.apart",
                (tag.to_bytes(), upload, none),
            )

        await self._database.transaction(work)

    async def drop_upload(self, tag: Tag) -> None:
        def work(cursor: Any) -> None:
            self._fence(cursor, tag)
            cursor.execute("DELETE FROM uploads WHERE tag = ?", (tag.to_bytes(),))

        await self._database.transaction(work)

    async def uploads(self) -> dict[Tag, str]:
        def work(cursor: Any) -> dict[Tag, str]:
            rows = cursor.execute("SELECT tag, upload FROM uploads ORDER BY tag")
            return {Tag.from_bytes(key): upload for key, upload in rows}

        return await self._database.read(work)

    async def set_durable(self, tag: Tag, durable: Bitmap) -> None:
        def work(cursor: Any) -> None:
            self._fence(cursor, tag)
            cursor.execute("UPDATE jobs SET durable = ? WHERE tag = ?", (durable.to_bytes(), tag.to_bytes()))

        await self._database.transaction(work)

    async def end_job(self, tag: Tag, state: JobState, reason: str, now: float) -> None:
        assert state in (JobState.FAILED, JobState.CANCELLED)

        def work(cursor: Any) -> None:
            self._fence(cursor, tag)
            cursor.execute(
                "UPDATE jobs SET state = ?, reason = ?, moved_at = ? WHERE tag = ?",
                (state.value, reason, int(now), tag.to_bytes()),
            )
            cursor.execute("DELETE FROM claims WHERE tag = ?", (tag.to_bytes(),))

        await self._database.transaction(work)

    async def lose(self, tag: Tag, reason: str, now: float) -> None:
        none = Bitmap(tag.chunks).to_bytes()

        def work(cursor: Any) -> None:
            cursor.execute(
                "UPDATE jobs SET state = 'failed', reason = ?, durable = ?, moved_at = ? WHERE tag = ?",
                (reason, none, int(now), tag.to_bytes()),
            )

        await self._database.transaction(work)

    async def forget_job(self, tag: Tag) -> None:
        def work(cursor: Any) -> None:
            self._fence(cursor, tag)
            cursor.execute("DELETE FROM jobs WHERE tag = ? AND state IN ('failed', 'cancelled')", (tag.to_bytes(),))

        await self._database.transaction(work)

    async def jobs(self) -> list[KeptJob]:
        def work(cursor: Any) -> list[KeptJob]:
            return kept_jobs(cursor, "TRUE", ())

        return await self._database.read(work)

    async def manifest(self, tag: Tag) -> Manifest | None:
        def work(cursor: Any) -> Manifest | None:
            row = next(
                cursor.execute(
                    "SELECT size_bytes, digests FROM jobs JOIN manifests USING (tag) WHERE tag = ?", (tag.to_bytes(),)
                ),
                None,
            )
            return None if row is None else _manifest(tag, row[0], row[1])

        return await self._database.read(work)

    # --- shared with other nodes: there are none ---

    async def beat(self) -> None:
        """Nobody looks."""

    async def orphans(self) -> list[Tag]:
        return []

    async def take(self, tag: Tag) -> KeptJob | None:
        def work(cursor: Any) -> KeptJob | None:
            return next(iter(kept_jobs(cursor, "jobs.tag = ?", (tag.to_bytes(),))), None)

        return await self._database.read(work)

    async def changes(self, mark: str) -> Changes:
        return Changes("", [], [])

    # --- what is stored ---

    async def store(self, tag: Tag, grants: Iterable[tuple[NodeId, str]], now: float) -> list[StoredFile]:
        taken = list(grants)
        return await self._database.transaction(lambda cursor: self.write_stored(cursor, tag, taken, now))

    def write_stored(self, cursor: Any, tag: Tag, grants: Sequence[tuple[NodeId, str]], now: float) -> list[StoredFile]:
        """What ``store`` writes."""
        self._fence(cursor, tag)
        key = tag.to_bytes()
        cursor.execute(
            "UPDATE jobs SET state = 'stored', reason = '', durable = ?, moved_at = ? WHERE tag = ?",
            (Bitmap.full(tag.chunks).to_bytes(), int(now), key),
        )
        cursor.execute("DELETE FROM claims WHERE tag = ?", (key,))
        cursor.execute("DELETE FROM uploads WHERE tag = ?", (key,))
        note_stored(cursor, key)
        changed = {key}
        for node, name in grants:
            changed |= _name(cursor, key, node, name, int(now))
        return stored_files(cursor, sorted(changed))

    async def add_name(self, tag: Tag, node: NodeId, name: str, now: float) -> list[StoredFile]:
        def work(cursor: Any) -> list[StoredFile]:
            changed = {tag.to_bytes()} | _name(cursor, tag.to_bytes(), node, name, int(now))
            return stored_files(cursor, sorted(changed))

        return await self._database.transaction(work)

    async def file(self, tag: Tag) -> StoredFile | None:
        def work(cursor: Any) -> StoredFile | None:
            return next(iter(stored_files(cursor, [tag.to_bytes()])), None)

        return await self._database.read(work)

    async def stored(self) -> list[StoredFile]:
        def work(cursor: Any) -> list[StoredFile]:
            keys = [row[0] for row in cursor.execute("SELECT tag FROM jobs WHERE state = 'stored' ORDER BY tag")]
            return stored_files(cursor, keys)

        return await self._database.read(work)

    async def versions(self, name: str) -> list[Version]:
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
    cursor.execute("INSERT INTO claims (tag, node, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (key, node, name))


def _name(cursor: Any, key: bytes, node: NodeId, name: str, now: int) -> set[bytes]:
    """Make ``key`` the newest file of ``name``; return the keys whose names changed by that."""
    if not name:
        return set()
    newest = next(
        cursor.execute(
            "SELECT position, tag, stored_at FROM files WHERE name = ? ORDER BY position DESC LIMIT 1", (name,)
        ),
        None,
    )
    if newest is not None and newest[1] == key:
        # The same file put again under the same name is no new version, only newer.
        cursor.execute(
            "UPDATE files SET stored_at = ?, node = ? WHERE position = ?", (max(now, newest[2]), node, newest[0])
        )
        cursor.execute("DELETE FROM terms WHERE position = ?", (newest[0],))
        return {key}
    if newest is not None:
        # Later by its date, too: a tracker that compares dates must not take two puts of one second for equal.
        now = max(now, newest[2] + 1)
    cursor.execute(
        "INSERT INTO files (tag, size_bytes, name, node, stored_at)"
        " SELECT tag, size_bytes, ?, ?, ? FROM jobs WHERE tag = ?",
        (name, node, now, key),
    )
    return {key} if newest is None else {key, newest[1]}


def stored_files(cursor: Any, keys: Sequence[bytes]) -> list[StoredFile]:
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


def kept_jobs(cursor: Any, condition: str, values: Sequence[Any]) -> list[KeptJob]:
    """Return the jobs that are not stored and of which ``condition`` (our own text, never a stranger's) is true."""
    rows = list(
        cursor.execute(
            "SELECT jobs.tag, size_bytes, state, reason, durable, moved_at, digests, upload, apart FROM jobs"
            " JOIN manifests ON manifests.tag = jobs.tag LEFT JOIN uploads ON uploads.tag = jobs.tag"
            f" WHERE state != 'stored' AND {condition} ORDER BY jobs.tag",
            values,
        )
    )
    return [_kept(cursor, row) for row in rows]


def _kept(cursor: Any, row: tuple[Any, ...]) -> KeptJob:
    key, size_bytes, state, reason, durable, moved_at, digests, upload, apart = row
    tag = Tag.from_bytes(key)
    claims = cursor.execute("SELECT node, name FROM claims WHERE tag = ? ORDER BY position", (key,))
    named = [(NodeId(node), name) for node, name in claims]
    pushed = cursor.execute("SELECT node, bytes_pushed FROM contributions WHERE tag = ? ORDER BY node", (key,))
    given = {NodeId(node): count for node, count in pushed}
    try:
        chunks = Bitmap.from_bytes(tag.chunks, durable)
        known = JobState(state)
        begun = None if upload is None else KeptUpload(upload, Bitmap.from_bytes(tag.chunks, apart))
    except ValueError as error:
        raise ConfigError(f"ledger: the job of {tag} cannot be read ({error}); restore the ledger") from error
    job = Job(
        _manifest(tag, size_bytes, digests), state=known, reason=reason, durable=chunks, claims=named, pushed=given
    )
    return KeptJob(job, moved_at, begun)


def _manifest(tag: Tag, size_bytes: int, digests: bytes) -> Manifest:
    try:
        return Manifest.checked(tag, size_bytes, digests)
    except IntegrityError as error:
        raise ConfigError(f"ledger: {error}; restore the ledger") from error
