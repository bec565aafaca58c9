"""How things look to people: sizes, rates, durations, tables; and what others wrote, made harmless. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.terminal import escape_controls

NODE_CHARACTERS = 8  # Enough to tell the nodes of one swarm apart where they are only mentioned.
CELL_NODE_CHARACTERS = 12  # Enough to name one to `revoke`.
_NODE_ID = re.compile(r"[a-z2-7]{52}")


def shown(value: object) -> str:
    """Return ``value`` safe for a terminal: names come from the network."""
    return escape_controls(str(value))


def size_text(size_bytes: float) -> str:
    """Return "48.0 MiB"."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        size_bytes /= 1024
        if size_bytes < 1024 or unit == "PiB":
            break
    return f"{size_bytes:.1f} {unit}"


def rate_text(bytes_per_second: float) -> str:
    """Return "2.5 MB/s"."""
    for unit, factor in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if bytes_per_second >= factor:
            return f"{bytes_per_second / factor:.1f} {unit}"
    return f"{bytes_per_second:.0f} B/s"


def duration_text(seconds: float) -> str:
    """Return "4.2 s", "3 min 20 s", "5 h 10 min" or "2 d 4 h"."""
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for long, long_seconds, short, short_seconds in (
        ("min", 60, "s", 1),
        ("h", 3600, "min", 60),
        ("d", 86400, "h", 3600),
    ):
        if seconds < long_seconds * (24 if long == "h" else 60) or long == "d":
            whole, rest = divmod(int(seconds), long_seconds)
            return f"{whole} {long} {rest // short_seconds} {short}"
    raise AssertionError


def moment_text(seconds: float) -> str:
    """Return seconds since 1970 as local date and time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def node_text(node: str) -> str:
    """Return the beginning of a node id."""
    return shown(node)[:NODE_CHARACTERS]


def pushed_text(pushed: Mapping[str, float], names: Mapping[str, str] | None = None) -> str:
    """Return who pushed how much, most first: "a3kq… 12.0 MiB, 7fyh… 11.5 MiB"."""
    ordered = sorted(pushed.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{(names or {}).get(node) or node_text(node)} {size_text(count)}" for node, count in ordered)


def table(rows: Iterable[Sequence[str]], heads: Sequence[str]) -> str:
    """Return aligned columns under their heads; nothing but the heads when there are no rows."""
    lines = [[head.upper() for head in heads], *[[shown(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def value_text(key: str, value: Any) -> str:
    """Return one field as people read it; what it measures follows from its name."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if key == "rate" or key.endswith("_per_second") or key in ("up", "down", "help"):
            return rate_text(value)
        if key == "size" or key == "bytes" or key.startswith("bytes_") or key.endswith("_bytes"):
            return size_text(value)
        if key == "seconds" or key.endswith("_seconds"):
            return duration_text(value)
        if key in ("time", "expires", "since") or key.endswith(("_at", "_expires")):
            return moment_text(value)
        return f"{value:.2f}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        if key in ("pushed", "from"):
            return pushed_text(value)
        return ", ".join(f"{shown(inner)}={value_text(str(inner), item)}" for inner, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(value_text(key, item) for item in value) or "-"
    return shown(value)


def cell_text(key: str, value: Any) -> str:
    """Return one field as a table has room for it: of node ids the beginning, which every verb takes too."""
    if isinstance(value, list | tuple):
        return ", ".join(cell_text(key, item) for item in value) or "-"
    text = value_text(key, value)
    return text[:CELL_NODE_CHARACTERS] if _NODE_ID.fullmatch(text) else text


def report(thing: Any) -> str:
    """Return any answer as text: a table of a list of records, ``key: value`` lines of a record."""
    if isinstance(thing, list):
        records = [item for item in thing if isinstance(item, Mapping)]
        if len(records) != len(thing) or not records:
            return "\n".join(value_text("", item) for item in thing)
        heads = list(dict.fromkeys(str(key) for record in records for key in record))
        return table([[cell_text(head, record.get(head)) for head in heads] for record in records], heads)
    if not isinstance(thing, Mapping):
        return value_text("", thing)
    lines = []
    for key, value in thing.items():
        nested = isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)
        if nested or (isinstance(value, Mapping) and value and key not in ("pushed", "from")):
            inner = report(value).replace("\n", "\n  ")
            lines.append(f"{shown(key)}:\n  {inner}")
        else:
            lines.append(f"{shown(key)}: {value_text(str(key), value)}")
    return "\n".join(lines)


def records(answer: Any) -> str:
    """Return a list of records as a table, also when it is the only thing in a record."""
    if isinstance(answer, Mapping) and len(answer) == 1:
        (answer,) = answer.values()
    return report(answer)
