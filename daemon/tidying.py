"""What is removed from the records when a daemon starts: rows that nobody needs any more.

Decides only that it may wait: where the disk is full nothing can be removed from a database either, and a daemon that
cannot start can tell nobody so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from protocol.errors import StorageFull
from runtime.seam import Database

log = structlog.get_logger()


async def tidy(database: Database, work: Callable[[Any], None]) -> None:
    """Run ``work(cursor)`` in a transaction; leave it to the next start when there is no room."""
    try:
        await database.transaction(work)
    except StorageFull as error:
        log.warning("records not tidied up", reason=str(error))
