"""Caps that change with the hour and the weekday, in the grammar of rclone's ``--bwlimit``.

    08:00,512k 12:00,10M 23:00,off              every day
    Mon-08:00,1M Fri-18:00,off Sat-09:00,5M:off     from Monday morning on, and so on; UP:DOWN
    08:00,10M:off:1M 20:00,off                  UP:DOWN:HELP, which rclone does not have

What an entry says holds until the next one, around the week's end too. One rate is for both directions, as in rclone.
An entry for one weekday goes before one for every day at the same minute. Rates are Upswarm's own ("10M" is 10,000,000
bytes a second, "20mbit" bits), and one without a unit is refused: rclone would take it for KiB.

Pure: the caller says what time it is, in seconds since Monday 00:00 of its local time.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from runtime.config import parse_rate

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONG_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES
WEEK_SECONDS = WEEK_MINUTES * 60
# A change at every quarter of an hour of the week fits.
CHARACTERS_MAX = 16_384

_ENTRY = re.compile(r"(?:([A-Za-z]+)-)?([0-9]{1,2}):([0-9]{2}),(\S+)", re.ASCII)
_RIGHT = 'right would be "08:00,512k 12:00,10M 23:00,off" or "Mon-08:00,1M Fri-18:00,off"'


@dataclass(frozen=True, slots=True)
class Caps:
    """Bytes per second; None is no cap."""

    up: float | None = None
    down: float | None = None
    help: float | None = None

    def within(self, other: Caps) -> Caps:
        """Return the lower of both, cap by cap."""
        return Caps(_lower(self.up, other.up), _lower(self.down, other.down), _lower(self.help, other.help))


@dataclass(frozen=True, slots=True)
class Timetable:
    """``minutes`` of the week, rising, and what holds from each on; both empty: never a cap."""

    text: str = ""
    minutes: tuple[int, ...] = ()
    caps: tuple[Caps, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Timetable:
        """Return the timetable that ``text`` says; "" and "off" are none.

        Raises:
            ValueError: it is none; the sentence says what would be right.
        """
        if len(text) > CHARACTERS_MAX:
            raise ValueError(f"a timetable of {len(text)} characters; at most {CHARACTERS_MAX} are possible")
        words = text.split()
        if not words or words == ["off"]:
            return cls()
        daily: dict[int, Caps] = {}
        weekly: dict[int, Caps] = {}
        for word in words:
            day, minute, caps = _entry(word)
            target, key = (daily, minute) if day is None else (weekly, day * DAY_MINUTES + minute)
            if key in target:
                raise ValueError(f"{word[:80]!r}: there is an entry for this time already")
            target[key] = caps
        for day in range(7):
            for minute, caps in daily.items():
                weekly.setdefault(day * DAY_MINUTES + minute, caps)
        minutes = tuple(sorted(weekly))
        return cls(" ".join(words), minutes, tuple(weekly[minute] for minute in minutes))

    def __bool__(self) -> bool:
        return bool(self.minutes)

    def at(self, second: float) -> Caps:
        """Return what holds ``second`` seconds after Monday 00:00."""
        if not self.minutes:
            return Caps()
        # Before the week's first entry its last one still holds: index -1.
        return self.caps[bisect.bisect_right(self.minutes, second % WEEK_SECONDS / 60) - 1]

    def seconds_to_next(self, second: float) -> float | None:
        """Return how long that holds, at least: until the next entry; None when there is none."""
        if not self.minutes:
            return None
        now = second % WEEK_SECONDS
        index = bisect.bisect_right(self.minutes, now / 60)
        following = self.minutes[index] * 60 if index < len(self.minutes) else self.minutes[0] * 60 + WEEK_SECONDS
        return following - now


def _entry(word: str) -> tuple[int | None, int, Caps]:
    match = _ENTRY.fullmatch(word)
    if match is None:
        raise ValueError(f"{word[:80]!r} is no entry of a timetable; {_RIGHT}")
    day, hour, minute = match[1], int(match[2]), int(match[3])
    if hour > 23 or minute > 59:
        raise ValueError(f"{word[:80]!r}: {match[2]}:{match[3]} is no time of the day")
    rates = match[4].split(":")
    if len(rates) > 3:
        raise ValueError(f"{word[:80]!r}: UP, UP:DOWN or UP:DOWN:HELP was expected")
    values = [_rate(rate) for rate in rates]
    if len(values) == 1:
        values *= 2
    return None if day is None else _day(day), hour * 60 + minute, Caps(*values)


def _day(word: str) -> int:
    name = word.lower()
    for names in (DAYS, LONG_DAYS):
        if name in names:
            return names.index(name)
    raise ValueError(f"{word[:40]!r} is no weekday; {', '.join(DAYS)} are")


def _rate(text: str) -> float | None:
    if text == "off":
        return None
    if text[-1:].isdigit():
        raise ValueError(f"{text[:40]!r} has no unit; say {text[:40]}k, {text[:40]}M or {text[:40]}mbit")
    return parse_rate(text)


def _lower(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)
