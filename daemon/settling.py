"""Which files of a watched folder are ready to be put: those that have not changed for a while and are not done yet.

Decided from looks alone: each look is what was there at a time, by path. A file that is still being written has another
size or time at the next look, and its wait begins anew. Moved means: gone here, new there; deleted means gone. Neither
is remembered, so neither can confuse anything later.

Pure: the caller looks, keeps time, and remembers what is done. Considered: believing "closed after writing" events. A
program that opens its file twice, or writes over a network, closes it half done.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
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

    def waiting(self, busy: Container[Path], done: Mapping[Path, FileStatus]) -> int:
        """Return how many files are to settle still: neither being put (``busy``) nor put since the last look."""
        return sum(path not in busy and done.get(path) != status for path, (status, _) in self._since.items())

    def is_near(self, now: float, busy: Container[Path]) -> bool:
        """Whether a file may be ready soon, so that it is worth looking again and again."""
        return any(since <= now and path not in busy for path, (_, since) in self._since.items())

    def again(self, path: Path, now: float, seconds: float) -> None:
        """Not ready again for so long, although nothing changed: its put has failed."""
        if path in self._since:
            self._since[path] = (self._since[path][0], now + seconds - self.seconds)
