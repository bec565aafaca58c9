"""The ledger of one storage node: SQLite behind the seam, WAL and synchronous=FULL. A file, nothing to install."""

from __future__ import annotations

from pathlib import Path

from runtime.seam import Runtime
from storage.ledger.sql import SCHEMA, SqlLedger

_TYPES = {
    "bytes": "BLOB",
    "number": "INTEGER",
    "position": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "clustered": " WITHOUT ROWID",
}


class SqliteLedger(SqlLedger):
    """The database at ``DATA/ledger.db``."""

    @classmethod
    async def open(cls, runtime: Runtime, path: Path) -> SqliteLedger:
        """Open or create it.

        Raises:
            ConfigError: damaged, or written by a later version of this program.
        """
        ledger = cls(await runtime.open_database(path, SCHEMA.format(**_TYPES)))
        await ledger._check_format(str(path))
        return ledger
