"""Watched folders: add, list, remove. The daemon watches; docs/commands.md#watched-folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from upswarm.client import absolute
from upswarm.console import TYPED_PATH, Console, verb
from upswarm.text import cell_text, table


@click.group(name="watch")
def watch() -> None:
    """Put what appears in a folder, as soon as it has stopped changing."""


@watch.command()
@click.argument("path", type=TYPED_PATH)
@verb
def add(console: Console, path: Path) -> None:
    """Watch a folder, also after a restart. What lies there already is put, too."""
    with console.client() as daemon:
        console.give(daemon.call("watch_add", {"path": absolute(path)}), _folders_text)


@watch.command(name="list")
@verb
def list_watched(console: Console) -> None:
    """List watched folders, and how much of each is done."""
    with console.client() as daemon:
        console.give(daemon.call("watch_list"), _folders_text)


@watch.command()
@click.argument("path", type=TYPED_PATH)
@verb
def remove(console: Console, path: Path) -> None:
    """Watch a folder no longer; files and puts stay as they are."""
    with console.client() as daemon:
        console.give(daemon.call("watch_remove", {"path": absolute(path)}), _folders_text)


def _folders_text(data: Any) -> str:
    heads = ("path", "done", "putting", "settling", "trouble")
    return table([[cell_text(head, folder.get(head)) for head in heads] for folder in data["folders"]], heads)


VERBS = (watch,)
