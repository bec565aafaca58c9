"""Settling against the plainest model: a list of everything that was ever seen, by path and time."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daemon.settling import Settling
from runtime.seam import FileStatus

NAMES = st.sampled_from([Path("a"), Path("b"), Path("c")])
SECONDS = 5.0


def status(version: int) -> FileStatus:
    return FileStatus("file", version, version, version, 1, 1)


class SettlingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.settling = Settling(SECONDS)
        self.now = 0.0
        self.versions = 0
        self.disk: dict[Path, FileStatus] = {}
        self.done: dict[Path, FileStatus] = {}
        self.looks: list[tuple[float, dict[Path, FileStatus]]] = []

    @rule(name=NAMES)
    def write(self, name: Path) -> None:
        self.versions += 1
        self.disk[name] = status(self.versions)

    @rule(name=NAMES)
    def delete(self, name: Path) -> None:
        self.disk.pop(name, None)

    @rule(name=NAMES, other=NAMES)
    def move(self, name: Path, other: Path) -> None:
        if name in self.disk:
            self.disk[other] = self.disk.pop(name)

    @rule(seconds=st.floats(0, 7))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(finish=st.booleans())
    def look(self, finish: bool) -> None:
        self.looks.append((self.now, dict(self.disk)))
        ready = self.settling.look(self.now, self.disk, self.done)
        assert ready == sorted(path for path in self.disk if self.is_ready(path))
        if finish:
            self.done |= {path: self.disk[path] for path in ready}

    def is_ready(self, path: Path) -> bool:
        """It is not done as it is, and every look of the last five seconds, and one before, saw it as it is."""
        now = self.disk[path]
        if self.done.get(path) == now:
            return False
        since = self.now
        for when, seen in reversed(self.looks):
            if seen.get(path) != now:
                break
            since = when
        return self.now - since >= SECONDS

    @invariant()
    def what_a_look_saw_and_is_not_done_is_waited_for(self) -> None:
        seen = self.looks[-1][1] if self.looks else {}
        waiting = {path for path, one in seen.items() if self.done.get(path) != one}
        assert self.settling.waiting((), self.done) == len(waiting)
        assert self.settling.waiting(waiting, self.done) == 0
        assert self.settling.is_near(self.now, ()) or not waiting


TestSettling = SettlingMachine.TestCase
