"""What the user changed while the daemon ran, and wants to find again after a restart: caps and pause.

Kept in the daemon's database; a key that is not there means: as configured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog
import trio

from daemon.config import DaemonConfig
from daemon.timetable import Caps, Timetable
from protocol.errors import CommandError
from runtime.seam import Clock, Database

log = structlog.get_logger()

TIMETABLE_SECONDS_MAX = 60.0
KEYS = ("up", "down", "help", "paused", "timetable", "idle")


@dataclass(frozen=True, slots=True)
class Settings:
    """Caps in bytes per second; None is no cap. ``timetable``: further caps by the hour; the lower one holds. ``idle``:
    help makes way for everybody else on the line."""

    up: float | None
    down: float | None
    help: float | None
    paused: bool = False
    timetable: str = ""
    idle: bool = False

    @property
    def caps(self) -> Caps:
        """What holds at all hours."""
        return Caps(self.up, self.down, self.help)


class SettingsKeeper:
    """The settings in force. Made by ``load``."""

    def __init__(self, database: Database, config: DaemonConfig, changed: Mapping[str, Any]) -> None:
        self._database = database
        self._changed = dict(changed)
        self.configure(config)

    @classmethod
    async def load(cls, database: Database, config: DaemonConfig) -> SettingsKeeper:
        """Read what was changed in earlier lives."""
        rows = await database.read(lambda cursor: dict(cursor.execute("SELECT key, value FROM settings")))
        changed = {key: json.loads(value) for key, value in rows.items() if key in KEYS}
        return cls(database, config, changed)

    def configure(self, config: DaemonConfig) -> None:
        """Take what is configured; what was changed while running goes before it."""
        self.settings = replace(
            Settings(
                config.up_bytes_per_second,
                config.down_bytes_per_second,
                config.help_bytes_per_second,
                timetable=config.timetable,
                idle=config.help_when_idle,
            ),
            **self._changed,
        )
        self._parsed = Timetable.parse(self.settings.timetable)

    def caps_at(self, wall: float) -> Caps:
        """Return what holds at a time (seconds since 1970): the lower of what is set and what the timetable says."""
        return self.settings.caps.within(self._parsed.at(_second_of_week(wall)))

    def seconds_to_next(self, wall: float) -> float | None:
        """Return in how many seconds the timetable has its next entry; None when there is none."""
        return self._parsed.seconds_to_next(_second_of_week(wall))

    async def follow_timetable(self, clock: Clock, apply: Callable[[Caps], None]) -> None:
        """Call ``apply`` whenever the timetable has come to say something else, until cancelled."""
        before = self.caps_at(clock.wall())
        while True:
            wait = self.seconds_to_next(clock.wall())
            # Looked at every minute all the same: clocks are set, and summer begins.
            await trio.sleep(TIMETABLE_SECONDS_MAX if wait is None else min(wait, TIMETABLE_SECONDS_MAX))
            caps = self.caps_at(clock.wall())
            if caps != before:
                log.info("caps by the timetable", up=caps.up, down=caps.down, help=caps.help)
                apply(caps)
                before = caps

    async def change(self, **changed: float | bool | str | None) -> Settings:
        """Change ``up``, ``down``, ``help``, ``paused``, ``timetable`` or ``idle``; durable when this returns."""
        rows = [(key, json.dumps(value)) for key, value in changed.items()]
        await self._database.transaction(
            lambda cursor: cursor.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)
        )
        self._changed |= changed
        self.settings = replace(self.settings, **changed)  # type: ignore[arg-type]  # keys are fields, by the callers
        self._parsed = Timetable.parse(self.settings.timetable)
        return self.settings


def read_timetable(value: Any) -> str:
    """Return a timetable as a caller gives it; "" for none.

    Raises:
        CommandError: it is none.
    """
    if not isinstance(value, str | None):
        raise CommandError("usage", "timetable: a text was expected", 2)
    try:
        return Timetable.parse(value or "").text
    except ValueError as error:
        raise CommandError("usage", f"timetable: {error}", 2) from error


def _second_of_week(wall: float) -> float:
    """Return how long ago Monday 00:00 was by this machine's local time."""
    try:
        moment = datetime.fromtimestamp(wall)
    except (ValueError, OverflowError, OSError):
        return 0.0  # A clock beyond all calendars.
    return moment.weekday() * 86400 + moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6


def read_switch(key: str, value: Any) -> bool:
    """Return what a caller gives as on or off. Raises ``CommandError`` when it is neither."""
    if value in ("on", True):
        return True
    if value in ("off", False, None):
        return False
    raise CommandError("usage", f'{key}: "on" or "off" was expected', 2)


def read_rate(key: str, value: Any) -> float | None:
    """Return a cap as a caller gives it: bytes per second, or "off" for none.

    Raises:
        CommandError: it is neither.
    """
    if value in ("off", None):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**60:
        raise CommandError("usage", f'{key}: {value!r} is no rate; bytes per second above 0, or "off"', 2)
    return float(value)
