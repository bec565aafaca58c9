"""What tests of whole uploads into a storage node look at: its files on the disk, and what it asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from protocol.ids import Tag
from protocol.limits import MIB
from support.storage_node import Site, Uploader, manifest_of, some_bytes

DATA = some_bytes(5 * MIB + 77)
TAG = manifest_of(DATA).tag


def object_of(site: Site, tag: Tag = TAG) -> Path:
    """Return where a stored file's bytes lie."""
    return site.data / "objects" / str(tag)[:2] / str(tag)


def spool_of(site: Site, tag: Tag = TAG) -> Path:
    """Return where the chunks of an upload lie until it is stored."""
    return site.data / "spool" / str(tag)


def asked(uploader: Uploader) -> set[int]:
    """Return the chunks of which blocks were requested."""
    return {chunk for _, chunk, _ in uploader.requests}


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until ``condition()``. Virtual time."""
    with trio.fail_after(120):
        while True:
            if condition():
                return
            await trio.sleep(0.05)
