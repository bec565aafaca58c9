"""Who belongs to the swarm: invite, join, leave, nodes, revoke; and by whose word: rotate."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import click

from protocol.errors import CommandError, ConfigError
from protocol.ids import Role
from runtime.places import Program
from upswarm.client import NoProgram
from upswarm.console import DURATION, Console, verb
from upswarm.text import records, report, shown

INVITE_CHARACTERS_MAX = 8192
PROGRAM_OF_ROLE: dict[str, Program] = {Role.PEER: "daemon", Role.STORAGE: "storage"}


@click.command()
@click.option("--role", type=click.Choice(["peer", "storage"]), default="peer", show_default=True)
@click.option("--uses", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How often it may be used.")
@click.option("--expires", type=DURATION, default="24h", show_default=True, help="How long it is valid.")
@verb
def invite(console: Console, role: str, uses: int, expires: float) -> None:
    """Make an invite, on the tracker's machine. It is a secret: whoever has it may join."""
    with console.client("tracker") as tracker:
        answer = tracker.call("invite", {"role": role, "uses": uses, "expires_seconds": int(expires)})
    console.give(answer, lambda data: str(data["invite"]))


@click.command()
@click.argument("text", metavar="INVITE")
@click.option("--name", help="What others call this machine; its host name when not given.")
@verb
def join(console: Console, text: str, name: str | None) -> None:
    """Join a swarm with an invite; "-" reads it from stdin, where no process list shows it."""
    from protocol.invite import Invite

    try:
        parsed = Invite.parse(sys.stdin.read(INVITE_CHARACTERS_MAX) if text == "-" else text)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    program = PROGRAM_OF_ROLE.get(parsed.role)
    if program is None:
        raise CommandError("refused", f"an invite for a {parsed.role} cannot be used", 6)
    folder = console.places(program).identity
    if (folder / "certificate.pem").exists():
        raise CommandError("joined-already", f"{folder}: a member of a swarm already; leave it first: upswarm leave", 6)
    node, swarm = _join(parsed, folder, name or socket.gethostname()[:48])
    console.note(f"joined; start it with: upswarm {program}")
    answer = {"node": node, "swarm": swarm, "role": parsed.role.value, "identity": str(folder)}
    console.give(answer, lambda data: str(data["node"]))


def _join(parsed: Any, folder: Path, name: str) -> tuple[str, str]:
    import trio

    from runtime.join import join_swarm
    from runtime.logs import setup_logs
    from runtime.real import real_runtime

    setup_logs("warning")
    keyring = trio.run(join_swarm, real_runtime(), parsed, folder, name)
    return str(keyring.credentials.node), str(keyring.credentials.swarm)


@click.command()
@click.option("--role", type=click.Choice(["peer", "storage"]), default="peer", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@verb
def leave(console: Console, role: str, yes: bool) -> None:
    """Leave the swarm: forget key and certificate. Files stay where they are."""
    program = PROGRAM_OF_ROLE[role]
    if not yes and sys.stdin.isatty():
        click.confirm("Forget this machine's key? Only a new invite brings it back.", abort=True, err=True)
    try:
        with console.client(program) as running:
            if program == "storage":
                # What it has begun others wait for; whoever operates it decides when it ends.
                raise CommandError("running", "the storage node runs here; stop it first, then leave", 6)
            answer = running.call("leave")
    except NoProgram:
        folder = console.places(program).identity
        if not folder.is_dir():
            raise CommandError("not-joined", f"{folder}: no member of any swarm", 4) from None
        shutil.rmtree(folder)
        answer = {"left": True, "identity": str(folder)}
    console.give(answer, lambda _: "left the swarm")


@click.command()
@verb
def nodes(console: Console) -> None:
    """List the swarm's nodes."""
    client, _ = console.any_client("tracker", "daemon")
    with client:
        console.give(client.call("nodes"), records)


@click.command()
@click.argument("node")
@verb
def revoke(console: Console, node: str) -> None:
    """Shut a node out, on the tracker's machine. NODE may be the beginning of its id."""
    with console.client("tracker") as tracker:
        answer = tracker.call("revoke", {"node": node})
    console.give(answer, lambda data: f"revoked {shown(data['node'])}" if "node" in data else report(data))


@click.command()
@click.option(
    "--finish", is_flag=True, help="From now on only the next authority counts; invites given before are void."
)
@click.option("--force", is_flag=True, help="Finish also when members are out then, who have not been here since.")
@verb
def rotate(console: Console, finish: bool, force: bool) -> None:
    """Give the swarm a new certificate authority, on the tracker's machine: begin, look how far it is, and finish.

    In between both are trusted, and every node that comes gets a certificate of the next one.
    """
    with console.client("tracker") as tracker:
        answer = tracker.call("rotate", {"finish": finish, "force": force})
    console.give(answer, _rotation_text)


def _rotation_text(data: Any) -> str:
    if data["next"] is None:
        return f"rotated; in force: {shown(data['authority'])}"
    late = [shown(node) for node in data["waiting"]]
    if not late:
        return "every member has a certificate of the next authority; go on with: upswarm rotate --finish"
    return "\n".join([f"{len(late)} members have no certificate of the next authority yet:", *late])


VERBS = (invite, join, leave, nodes, revoke, rotate)
