"""Transfers as a person likes to see them on a terminal: one bar for each file, in as many colours as helpers pushed,
its rate and time left, and below it who they are with their shares. Pure: records and a width in, lines out.

``put``, ``get`` and ``status --watch`` look the same because all of them are painted here. Without colours helpers
differ by how dense their part of the bar is. Names come from the network: nothing of them but text gets through.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upswarm.text import duration_text, node_text, rate_text, shown, size_text

ENDED = frozenset(("stored", "failed", "cancelled", "done"))
FILES_SHOWN_MAX = 12
HELPERS_SHOWN_MAX = 8
# From here on name, bar and numbers of a file stand on one line.
WIDE_COLUMNS = 100
NARROW_COLUMNS = 24
_COLOURS = ("36", "35", "33", "32", "34", "31")
_DENSITIES = "█▓▒"
_EMPTY = "░"
_PLAIN_EMPTY = "·"
_DIM = "2"


def columns_of(text: str) -> int:
    """Return how many columns ``text`` takes: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def fitted(text: str, columns: int) -> str:
    """Return ``text`` in exactly so many columns; in the middle of a long one something is left out."""
    if columns_of(text) > columns:
        half = max(0, columns - 1) // 2
        end = ""
        for one in reversed(text):
            if columns_of(one + end) > half:
                break
            end = one + end
        begin = ""
        for one in text:
            if columns_of(begin + one) > columns - 1 - columns_of(end):
                break
            begin += one
        text = f"{begin}…{end}"
    return text + " " * (columns - columns_of(text))


def joined(parts: Sequence[tuple[int, str]], columns: int) -> str:
    """Return the parts that have room beside each other; ``parts``: (what goes first when there is none, text)."""
    kept = list(parts)
    while len(kept) > 1 and columns_of("  ".join(text for _, text in kept)) > columns:
        kept.remove(max(kept))
    return fitted("  ".join(text for _, text in kept), columns).rstrip()


def shares(params: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return who brought how many bytes, most first."""
    found = params.get("pushed") or params.get("from") or {}
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def bar(params: Mapping[str, Any], columns: int, *, colour: bool) -> str:
    """Return how far a transfer is, each helper's part in its own colour."""
    total, done = int(params.get("bytes_total") or 0), bytes_done(params)
    ended_well = params.get("state") in ("stored", "done")
    filled = columns if ended_well else 0 if not total else min(columns, columns * done // total)
    helpers = shares(params)
    brought = sum(count for _, count in helpers)
    parts, seen, used = [], 0, 0
    for number, (_, count) in enumerate(helpers):
        seen += count
        cells = round(filled * seen / brought) - used if brought else 0
        used += cells
        parts.append(painted(_DENSITIES[0] * cells, _COLOURS[number % len(_COLOURS)], colour=colour)
                     if colour else _DENSITIES[number % len(_DENSITIES)] * cells)  # fmt: skip
    parts.append(painted(_DENSITIES[0] * (filled - used), _COLOURS[0], colour=colour))
    parts.append(painted((_EMPTY if colour else _PLAIN_EMPTY) * (columns - filled), _DIM, colour=colour))
    return "".join(parts)


def painted(text: str, code: str, *, colour: bool) -> str:
    """Return ``text`` in a colour, if there are any."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour and text else text


def bytes_done(params: Mapping[str, Any]) -> int:
    """Return how far its present state is."""
    if params.get("state") == "hashing":
        return int(params.get("bytes_hashed") or 0)
    return int(params.get("bytes_stored") or params.get("bytes_done") or 0)


def label_of(params: Mapping[str, Any]) -> str:
    """Return how the file is called."""
    return shown(params.get("name") or params.get("path") or params.get("tag") or "?")


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


def transfer_lines(params: Mapping[str, Any], width: int, names: Mapping[str, str], *, colour: bool) -> Iterator[str]:
    """Yield the lines of one transfer, none of them wider than ``width``."""
    total, done = int(params.get("bytes_total") or 0), bytes_done(params)
    state, left = str(params.get("state", "?")), params.get("eta_seconds")
    percent = 100 if state in ("stored", "done") else min(100, 100 * done // total) if total else 0
    # In this order on the line; when there is no room the ones with the highest number go first.
    parts = [(0, f"{percent:3d} %"), (4, f"{size_text(done)} of {size_text(total)}")]
    if params.get("rate") and state not in ENDED:
        parts.append((3, rate_text(params["rate"])))
    if left is not None and state not in ENDED:
        parts.append((1, f"{duration_text(left)} left"))
    parts.append((2, state_of(params)))
    if width >= WIDE_COLUMNS:
        name, cells = min(36, width // 4), min(40, width * 24 // 100)
        rest = width - name - cells - 2
        yield f"{fitted(label_of(params), name)} {bar(params, cells, colour=colour)} {joined(parts, rest)}"
    else:
        yield fitted(label_of(params), width).rstrip()
        yield f" {bar(params, width - 2, colour=colour)}"
        yield f" {joined(parts, width - 1)}"
    helpers = shares(params)
    if state in ENDED:
        return
    brought = max(1, sum(count for _, count in helpers))
    for number, (node, count) in enumerate(helpers[:HELPERS_SHOWN_MAX]):
        mark = painted("■", _COLOURS[number % len(_COLOURS)], colour=True) if colour else _DENSITIES[number % 3]
        who = shown(names.get(node) or node_text(node))
        yield f"   {mark} {fitted(f'{who}  {size_text(count)}  {100 * count // brought} %', width - 5).rstrip()}"
    if len(helpers) > HELPERS_SHOWN_MAX:
        yield fitted(f"   and {len(helpers) - HELPERS_SHOWN_MAX} more", width).rstrip()


def transfers(files: Sequence[Mapping[str, Any]], width: int, names: Mapping[str, str], *, colour: bool) -> list[str]:
    """Return the lines of all transfers: what has ended last, then what moves."""
    width = max(width, NARROW_COLUMNS)
    moving = [params for params in files if params.get("state") not in ENDED]
    ended = [params for params in files if params.get("state") in ENDED]
    room = max(0, FILES_SHOWN_MAX - len(moving))
    lines: list[str] = []
    for params in [*(ended[-room:] if room else []), *moving[:FILES_SHOWN_MAX]]:
        lines += transfer_lines(params, width, names, colour=colour)
    if len(moving) > FILES_SHOWN_MAX:
        lines.append(f"and {len(moving) - FILES_SHOWN_MAX} more")
    return lines


def daemon_view(
    status: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float, width: int, *, colour: bool
) -> list[str]:
    """Return a daemon's ``status`` as a screen. ``before``: what it was ``seconds`` ago, for rates; None: the first."""
    width = max(width, NARROW_COLUMNS)
    tracker = status.get("tracker") or {}
    trip = tracker.get("round_trip_seconds")
    connected = f"tracker {duration_text(trip)} away" if trip else "tracker connected"
    where = connected if tracker.get("connected") else f"no tracker: {shown(tracker.get('trouble') or 'connecting')}"
    parts = [shown(status.get("name") or "daemon"), where, f"{status.get('links', 0)} links"]
    if status.get("lan_nodes"):
        parts.append(f"{status['lan_nodes']} on the LAN")
    parts.append(f"{status.get('files', 0)} files held")
    if status.get("paused"):
        parts.append("PAUSED")
    elif status.get("safe") and any(put.get("state") not in ENDED for put in status.get("puts") or ()):
        parts.append("safe to disconnect")
    lines = [painted(fitted(" · ".join(parts), width).rstrip(), "1", colour=colour)]
    now, then = status.get("traffic") or {}, (before or {}).get("traffic") or {}
    if before is not None and seconds > 0:
        rates = [
            f"{word} {rate_text(max(0, now.get(key, 0) - then.get(key, 0)) / seconds)}"
            for word, key in (("own", "sent_own_bytes"), ("help", "sent_help_bytes"), ("down", "received_bytes"))
        ]
        caps = [f"{key} {rate_text(cap)}" for key, cap in (status.get("limits") or {}).items() if cap is not None]
        lines.append(fitted("  ".join([*rates, *(["capped at", *caps] if caps else [])]), width).rstrip())
    names = {str(status.get("node")): "this machine"}
    for head, key in (("uploads", "puts"), ("downloads", "gets")):
        if status.get(key):
            lines += ["", painted(head, _DIM, colour=colour)]
            lines += transfers(status[key], width, names, colour=colour)
    if not status.get("puts") and not status.get("gets"):
        lines += ["", "nothing to move"]
    return lines
