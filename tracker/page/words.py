"""How numbers, names and times look to people, and the templates that use them.

Everything a node wrote goes through autoescape (markup) and ``plain`` (control characters and direction marks, which
markup escaping leaves alone). Nothing is marked safe but what a template of ours made.
"""

from __future__ import annotations

from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from runtime.terminal import escape_controls

COLOURS = 8  # as many as style.css has; further senders share a grey


def make_environment() -> Environment:
    """Return the templates."""
    environment = Environment(
        loader=PackageLoader("tracker.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size,
        "rate": rate,
        "duration": duration,
        "ago": ago,
        "short": short,
        "plain": escape_controls,
        "colour": colour,
        "utc": utc,
        "percent": percent,
    }
    return environment


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes everything")


def rate(bytes_per_second: float) -> str:
    """Return a rate; what is next to nothing is the end of something."""
    return f"{size(bytes_per_second)}/s" if bytes_per_second >= 1024 else "0 B/s"


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(seconds: float) -> str:
    """Return how long ago, coarse: what is looked at all the time must not change all the time."""
    if seconds < 15:
        return "just now"
    if seconds < 60:
        return f"{int(seconds) // 15 * 15} s ago"
    if seconds < 3600:
        return f"{int(seconds) // 60} min ago"
    return f"{duration(int(seconds) // 3600 * 3600).partition(' 00')[0]} ago"


def percent(part: float, whole: float) -> str:
    """Return a share in percent; only all of it is 100 %."""
    if part >= whole:
        return "100 %"
    return f"{min(99.9, 100 * part / whole):.1f} %"


def short(identity: str) -> str:
    """Return the beginning of a node id or a tag."""
    return identity[:10]


def colour(place: int) -> int:
    """Return the colour of who began to push at that place."""
    return min(place, COLOURS)


def utc(at: int) -> str:
    """Return a date for ``datetime`` attributes. What only a liar tells is 1970."""
    return datetime.fromtimestamp(at if 0 <= at < 253402300800 else 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
