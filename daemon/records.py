"""The daemon's durable records: one SQLite database, opened here, with the tables of library, puts, gets and limits.

Each table's rows are read and written only by the file named beside it. Paths are stored as bytes: on Unix they are.
"""

from __future__ import annotations

from pathlib import Path

from daemon.watching import SCHEMA as WATCH_SCHEMA
from runtime.seam import Database, Runtime

DATABASE_NAME = "daemon.db"

SCHEMA = """
-- library.py: complete files by path, and what identified each when it was hashed. origin: put, share, get.
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY,
    tag BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    device INTEGER NOT NULL,
    name TEXT NOT NULL,
    origin TEXT NOT NULL,
    shared INTEGER NOT NULL,
    since INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_tag ON files (tag);
-- library.py: manifests of whatever we hold or fetch.
CREATE TABLE IF NOT EXISTS manifests (
    tag BLOB PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    digests BLOB NOT NULL
);
-- puts.py: every put until it is forgotten; storage is the node that has the job, with its addresses.
CREATE TABLE IF NOT EXISTS puts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL,
    name TEXT NOT NULL,
    tag BLOB,
    state TEXT NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0,
    instant INTEGER NOT NULL DEFAULT 0,
    storage TEXT,
    error TEXT,
    error_code TEXT,
    error_exit INTEGER,
    began INTEGER NOT NULL,
    seconds REAL
);
-- puts.py: how long the names of some of them shall hold.
CREATE TABLE IF NOT EXISTS put_terms (
    id INTEGER PRIMARY KEY REFERENCES puts (id) ON DELETE CASCADE,
    expires_seconds INTEGER NOT NULL
);
-- gets.py: downloads; bitmap says which chunks of part were durable when it was written.
CREATE TABLE IF NOT EXISTS gets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tag BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    name TEXT NOT NULL,
    target BLOB NOT NULL,
    part BLOB NOT NULL,
    bitmap BLOB NOT NULL,
    state TEXT NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    error_code TEXT,
    error_exit INTEGER,
    began INTEGER NOT NULL,
    seconds REAL
);
-- settings.py: what was changed while running and must survive: caps, pause.
CREATE TABLE IF NOT EXISTS settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
"""


async def open_records(runtime: Runtime, folder: Path) -> Database:
    """Open or create the database in ``folder``.

    Raises:
        ConfigError: it is damaged.
    """
    await runtime.run_sync(runtime.disk.make_folder, folder)
    return await runtime.open_database(folder / DATABASE_NAME, SCHEMA + WATCH_SCHEMA)
