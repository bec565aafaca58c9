"""How transfers look while they run: bars on a terminal, plain lines otherwise. On stderr, never among the data.

Fed with the daemon's ``progress`` notifications. For each file: state, bytes done, rate, time left, and how much each
helper pushed. Decides nothing; a client that shows nothing transfers just as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TextIO

from upswarm.painting import ENDED, bytes_done, label_of, state_of, transfers
from upswarm.text import duration_text, pushed_text, rate_text, size_text

# A plain line for each file at most so often: a log of an hour stays readable, and a person sees that it lives.
LINE_SECONDS = 2.0


class Progress(Protocol):
    """Shows notifications while its block lasts."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def notice(self, method: str, params: dict[str, Any]) -> None:
        """Take note of a notification."""
        ...


def progress_on(stream: TextIO, *, quiet: bool = False, names: Mapping[str, str] | None = None) -> Progress:
    """Return what fits ``stream``. ``names``: how to call nodes instead of the beginning of their ids."""
    if quiet:
        return Silence()
    if stream.isatty():
        return Bars(stream, names or {})
    return Lines(stream, names or {})


def key_of(params: Mapping[str, Any]) -> str:
    """Return what tells the files of one command apart."""
    return str(params.get("id") or params.get("path") or params.get("tag") or params.get("name") or "")


def helpers_of(params: Mapping[str, Any]) -> dict[str, int]:
    """Return verified bytes by sender: of a put who pushed, of a get from whom they came."""
    return dict(params.get("pushed") or params.get("from") or {})


def line_of(params: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return one notification as a line."""
    total, done = int(params.get("bytes_total") or 0), bytes_done(params)
    parts = [f"{label_of(params)}: {state_of(params)}"]
    if total:
        parts.append(f"{size_text(done)} of {size_text(total)} ({min(100, 100 * done // total)} %)")
    if params.get("rate"):
        parts.append(rate_text(params["rate"]))
    if params.get("eta_seconds") is not None and params.get("state") not in ENDED:
        parts.append(f"{duration_text(params['eta_seconds'])} left")
    line = ", ".join(parts)
    helpers = helpers_of(params)
    return f"{line} | {pushed_text(helpers, names)}" if helpers else line


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def notice(self, method: str, params: dict[str, Any]) -> None:
        """See ``Progress``."""


class Lines:
    """A line when a file's state changes, or why it waits, and every other second in between."""

    def __init__(self, stream: TextIO, names: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._names = names
        self._clock = clock
        self._said: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def notice(self, method: str, params: dict[str, Any]) -> None:
        """See ``Progress``."""
        if method != "progress":
            return
        key, state, now = key_of(params), state_of(params), self._clock()
        before = self._said.get(key)
        if before is not None and before[0] == state and now - before[1] < LINE_SECONDS:
            return
        self._said[key] = (state, now)
        print(line_of(params, self._names), file=self._stream, flush=True)


class Bars:
    """A bar for each file that moves, and below it each helper's share (painting.py)."""

    def __init__(self, stream: TextIO, names: Mapping[str, str]) -> None:
        # Imported where it draws: it costs more than all the rest of the command together.
        from rich.console import Console
        from rich.live import Live

        self._names = names
        self._files: dict[str, dict[str, Any]] = {}
        self._console = Console(file=stream)
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=5)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def notice(self, method: str, params: dict[str, Any]) -> None:
        """See ``Progress``."""
        if method == "progress":
            # A new dict each time: the drawing thread may be reading the old one.
            self._files = {**self._files, key_of(params): params}

    def _draw(self) -> Any:
        from rich.text import Text

        colour = self._console.color_system is not None and not self._console.no_color
        lines = transfers(list(self._files.values()), self._console.width - 1, self._names, colour=colour)
        # Text, not markup: a name in square brackets is a name.
        return Text.from_ansi("\n".join(lines), no_wrap=True)
