"""Which files of a watched folder are ready to be put: those that have not changed for a while and are not done yet.

Decided from looks alone: each look is what was there at a time, by path. A file that is still being written has another
size or time at the next look, and its wait begins anew. Moved means: gone here, new there; deleted means gone. Neither
is remembered, so neither can confuse anything later.

Pure: the caller looks, keeps time, and remembers what is done. Considered: believing "closed after writing" events. A
program that opens its file twice, or writes over a network, closes it half done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.seam import FileStatus


@dataclass(slots=True)
class Settling:
    """``seconds``: how long a file must stay as it is."""

    seconds: float
    _since: dict[Path, tuple[FileStatus, float]] = field(default_factory=dict)

    def look(self, now: float, found: Mapping[Path, FileStatus], done: Mapping[Path, FileStatus]) -> list[Path]:
        """Take a look; return the files that are ready, in order. ``done``: what each was when it was put last."""
        since: dict[Path, tuple[FileStatus, float]] = {}
        ready = []
        for path, status in found.items():
            if done.get(path) == status:
                continue
            before = self._since.get(path)
            since[path] = before if before is not None and before[0] == status else (status, now)
            if now - since[path][1] >= self.seconds:
                ready.append(path)
        # Whoever is not there any more is forgotten by this.
        self._since = since
        return sorted(ready)

    @property
    def waiting(self) -> int:
        """How many files are watched to settle."""
        return len(self._since)

    def again(self, path: Path, now: float, seconds: float) -> None:
        """Not ready again for so long, although nothing changed: its put has failed."""
        if path in self._since:
            self._since[path] = (self._since[path][0], now + seconds - self.seconds)
