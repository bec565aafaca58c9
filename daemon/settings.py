"""What the user changed while the daemon ran, and wants to find again after a restart: caps and pause.

Kept in the daemon's database; a key that is not there means: as configured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from daemon.config import DaemonConfig
from protocol.errors import CommandError
from runtime.seam import Database


@dataclass(frozen=True, slots=True)
class Settings:
    """Caps in bytes per second; None is no cap."""

    up: float | None
    down: float | None
    help: float | None
    paused: bool


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
        changed = {key: json.loads(value) for key, value in rows.items() if key in ("up", "down", "help", "paused")}
        return cls(database, config, changed)

    def configure(self, config: DaemonConfig) -> None:
        """Take what is configured; what was changed while running goes before it."""
        self.settings = replace(
            Settings(config.up_bytes_per_second, config.down_bytes_per_second, config.help_bytes_per_second, False),
            **self._changed,
        )

    async def change(self, **changed: float | bool | None) -> Settings:
        """Change ``up``, ``down``, ``help`` or ``paused``; durable when this returns."""
        rows = [(key, json.dumps(value)) for key, value in changed.items()]
        await self._database.transaction(
            lambda cursor: cursor.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)
        )
        self._changed |= changed
        self.settings = replace(self.settings, **changed)  # type: ignore[arg-type]  # keys are fields, by the callers
        return self.settings


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
