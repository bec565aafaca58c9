"""What every verb shares: the home, ``--json``, where words go, and how an error becomes an exit code.

Data goes to stdout, everything else to stderr. With ``--json`` a verb prints exactly one object (or one a line, when
it follows something), also when it fails.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click

from protocol.errors import CommandError, UpswarmError
from runtime.places import Places, Program
from upswarm.client import Client, NoProgram
from upswarm.text import report, shown

P = ParamSpec("P")
R = TypeVar("R")

EXIT_FAILED = 1
EXIT_UNFINISHED = 7
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM came. As KeyboardInterrupt, it is nobody's error, and passes whoever looks for errors."""


@contextlib.contextmanager
def told_of_sigterm() -> Iterator[None]:
    """Make SIGTERM raise ``Terminated`` in what runs here, so that whoever waits can say what goes on without him.

    Programs deal with it themselves (runtime/serving.py); in trio's midst it ends the process as ever. Who started us
    deaf to it finds us so.
    """

    def raise_terminated(number: int, _frame: FrameType | None) -> None:
        # Once is enough: the next one must not cut short what is said now.
        signal.signal(number, signal.SIG_IGN)
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass
class Console:
    """The answers to "where" and "how" of one call of the command."""

    home: Path | None = None
    as_json: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def places(self, program: str) -> Places:
        """Return the places of ``program`` under our home."""
        return Places.of(self.home, program)

    def client(self, program: str = "daemon") -> Client:
        """Connect to ``program``.

        Raises:
            NoProgram: it does not run here.
        """
        return Client.of_home(self.home, program)

    def any_client(self, *programs: Program) -> tuple[Client, Program]:
        """Connect to the first of ``programs`` that runs here."""
        first: NoProgram | None = None
        for program in programs:
            try:
                return self.client(program), program
            except NoProgram as error:
                first = first or error
        assert first is not None
        raise first

    def give(self, data: Any, text: Callable[[Any], str] = report) -> None:
        """Print the answer: as JSON when asked for, else as ``text`` makes it."""
        click.echo(as_json(data) if self.as_json else text(data))

    def note(self, sentence: str) -> None:
        """Tell the person something that is no data. Safe characters only; names were escaped by whoever wrote it."""
        click.echo(sentence, err=True)

    def fail(self, error: UpswarmError) -> NoReturn:
        """Say what is wrong and end with its exit code."""
        click.echo(f"upswarm: {shown(error)}", err=True)
        if self.as_json:
            click.echo(as_json({"error": failure(error)}))
        sys.exit(error.exit_code)


def as_json(data: Any) -> str:
    """Return ``data`` as one line of JSON."""
    return json.dumps(data, ensure_ascii=True)


def failure(error: UpswarmError) -> dict[str, Any]:
    """Return an error as programs read it."""
    code = error.code if isinstance(error, CommandError) else type(error).__name__
    return {"code": code, "message": str(error), "exit_code": error.exit_code}


class TypedPathType(click.Path):
    """A path. Not an empty one: "$FOLDER", which nobody had set, must not mean the folder one stands in."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if os.fspath(value) in ("", b""):
            self.fail('an empty path; "." is the current folder', parameter, context)
        return super().convert(value, parameter, context)


def _set_home(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    console = context.ensure_object(Console)
    if value is not None:
        console.home = value


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    console = context.ensure_object(Console)
    console.as_json = console.as_json or value


def home_option(command: Callable[P, R]) -> Callable[P, R]:
    """Give a verb ``--home``."""
    option = click.option(
        "--home",
        type=TypedPathType(path_type=Path, file_okay=False),
        envvar="UPSWARM_HOME",
        callback=_set_home,
        expose_value=False,
        help="Keep config, state and sockets under this folder.",
    )
    return option(command)


def json_option(command: Callable[P, R]) -> Callable[P, R]:
    """Give a verb ``--json``."""
    option = click.option(
        "--json", is_flag=True, callback=_set_json, expose_value=False, help="Print one JSON object on stdout."
    )
    return option(command)


def verb(command: Callable[Concatenate[Console, P], R]) -> Callable[P, R]:
    """Give a verb the console as its first argument, ``--home`` and ``--json``."""

    @functools.wraps(command)
    def with_console(*args: P.args, **kwargs: P.kwargs) -> R:
        console = click.get_current_context().find_object(Console)
        assert console is not None
        return command(console, *args, **kwargs)

    return home_option(json_option(with_console))


class RateType(click.ParamType[float | str]):
    """``20mbit``, ``2M`` or ``off``: bytes per second, or the word."""

    name = "rate"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float | str:
        if isinstance(value, float):
            return value
        if value == "off":
            return "off"
        from runtime.config import parse_rate

        try:
            return parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), parameter, context)


class DurationType(click.ParamType[float]):
    """``30s``, ``24h``: seconds."""

    name = "duration"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        from runtime.config import parse_duration_seconds

        try:
            return parse_duration_seconds(str(value))
        except ValueError as error:
            self.fail(str(error), parameter, context)


RATE = RateType()
DURATION = DurationType()
TYPED_PATH = TypedPathType(path_type=Path)
TYPED_TEXT = TypedPathType(path_type=str)  # where a slash at its end means something
