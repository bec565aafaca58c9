"""Files and their tags: tag and verify, which need no daemon; check, which looks at what the daemon holds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from protocol.errors import IntegrityError
from protocol.ids import Tag
from upswarm.console import TYPED_PATH, Console, verb
from upswarm.hashing import manifest_of
from upswarm.text import shown, table


@click.command(name="tag")
@click.argument("path", type=TYPED_PATH)
@verb
def show_tag(console: Console, path: Path) -> None:
    """Compute the tag of a file. Needs no daemon."""
    begin = time.monotonic()
    with _bar() as progress:
        manifest = manifest_of(path, progress)
    answer = {
        "tag": str(manifest.tag),
        "size": manifest.size_bytes,
        "name": path.name,
        "chunks": manifest.layout.chunks,
        "chunk_bytes": manifest.layout.chunk_bytes,
        "seconds": round(time.monotonic() - begin, 3),
    }
    console.give(answer, lambda data: str(data["tag"]))


@click.command()
@click.argument("path", type=TYPED_PATH)
@click.argument("wanted", metavar="TAG|LINK")
@verb
def verify(console: Console, path: Path, wanted: str) -> None:
    """Check that a file has this tag. Needs no daemon; exit code 8 when it has another.

    With the link of a sealed file: that PATH, sealed with its key, is what the link names.
    """
    tag, key = parse_tag(wanted)
    if key is None:
        with _bar() as progress:
            found = manifest_of(path, progress).tag
    else:
        from upswarm.sealing import sealed_tag_of

        found = sealed_tag_of(path, key)
    if found != tag:
        raise IntegrityError(f"{path}: has the tag {found}, not {tag}")
    console.give({"verified": True, "tag": str(tag), "path": str(path)}, lambda data: f"ok  {shown(data['path'])}")


def parse_tag(text: str) -> tuple[Tag, bytes | None]:
    """Return the tag of a tag or link, and the link's key.

    Raises:
        click.UsageError: it is neither.
    """
    from protocol.invite import LINK_SCHEME, Link

    try:
        if not text.startswith(f"{LINK_SCHEME}:"):
            return Tag.parse(text), None
        link = Link.parse(text)
        return link.tag, link.key
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@click.command()
@click.argument("tag", required=False)
@verb
def check(console: Console, tag: str | None) -> None:
    """Read what the daemon holds again, and compare it with its digests."""
    with console.client() as daemon:
        answer: Any = daemon.call("check", {} if tag is None else {"tag": tag}, seconds_max=None)
    console.give(
        answer,
        lambda data: table(
            [["ok" if one["ok"] else "ROTTEN", one["path"], one["says"]] for one in data["files"]], ("", "path", "")
        ),
    )
    if not answer["ok"]:
        sys.exit(IntegrityError.exit_code)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """Show how far the hashing is, when there is somebody to see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    with Progress(console=RichConsole(stderr=True), transient=True) as progress:
        task = progress.add_task("hashing", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


VERBS = (show_tag, verify, check)
