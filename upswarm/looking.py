"""Looking at the swarm without changing it: ls, show, status, peers, storage-nodes, events."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from runtime.places import PROGRAMS
from upswarm.console import Console, as_json, verb
from upswarm.text import cell_text, moment_text, records, report, shown, table, value_text

if TYPE_CHECKING:
    from upswarm.client import Client

WATCH_SECONDS = 1.0


@click.command(name="ls")
@click.option("--stored", is_flag=True, help="Only what storage nodes have.")
@click.option("--local", is_flag=True, help="Only what this machine has.")
@verb
def list_files(console: Console, stored: bool, local: bool) -> None:
    """List files: tag, size, name."""
    client, program = console.any_client("daemon", "storage")
    with client:
        answer = client.call("ls", {"stored": stored, "local": local} if program == "daemon" else {})
    console.give(answer, _listing)
    if isinstance(answer, dict) and answer.get("tracker") == "away":
        console.note("the tracker is not connected: only what this machine has is listed")


def _listing(data: Any) -> str:
    """Return ``ls`` with tag, size and name in front, whatever else the program says about a file."""
    files = data.get("files") if isinstance(data, dict) else data
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        return report(data)
    first = [key for key in ("tag", "size", "name", "state") if any(key in file for file in files)]
    more = dict.fromkeys(key for file in files for key in file if key not in (*first, "names"))
    heads = [*first, *more]
    return table([[cell_text(head, file.get(head)) for head in heads] for file in files], heads)


@click.command()
@click.argument("what", metavar="TAG|NAME|LINK")
@verb
def show(console: Console, what: str) -> None:
    """Show one file: its chunks, who holds it, its transfers."""
    with console.client() as daemon:
        console.give(daemon.call("show", {"tag": what}))


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@click.option("--of", "program", type=click.Choice(PROGRAMS), help="Whose; the first that runs here when not given.")
@verb
def status(console: Console, watch: bool, program: str | None) -> None:
    """Show what the daemon (or the storage node, or the tracker) of this machine is doing."""
    client = console.client(program) if program else console.any_client(*PROGRAMS)[0]
    with client:
        answer = client.status()
        if not watch or console.as_json or answer.get("program") != "daemon":
            console.give(answer)
            while watch:
                time.sleep(WATCH_SECONDS)
                console.give(client.status())
                sys.stdout.flush()
        elif sys.stdout.isatty():
            _watch_on_a_terminal(client, answer)
        else:
            _watch_in_lines(client, answer)


def _watch_on_a_terminal(client: Client, answer: dict[str, Any]) -> None:
    """Paint the daemon's state over itself until Ctrl-C."""
    import shutil

    from upswarm.painting import daemon_view

    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    before: dict[str, Any] | None = None
    seen_at = time.monotonic()
    while True:
        size = shutil.get_terminal_size()
        now = time.monotonic()
        lines = daemon_view(answer, before, now - seen_at, size.columns - 1, colour=colour)[: max(1, size.lines - 1)]
        before, seen_at = answer, now
        # Each line ends what was there before it, and the last one everything below: nothing flickers.
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
        answer = client.status()


def _watch_in_lines(client: Client, answer: dict[str, Any]) -> None:
    """Tell what moves, a line for each change and every other second, until Ctrl-C."""
    from upswarm.progress import Lines

    lines = Lines(sys.stdout, {str(answer.get("node")): "this machine"})
    while True:
        for transfer in [*answer.get("puts", []), *answer.get("gets", [])]:
            lines.notice("progress", transfer)
        time.sleep(WATCH_SECONDS)
        answer = client.status()


@click.command()
@verb
def peers(console: Console) -> None:
    """List the nodes this daemon is linked to, or sees on the LAN."""
    with console.client() as daemon:
        console.give(daemon.call("peers"))


@click.command(name="storage-nodes")
@verb
def storage_nodes(console: Console) -> None:
    """List the storage nodes and their room."""
    with console.client() as daemon:
        console.give(daemon.call("storage_nodes"), records)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@verb
def events(console: Console, follow: bool) -> None:
    """Tell what happened, one line each, oldest first."""

    def notice(method: str, params: dict[str, Any]) -> None:
        if method == "event":
            click.echo(as_json(params) if console.as_json else event_text(params))

    with console.client() as daemon:
        answer = daemon.events(notice, follow=follow)
        for event in answer.get("events", []) if isinstance(answer, dict) else answer or []:
            notice("event", event)


def event_text(event: dict[str, Any]) -> str:
    """Return an event as a line: when, what, and its fields."""
    fields = dict(event)
    when = fields.pop("time", fields.pop("at", None))
    what = fields.pop("event", fields.pop("kind", "event"))
    moment = moment_text(when) if isinstance(when, int | float) else shown(when or "")
    rest = " ".join(f"{shown(key)}={value_text(key, value)}" for key, value in fields.items())
    return f"{moment} {shown(what)} {rest}".strip()


VERBS = (list_files, show, status, peers, storage_nodes, events)
