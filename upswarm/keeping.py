"""What becomes of stored files: rm, keep, scrub. A storage node does it; a daemon asks it, with a member's rights."""

from __future__ import annotations

import sys
from typing import Any

import click

from protocol.errors import IntegrityError
from upswarm.console import DURATION, Console, verb
from upswarm.text import report, shown

WHOSE = click.option(
    "--of",
    "program",
    type=click.Choice(["daemon", "storage"]),
    help="Who is to do it; the first that runs here when not given.",
)


@click.command()
@click.argument("what", metavar="TAG|NAME|LINK")
@WHOSE
@verb
def rm(console: Console, what: str, program: str | None) -> None:
    """Remove a stored file with its names, or a name with its versions.

    Asked of a storage node, on its machine, it removes whatever it is told. Asked of a daemon, only what that daemon
    put: a file that others put, too, stays theirs.
    """
    client = console.client(program) if program else console.any_client("daemon", "storage")[0]
    with client:
        answer: Any = client.call("rm", {"what": what}, seconds_max=None)
    console.give(answer, lambda data: "\n".join(f"removed  {shown(tag)}" for tag in data["removed"]))
    for tag in answer["kept"]:
        console.note(f"{shown(tag)} stays: it has other names, or others put it")


@click.command()
@click.argument("what", metavar="NAME")
@click.option("--for", "seconds", type=DURATION, help="So long from now, as 30d or 12h.")
@click.option("--forever", is_flag=True, help="Until it is removed, whatever the storage node's settings say.")
@WHOSE
@verb
def keep(console: Console, what: str, seconds: float | None, forever: bool, program: str | None) -> None:
    """Say how long a name holds; when it ends, the file goes with it if it has no other."""
    if (seconds is None) != forever:
        raise click.UsageError("give either --for DURATION or --forever")
    client = console.client(program) if program else console.any_client("daemon", "storage")[0]
    with client:
        console.give(client.call("keep", {"what": what, "seconds": seconds}))


@click.command()
@click.argument("what", metavar="[TAG|NAME]", required=False)
@click.option("--now", is_flag=True, help="Read everything again, beginning now.")
@verb
def scrub(console: Console, what: str | None, now: bool) -> None:
    """Show how the storage node of this machine reads again what it stores; or have it read one file, or everything.

    Everything is read again within 25 to 35 days by itself. What is rotten is fetched again from whoever has it; exit
    code 8 says that something of the file was.
    """
    if what is not None and now:
        raise click.UsageError("give a file, or --now for all of them")
    params: dict[str, Any] = {"what": what} if what is not None else {"now": now}
    with console.client("storage") as storage:
        answer: Any = storage.call("scrub", params, seconds_max=None)
    console.give(answer, report)
    if answer.get("rotten"):
        sys.exit(IntegrityError.exit_code)


VERBS = (rm, keep, scrub)
