"""Running a program in the foreground: tracker, storage, daemon. What the service units start.

Settings come from flags, environment and file, in this order (runtime/config.py). The program prints one line of JSON
on stdout when it accepts connections; log lines go to stderr.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from runtime.places import Program
from upswarm.console import RATE, TYPED_PATH, Console, home_option

CONFIG_NAMES: dict[str, str] = {"tracker": "TrackerConfig", "storage": "StorageConfig", "daemon": "DaemonConfig"}


def config_kind(program: str) -> Any:
    """Return the dataclass of a program's settings."""
    return getattr(importlib.import_module(f"{program}.config"), CONFIG_NAMES[program])


def load_program_config(console: Console, program: Program, flags: dict[str, Any], file: Path | None = None) -> Any:
    """Return the program's settings; ``file`` instead of the usual one.

    Raises:
        ConfigError: one of them is wrong; it says which and where it stands.
    """
    from runtime.config import load_config

    kind = config_kind(program)
    places = console.places(program)
    known = {field.name for field in dataclasses.fields(kind)}
    fixed = {name: value for name, value in {"places": places, "home": places.home}.items() if name in known}
    return load_config(
        kind, program, file=file or places.config_file, environment=console.environment, flags=flags, fixed=fixed
    )


def read_structlog() -> None:
    """Import structlog as if rich was not installed. Where it is, structlog draws tracebacks with it; our lines have
    plain ones (runtime/logs.py), and an idle daemon keeps four megabytes less without it."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # to Python None says: there is no such module
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]


def _run(console: Console, program: Program, no_mdns: bool, advertise: tuple[str, ...], **flags: Any) -> None:
    # Not given is None: the environment or the file may say.
    flags |= {"mdns": False if no_mdns else None, "advertise": advertise or None}

    def read() -> Any:
        return load_program_config(console, program, flags)

    read_structlog()
    sys.exit(importlib.import_module(f"{program}.app").main(read(), read))


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a program the flags that all have."""
    for option in (
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much to tell."),
        click.option("--no-mdns", is_flag=True, help="Do not announce or look for nodes on the LAN."),
        click.option("--listen", metavar="HOST:PORT", help="Where to accept nodes; port 0 is any free one."),
        click.option("--name", help="What others call this node; the machine's name when not given."),
        click.option("--advertise", metavar="HOST:PORT", multiple=True, help="Where others reach us, if not there."),
    ):
        command = option(command)
    return home_option(command)


@click.command()
@_common
@click.option("--http", metavar="HOST:PORT", help="Where to serve the status page.")
@click.pass_obj
def tracker(console: Console, /, no_mdns: bool, advertise: tuple[str, ...], **flags: Any) -> None:
    """Run the tracker; the first start creates the swarm."""
    _run(console, "tracker", no_mdns, advertise, **flags)


@click.command()
@_common
@click.option("--data", type=TYPED_PATH, help="Folder for what is stored.")
@click.pass_obj
def storage(console: Console, /, no_mdns: bool, advertise: tuple[str, ...], **flags: Any) -> None:
    """Run a storage node."""
    _run(console, "storage", no_mdns, advertise, **flags)


@click.command()
@_common
@click.option("--lend", is_flag=True, default=None, help="Also relay files that this machine does not want.")
@click.option("--up", type=RATE, metavar="RATE", help="Cap on everything that leaves, as in 20mbit or 2M.")
@click.option("--help-rate", type=RATE, metavar="RATE", help="Cap on what is pushed for others.")
@click.pass_obj
def daemon(
    console: Console,
    /,
    no_mdns: bool,
    advertise: tuple[str, ...],
    up: float | str | None,
    help_rate: float | str | None,
    **flags: Any,
) -> None:
    """Run the peer daemon."""
    flags |= {"up_bytes_per_second": up, "help_bytes_per_second": help_rate}
    _run(console, "daemon", no_mdns, advertise, **flags)


VERBS = (tracker, storage, daemon)
