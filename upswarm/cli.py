"""The command ``upswarm``: which verbs there are, and how a call ends. What each verb does is in its family's module.

Loads no trio, and of the families only the one that is called: a command is started often and by people, and most of
what it took was reading modules that it had no use for. ``--help`` and completion read them all.

Exit codes: 0 ok, 1 failed, 2 usage or config, 3 no daemon, 4 not found, 5 temporary, 6 refused, 7 unfinished,
8 integrity, 9 no space, 10 timeout, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import NoReturn

import click

from protocol.errors import CommandError, UpswarmError
from runtime.terminal import escape_controls
from upswarm.console import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    Console,
    Terminated,
    as_json,
    failure,
    home_option,
    json_option,
    told_of_sigterm,
)

# Module of upswarm → its verbs; a test holds it to what the modules say.
FAMILIES: dict[str, tuple[str, ...]] = {
    "programs": ("tracker", "storage", "daemon"),
    "membership": ("invite", "join", "leave", "nodes", "revoke", "rotate"),
    "transfers": ("put", "get", "share", "unshare", "pause", "resume", "cancel", "limit"),
    "looking": ("ls", "show", "status", "peers", "storage-nodes", "events"),
    "files": ("tag", "verify", "check"),
    "keeping": ("rm", "keep", "scrub"),
    "care": ("doctor", "bugreport", "config", "completion", "version"),
    "service": ("service",),
    "watch": ("watch",),
    "demo": ("demo",),
}


class Verbs(MutableMapping[str, click.Command]):
    """Verb → command, as click wants it; a family's module is imported when one of its verbs is asked for."""

    def __init__(self) -> None:
        self._family_of = {verb: family for family, verbs in FAMILIES.items() for verb in verbs}
        self._added: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._added:
            family = importlib.import_module(f"upswarm.{self._family_of[name]}")
            self._added.update((str(command.name), command) for command in family.VERBS)
        return self._added[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._family_of, *self._added)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._added[name] = command

    def __delitem__(self, name: str) -> None:
        self._family_of.pop(name, None)
        self._added.pop(name, None)


def _version(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if given:
        context.invoke(Verbs()["version"])
        context.exit()


@click.group(commands=Verbs(), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@home_option
@json_option
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Many machines push one file into storage together."""


def _show(error: click.ClickException, arguments: Sequence[str]) -> None:
    """Say what is wrong with the usage. What was given may be a file's name, which somebody else chose (``put *``)."""
    text = io.StringIO()
    error.show(text)
    click.echo(escape_controls(text.getvalue().expandtabs(4), keep="\n"), err=True, nl=False)
    if isinstance(error, click.NoSuchOption) and any(one[:1] == "-" and os.path.lexists(one) for one in arguments):
        click.echo('For a file whose name begins with "-", write ./ in front of it.', err=True)
    # Usage is looked at before options are: what asked for JSON may not have been read yet.
    if "--json" in itertools.takewhile(lambda argument: argument != "--", arguments):
        wrong = CommandError("usage", error.format_message(), error.exit_code)
        click.echo(as_json({"error": failure(wrong)}))


def _away_with_output() -> None:
    """Let nobody complain once more, at exit, that stdout takes nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    console = Console()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with told_of_sigterm():
            code = cli.main(
                args=arguments,
                prog_name="upswarm",
                standalone_mode=False,
                obj=console,
            )
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        _show(error, arguments)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("upswarm: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Terminated:
        click.echo("upswarm: terminated", err=True)
        sys.exit(EXIT_TERMINATED)
    except UpswarmError as error:
        console.fail(error)
    except BrokenPipeError:
        # Who reads us has enough (`| head`).
        _away_with_output()
        sys.exit(EXIT_FAILED)
    except OSError as error:
        # What no family turned into a sentence of its own: a full disk below stdout, a home nobody may look into.
        click.echo(f"upswarm: {escape_controls(str(error))}", err=True)
        _away_with_output()
        sys.exit(EXIT_FAILED)
