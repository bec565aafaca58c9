"""How transfers look while they run: bars on a terminal, plain lines otherwise. On stderr, never among the data.

Fed with the daemon's ``progress`` notifications. For each file: state, bytes done, rate, time left, and how much each
helper pushed. Decides nothing; a client that shows nothing transfers just as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TextIO

from upswarm.text import duration_text, node_text, pushed_text, rate_text, shown, size_text

# A plain line for each file at most so often: a log of an hour stays readable, and a person sees that it lives.
LINE_SECONDS = 2.0
FILES_SHOWN_MAX = 12
HELPERS_SHOWN_MAX = 8
WIDE_COLUMNS = 110
ENDED = frozenset(("stored", "failed", "cancelled", "done"))


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


def bytes_done(params: Mapping[str, Any]) -> int:
    """Return how far its present state is."""
    if params.get("state") == "hashing":
        return int(params.get("bytes_hashed") or 0)
    return int(params.get("bytes_stored") or params.get("bytes_done") or 0)


def label_of(params: Mapping[str, Any]) -> str:
    """Return how the file is called."""
    return shown(params.get("name") or params.get("path") or params.get("tag") or "?")


def helpers_of(params: Mapping[str, Any]) -> dict[str, int]:
    """Return verified bytes by sender: of a put who pushed, of a get from whom they came."""
    return dict(params.get("pushed") or params.get("from") or {})


def state_of(params: Mapping[str, Any]) -> str:
    """Return what is going on, and why it is not when it is not."""
    state = str(params.get("state", "?"))
    words = [shown(state)]
    if state not in ENDED:
        if params.get("paused"):
            words.append("paused")
        if params.get("safe"):
            words.append("safe to disconnect")
        if params.get("note"):
            words.append(shown(params["note"]))
    return words[0] if len(words) == 1 else f"{words[0]} ({'; '.join(words[1:])})"


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
    """A line when a file's state changes, and every other second in between."""

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
        key, state, now = key_of(params), str(params.get("state")), self._clock()
        before = self._said.get(key)
        if before is not None and before[0] == state and now - before[1] < LINE_SECONDS:
            return
        self._said[key] = (state, now)
        print(line_of(params, self._names), file=self._stream, flush=True)


class Bars:
    """A bar for each file that moves, and below it one for each helper's share."""

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
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        wide = self._console.width >= WIDE_COLUMNS
        bar_width = 30 if wide else 14
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, max_width=40 if wide else 14)
        for _ in range(5):
            grid.add_column(no_wrap=True)
        # Text, not markup: a name in square brackets is a name.
        remarks: list[Text] = []
        files = list(self._files.values())
        moving = [params for params in files if params.get("state") not in ENDED]
        ended = [params for params in files if params.get("state") in ENDED]
        for params in [*ended[-FILES_SHOWN_MAX:], *moving][-FILES_SHOWN_MAX:]:
            total, done = int(params.get("bytes_total") or 0), bytes_done(params)
            left = params.get("eta_seconds")
            state = str(params.get("state", "?"))
            grid.add_row(
                Text(label_of(params)),
                ProgressBar(total=max(1, total), completed=done if total else int(state in ENDED), width=bar_width),
                Text(f"{size_text(done)} / {size_text(total)}"),
                Text(rate_text(params["rate"]) if params.get("rate") else ""),
                Text(f"{duration_text(left)} left" if left is not None and state not in ENDED else ""),
                Text(shown(state)),
            )
            if state_of(params) != shown(state):
                remarks.append(Text(f"{label_of(params)}: {state_of(params)}", style="dim"))
            helpers = sorted(helpers_of(params).items(), key=lambda item: (-item[1], item[0]))
            for node, count in helpers[:HELPERS_SHOWN_MAX]:
                grid.add_row(
                    Text(f"  {shown(self._names.get(node) or node_text(node))}", style="dim"),
                    ProgressBar(total=max(1, total), completed=count, width=bar_width, complete_style="cyan"),
                    Text(f"{size_text(count)} ({100 * count // max(1, total)} %)", style="dim"),
                )
        if len(moving) > FILES_SHOWN_MAX:
            remarks.append(Text(f"and {len(moving) - FILES_SHOWN_MAX} more", style="dim"))
        return Group(grid, *remarks)
