"""The command ``upswarm``: which verbs there are, and how a call ends. What each verb does is in its family's module.

Loads no trio: the verbs that run a program import it when they are called, the others speak to a control socket.
Exit codes: 0 ok, 1 failed, 2 usage or config, 3 no daemon, 4 not found, 5 temporary, 6 refused, 7 unfinished,
8 integrity, 9 no space, 10 timeout, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from protocol.errors import UpswarmError
from upswarm import care, files, looking, membership, programs, service, transfers
from upswarm.console import EXIT_FAILED, EXIT_INTERRUPTED, Console, home_option, json_option
from upswarm.demo import demo


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@home_option
@json_option
def cli() -> None:
    """Many machines push one file into storage together."""


for _family in (programs, membership, transfers, looking, files, care, service):
    for _verb in _family.VERBS:
        cli.add_command(_verb)
cli.add_command(demo)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    console = Console()
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="upswarm",
            standalone_mode=False,
            obj=console,
        )
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("upswarm: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except UpswarmError as error:
        console.fail(error)
    except BrokenPipeError:
        # Who reads us has enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
