"""The command line as a test uses it: run and waited for, or beside the test; never outliving it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_SECONDS_MAX = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Done:
    """What a command left."""

    arguments: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str

    @property
    def objects(self) -> list[Any]:
        """Every JSON object of stdout, one a line (or one over all lines)."""
        try:
            return [json.loads(self.stdout)]
        except ValueError:
            return [json.loads(line) for line in self.stdout.splitlines() if line.strip()]

    @property
    def json(self) -> Any:
        """The last JSON object of stdout."""
        objects = self.objects
        assert objects, f"{self} printed no JSON"
        return objects[-1]

    def __str__(self) -> str:
        words = " ".join(self.arguments)
        return f"upswarm {words} -> {self.exit_code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class Command:
    """A command of the command line that runs beside the test."""

    def __init__(
        self, arguments: Sequence[str], environment: dict[str, str], folder: Path, prefix: Sequence[str] = ()
    ) -> None:
        self.arguments = tuple(arguments)
        self._done: Done | None = None
        # Files, not pipes: nobody need read while it runs.
        self._stdout = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by close()
        self._stderr = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # as above
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", "upswarm", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            env=environment,
            cwd=folder,
            preexec_fn=die_with_parent,
        )

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM, as a service manager or ``timeout`` does."""
        self.process.send_signal(signal.SIGTERM)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def printed(self) -> str:
        """What stdout got so far."""
        return _content(self._stdout)

    @property
    def told(self) -> str:
        """What stderr got so far."""
        return _content(self._stderr)

    def wait(self, seconds: float = COMMAND_SECONDS_MAX) -> Done:
        """Wait for its end."""
        if self._done is not None:
            return self._done
        try:
            exit_code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"upswarm {' '.join(self.arguments)} did not end in {seconds:.0f} s; "
                f"stdout {self.printed[-2000:]!r}, stderr {self.told[-2000:]!r}"
            ) from None
        self._done = Done(self.arguments, exit_code, self.printed, self.told)
        return self._done

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._stdout.close()
        self._stderr.close()


def _content(file: Any) -> str:
    # Read by position: the child writes through the very same open file.
    return os.pread(file.fileno(), 1 << 24, 0).decode("utf-8", "replace")


def die_with_parent() -> None:
    """Run in the child: SIGKILL when the test process dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
