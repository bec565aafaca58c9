"""What whoever operates a storage node may ask of it by its control socket: looking, removing, terms, scrubs.

Who may open the socket may do all of this (docs/commands.md#control-socket). What members may remove comes over their
links, to the desk.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from protocol.errors import CommandError
from protocol.ids import Tag
from protocol.invite import LINK_SCHEME, Link
from runtime.control import Handler
from storage.keeping.keeper import Removed
from storage.statistics import file_to_json, job_to_json, status_to_json

if TYPE_CHECKING:
    from storage.app import StorageNode


def meant(text: Any) -> Tag | str:
    """Return the tag of a tag or link; anything else is a name.

    Raises:
        CommandError: it is no text, or empty.
    """
    if not isinstance(text, str) or not text:
        raise CommandError("bad-request", "say what: a tag, a link or a name", 2)
    try:
        return Link.parse(text).tag if text.startswith(f"{LINK_SCHEME}:") else Tag.parse(text)
    except ValueError:
        return text


def removed_to_json(removed: Removed) -> dict[str, Any]:
    """Return what became of a removal as the control socket tells it."""
    return {"removed": [str(tag) for tag in removed.tags], "kept": [str(tag) for tag in removed.kept]}


def methods_of(node: StorageNode) -> dict[str, Handler]:
    """Return handlers by method."""

    async def status(_params: dict[str, Any], _notify: Any) -> Any:
        return status_to_json(node.statistics())

    async def list_files(_params: dict[str, Any], _notify: Any) -> Any:
        jobs = [job_to_json(live) for live in node.statistics().jobs]
        return {"files": [file_to_json(file) for file in node.shelf.stored.values()] + jobs}

    async def version(_params: dict[str, Any], _notify: Any) -> Any:
        return {"program": "storage", "version": metadata.version("upswarm")}

    async def remove(params: dict[str, Any], _notify: Any) -> Any:
        return removed_to_json(await node.keeper.remove(meant(params.get("what")), None))

    async def keep(params: dict[str, Any], _notify: Any) -> Any:
        name, seconds = meant(params.get("what")), params.get("seconds")
        if isinstance(name, Tag):
            raise CommandError("bad-request", "terms are of names: say a name", 2)
        if seconds is not None and (not isinstance(seconds, int | float) or not seconds > 0):
            raise CommandError("bad-request", "seconds: a number above zero, or none for ever", 2)
        tag = await node.tag_of(name)
        await node.keeper.keep(tag, name, None, seconds)
        return {"name": name, "tag": str(tag), "seconds": seconds}

    async def scrub(params: dict[str, Any], _notify: Any) -> Any:
        if params.get("what") is not None:
            tag = await node.tag_of(meant(params["what"]))
            rotten = await node.scrubber.scrub(tag)
            return {"tag": str(tag), "chunks": tag.chunks, "rotten": rotten}
        begun = node.scrubber.scrub_all() if params.get("now") else None
        told = {"begun": begun} if begun is not None else {}
        return {**told, **asdict(node.scrubber.statistics())}

    return {"status": status, "ls": list_files, "version": version, "rm": remove, "keep": keep, "scrub": scrub}
