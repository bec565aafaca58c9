"""Notices of the operating system that something changed below a folder (watchfiles: inotify, FSEvents, and so on).

Only says when to look, never what is there: notices are merged, late, or missing altogether on network file systems.
Loaded only when a folder is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import trio

log = structlog.get_logger()

TRY_AGAIN_SECONDS = 30.0
DEBOUNCE_MS = 500


async def observe(folders: Sequence[Path], wake: Callable[[], None]) -> None:
    """Call ``wake`` whenever something may have changed below one of ``folders``, until cancelled."""
    import watchfiles

    while True:
        there = [folder for folder in folders if folder.is_dir()]
        if there:
            try:
                async for _ in watchfiles.awatch(*there, watch_filter=None, debounce=DEBOUNCE_MS):
                    wake()
            # No more watches to be had, a folder that went away: whoever watches looks by itself once in a while.
            # Or somebody gave a file a name that is no UTF-8, which watchfiles cannot tell of.
            # In a group, too: watchfiles looks in a task of its own.
            except* (OSError, RuntimeError) as errors:
                log.warning("no notices of changes", reason="; ".join(map(str, errors.exceptions)))
                wake()
        await trio.sleep(TRY_AGAIN_SECONDS)
