"""A whole swarm on this machine: real processes in folders of their own, joined by real invites.

Starts, watches and stops; what to do with the swarm is the caller's. Every process is the ordinary command
(``python -m upswarm ...``), so that what works here works on three machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.errors import CommandError
from upswarm.client import Client

READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 8.0
POLL_SECONDS = 0.02
TAIL_LINES = 15
TAIL_BYTES = 16 * 1024


class ProcessFailed(CommandError):
    """A process ended, or did not become ready. ``tail``: the end of its log."""

    def __init__(self, sentence: str, tail: str) -> None:
        super().__init__("process-failed", sentence, 1)
        self.tail = tail


@dataclass
class Program:
    """One running process of the swarm. ``ready``: the line it printed when it accepted connections."""

    label: str
    home: Path
    process: subprocess.Popen[bytes]
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """Its node id."""
        return str(self.ready["node"])

    @property
    def log(self) -> Path:
        """Where its stderr goes. A file, not a pipe: nobody has to read it, and it is there afterwards."""
        return self.home / "log"

    @property
    def output(self) -> Path:
        """Where its stdout goes."""
        return self.home / "out"

    def tail(self) -> str:
        """Return the last lines of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def wait_ready(self) -> None:
        """Wait for the line that says it accepts connections.

        Raises:
            ProcessFailed: it ended, or took too long.
        """
        due = time.monotonic() + READY_SECONDS_MAX
        while True:
            line, newline, _ = self.output.read_bytes().partition(b"\n")
            if newline:
                try:
                    self.ready = dict(json.loads(line))
                except (ValueError, TypeError) as error:
                    raise ProcessFailed(
                        f"{self.label} printed something else than its ready line", self.tail()
                    ) from error
                return
            code = self.process.poll()
            if code is not None:
                raise ProcessFailed(f"{self.label} ended with exit code {code}", self.tail())
            if time.monotonic() > due:
                raise ProcessFailed(f"{self.label} was not ready after {READY_SECONDS_MAX:.0f} s", self.tail())
            time.sleep(POLL_SECONDS)


class LocalSwarm:
    """A tracker, a storage node and peers below the folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs: list[Program] = []

    # --- building ---

    def start_tracker(self) -> Program:
        """Start the tracker, and with it a new swarm."""
        flags = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns"]
        tracker = self._start("tracker", "tracker", flags)
        tracker.wait_ready()
        return tracker

    def invite(self, role: str, uses: int) -> str:
        """Return an invite for ``uses`` nodes of ``role``."""
        with Client.of_home(self.root / "tracker", "tracker") as tracker:
            answer = tracker.call("invite", {"role": role, "uses": uses, "expires_seconds": 3600})
        return str(answer["invite"])

    def join(self, invites: Mapping[str, str]) -> None:
        """Let the nodes of these labels join, all at once, each in a process of its own.

        Raises:
            ProcessFailed: one of them was refused.
        """
        joining: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for label, invite in invites.items():
                arguments = ["join", "-", "--name", label, "--home", str(self._home(label))]
                joining[label] = process = subprocess.Popen(
                    _command(arguments),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=_environment(),
                    start_new_session=True,
                )
                assert process.stdin is not None
                # By stdin: an invite among the arguments could be read by everybody on this machine.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(invite.encode("ascii"))
                    process.stdin.flush()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                process.stdin = None
            for label, process in joining.items():
                try:
                    _, said = process.communicate(timeout=READY_SECONDS_MAX)
                except subprocess.TimeoutExpired as error:
                    raise ProcessFailed(f"{label} did not join in {READY_SECONDS_MAX:.0f} s", "") from error
                if process.returncode:
                    words = said.decode("utf-8", "replace").strip()
                    raise ProcessFailed(f"{label} could not join (exit code {process.returncode})", words)
        finally:
            for process in joining.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stderr is not None:
                    process.stderr.close()

    def start_members(self, peers: Sequence[str], up_bytes_per_second: float) -> tuple[Program, list[Program]]:
        """Start the storage node and a daemon for each of ``peers``, whose uplinks are capped; return all. They must
        have joined."""
        data = self._home("storage") / "data"
        flags = ["--listen", "127.0.0.1:0", "--no-mdns"]
        storage = self._start("storage", "storage", [*flags, "--data", str(data)])
        # In bits: that is how lines are sold, and the unit that this flag's help shows.
        up = f"{round(up_bytes_per_second * 8)}bit"
        daemons = [self._start(label, "daemon", [*flags, "--up", up]) for label in peers]
        for program in (storage, *daemons):
            program.wait_ready()
        return storage, daemons

    def _home(self, label: str) -> Path:
        return self.root / label.replace(" ", "-")

    def _start(self, label: str, program: str, flags: Sequence[str]) -> Program:
        home = self._home(label)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (home / "out").open("wb") as output, (home / "log").open("wb") as log:
            process = subprocess.Popen(
                _command([program, "--home", str(home), "--name", label, *flags]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=_environment(),
                # Ctrl-C is ours: we end them in order.
                start_new_session=True,
            )
        started = Program(label, home, process)
        self.programs.append(started)
        return started

    # --- watching and stopping ---

    def check(self) -> None:
        """Raise ``ProcessFailed`` when a process has ended that should run."""
        for program in self.programs:
            code = program.process.poll()
            if code is not None:
                raise ProcessFailed(f"{program.label} ended with exit code {code}", program.tail())

    def stop(self) -> None:
        """End all processes: politely, then not. Peers first, so that nobody misses the tracker."""
        for program in reversed(self.programs):
            if program.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    program.process.send_signal(signal.SIGTERM)
        due = time.monotonic() + STOP_SECONDS_MAX
        for program in self.programs:
            try:
                program.process.wait(timeout=max(0.0, due - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()


def _command(arguments: Sequence[str]) -> list[str]:
    # -P: a folder called "tracker" where somebody stands must not be taken for our package.
    return [sys.executable, "-P", "-m", "upswarm", *arguments]


def _environment() -> dict[str, str]:
    """Return our environment without the settings of whoever started us: they are for another swarm."""
    return {key: value for key, value in os.environ.items() if not key.startswith("UPSWARM_")}
