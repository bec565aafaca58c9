"""The programs as services of systemd: install, status, uninstall. Writes units; runs nothing of ours itself.

A unit of the system runs as the account ``upswarm`` with everything below /var/lib/upswarm; one of a user (the daemon
only) runs as that user with the user's files. The templates are upswarm/units/. Without systemd each verb says so, and
what to do instead: docs/operations.md#services.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click

from protocol.errors import CommandError, ConfigError
from runtime.places import PROGRAMS, Places, Program
from upswarm.console import TYPED_PATH, Console, TypedPathType, verb
from upswarm.text import report

SYSTEM_UNITS = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/upswarm.conf")
STATE = Path("/var/lib/upswarm")
# Where the units' ProtectHome= lets nobody look.
HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))
COMMAND_SECONDS_MAX = 90.0


@dataclass(frozen=True, slots=True)
class Manager:
    """A systemd: the machine's or a user's. Replaced in tests."""

    user: bool
    folder: Path
    control: Callable[..., str]

    @classmethod
    def here(cls, user: bool) -> Manager:
        """Return the one that runs.

        Raises:
            CommandError: none does, or it is not ours to change.
        """
        running = (
            Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere"), "systemd") if user else Path("/run/systemd/system")
        )
        if shutil.which("systemctl") is None or not running.is_dir():
            whose = "no systemd of this user runs here" if user else "systemd does not run here"
            raise CommandError(
                "no-systemd",
                f"{whose}; let what starts programs on this machine start: upswarm PROGRAM (it stays in the foreground,"
                " SIGTERM ends it), or write units with --into DIR",
            )
        if not user and os.geteuid() != 0:
            raise CommandError("refused", "units of the system are root's: use sudo, or --user for the daemon", 6)
        return cls(user, user_units() if user else SYSTEM_UNITS, lambda *words: _control(user, words))


def user_units() -> Path:
    """Return where a user's own units lie."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def unit_name(program: str) -> str:
    """Return the name of a program's unit."""
    return f"upswarm-{program}.service"


def unit_text(program: Program, *, user: bool, command: Sequence[str], writes: Sequence[Path] = ()) -> str:
    """Return the unit that starts ``command`` with ``program`` behind it. ``writes``: further folders to write in.

    Raises:
        ConfigError: a path cannot stand in a unit, or the program is no user's.
    """
    if user and program != "daemon":
        raise ConfigError(f"--user is for the daemon; the {program} serves others: install it as root")
    template = f"upswarm-{program}.user.service" if user else unit_name(program)
    text = resources.files("upswarm").joinpath("units", template).read_text("utf-8")
    # Without ProtectSystem= (a user's unit) everything the user may write is open already.
    lines = "" if user else "".join(f"ReadWritePaths={_quoted(str(path))}\n" for path in writes)
    return text.replace("@EXEC@", " ".join(map(_quoted, command))).replace("@WRITES@\n", lines)


def own_command(*, user: bool) -> list[str]:
    """Return how this very installation is started.

    Raises:
        ConfigError: a service of the system could not see it.
    """
    beside = Path(sys.executable).with_name("upswarm")
    command = [str(beside)] if os.access(beside, os.X_OK) else [sys.executable, "-m", "upswarm"]
    if not user and any(Path(command[0]).is_relative_to(folder) for folder in HIDDEN):
        raise ConfigError(
            f"{command[0]} lies in somebody's home, where a service of the system does not look; "
            "install Upswarm for all (below /opt or /usr/local), or use --user"
        )
    return command


@click.group(name="service")
def service() -> None:
    """Let systemd run a program: now, after a crash, and after a restart of the machine."""


USER = click.option("--user", is_flag=True, help="As this user, with this user's files; the daemon only.")
PROGRAM = click.argument("program", type=click.Choice(PROGRAMS))


@service.command()
@PROGRAM
@USER
@click.option(
    "--writes",
    type=TYPED_PATH,
    multiple=True,
    metavar="DIR",
    help="A folder beyond /var/lib/upswarm that it may write in; several times if there are several.",
)
@click.option(
    "--into", type=TypedPathType(path_type=Path, file_okay=False), metavar="DIR", help="Only write the unit there."
)
@verb
def install(console: Console, program: Program, user: bool, writes: tuple[Path, ...], into: Path | None) -> None:
    """Write the unit, and start it as soon as this machine belongs to a swarm."""
    for folder in writes:
        if not folder.is_absolute():
            raise ConfigError(f"--writes {folder}: not absolute")
    if into is not None:
        path = into / unit_name(program)
        into.mkdir(parents=True, exist_ok=True)
        path.write_text(unit_text(program, user=user, command=own_command(user=True), writes=writes), "utf-8")
        answer: dict[str, Any] = {"unit": unit_name(program), "path": str(path), "enabled": False, "started": False}
    else:
        answer = install_unit(Manager.here(user), program, writes)
    console.give(answer, lambda data: str(data["path"]))
    if answer.get("next"):
        console.note(str(answer["next"]))


def install_unit(manager: Manager, program: Program, writes: Sequence[Path] = ()) -> dict[str, Any]:
    """Write a unit, make systemd read it, and start it if it can start; return what was done."""
    text = unit_text(program, user=manager.user, command=own_command(user=manager.user), writes=writes)
    path = manager.folder / unit_name(program)
    try:
        if not manager.user:
            SYSUSERS.parent.mkdir(parents=True, exist_ok=True)
            SYSUSERS.write_text(
                resources.files("upswarm").joinpath("units", "upswarm.sysusers.conf").read_text("utf-8")
            )
        manager.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise CommandError("cannot-write", f"{path}: {error.strerror}", 1) from error
    if not manager.user:
        manager.control("sysusers", str(SYSUSERS))
    manager.control("daemon-reload")
    # The state of a service of the system is below its account's home; a user's is where the user's always is.
    places = Places.of(None if manager.user else STATE, program)
    joined = program == "tracker" or (places.identity / "certificate.pem").exists()
    manager.control("enable", *(["--now"] if joined else []), unit_name(program))
    answer = {"unit": unit_name(program), "path": str(path), "enabled": True, "started": joined}
    if not joined:
        join = "upswarm join -" if manager.user else f"sudo -u upswarm upswarm --home {STATE} join -"
        start = f"systemctl {'--user ' if manager.user else ''}start {unit_name(program)}"
        answer["next"] = f"it belongs to no swarm yet: {join}, then {start}"
    return answer


@service.command(name="status")
@PROGRAM
@USER
@verb
def show_status(console: Console, program: Program, user: bool) -> None:
    """Tell whether the unit is there and runs. Exit code 3 when it does not run."""
    manager = Manager.here(user) if user or os.geteuid() == 0 else Manager(False, SYSTEM_UNITS, _control_system)
    answer = status_of(manager, program)
    console.give(answer, report)
    sys.exit(0 if answer["state"] == "active" else 3)


def status_of(manager: Manager, program: Program) -> dict[str, Any]:
    """Return what systemd says of a program's unit."""
    names = ("ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "StatusText")
    said = manager.control("show", unit_name(program), f"--property={','.join(names)}")
    told = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    path = manager.folder / unit_name(program)
    return {
        "unit": unit_name(program),
        "path": str(path) if path.exists() else None,
        "state": told.get("ActiveState", "unknown"),
        "detail": told.get("SubState", ""),
        "enabled": told.get("UnitFileState") == "enabled",
        "process": int(told.get("MainPID") or 0) or None,
        "restarts": int(told.get("NRestarts") or 0),
        "says": told.get("StatusText", ""),
    }


@service.command()
@PROGRAM
@USER
@verb
def uninstall(console: Console, program: Program, user: bool) -> None:
    """Stop it and take the unit away; what the program keeps stays."""
    console.give(uninstall_unit(Manager.here(user), program), lambda data: f"removed {data['unit']}")


def uninstall_unit(manager: Manager, program: Program) -> dict[str, Any]:
    """Stop and remove a unit; return what was done. Raises ``CommandError`` when there is none."""
    path = manager.folder / unit_name(program)
    if not path.exists():
        raise CommandError("not-found", f"{path}: no such unit", 4)
    manager.control("disable", "--now", unit_name(program))
    path.unlink(missing_ok=True)
    manager.control("daemon-reload")
    return {"unit": unit_name(program), "path": str(path), "removed": True}


def _control_system(*words: str) -> str:
    return _control(False, words)


def _control(user: bool, words: Sequence[str]) -> str:
    """Call systemctl (or systemd-sysusers) and return what it prints. Raises ``CommandError`` with its words."""
    command = ["systemd-sysusers", *words[1:]] if words[0] == "sysusers" else ["systemctl", *["--user"] * user, *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError("failed", f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise CommandError("failed", f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def _quoted(word: str) -> str:
    """Return a word as units have it (systemd.syntax(7))."""
    if any(ord(character) < 32 for character in word):
        raise ConfigError(f"{word!r}: cannot stand in a unit")
    word = word.replace("%", "%%").replace("$", "$$")
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' if set(word) & set(" '\"\\;") else word


VERBS = (service,)
