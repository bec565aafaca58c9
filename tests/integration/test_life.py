"""A program under a service manager: real processes, a real notification socket."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0

# What MemoryDenyWriteExecute= of the units does, where the kernel can do it to itself (6.3): PR_SET_MDWE.
FENCED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0);"
    "os.execv(sys.executable, [sys.executable, '-P', '-m', 'upswarm', *sys.argv[1:]])"
)


class Manager:
    """What systemd would hear."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.heard: list[str] = []

    def wait(self, word: str, seconds: float = SECONDS_MAX) -> None:
        """Wait until ``word`` has been said once more."""
        deadline = time.monotonic() + seconds
        while True:
            readable, _, _ = select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"{word} was not said in {seconds:.0f} s; {self.heard[-5:]}"
            said = self._socket.recv(4096).decode()
            self.heard.append(said)
            if said.startswith(word):
                return

    def close(self) -> None:
        self._socket.close()


@contextmanager
def tracker(folder: Path, watchdog_seconds: float = 3.0) -> Iterator[tuple[subprocess.Popen[bytes], Manager]]:
    manager = Manager(folder)
    # WATCHDOG_PID is left out: it is that of the process before exec, as it would be under systemd.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NOTIFY_SOCKET": str(manager.path),
        "WATCHDOG_USEC": str(int(watchdog_seconds * 1e6)),
    }
    arguments = ["--home", str(folder), "tracker", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", FENCED, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=folder,
        )
    try:
        yield process, manager
    finally:
        process.kill()
        process.wait()
        manager.close()


def test_a_program_says_when_it_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    with tracker(tmp_path) as (process, manager):
        manager.wait("READY=1")
        assert "STATUS=listens on 127.0.0.1:" in manager.heard[-1]
        manager.wait("WATCHDOG=1")
        manager.wait("WATCHDOG=1")
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        manager.wait("STOPPING=1")
        assert process.wait(STOP_SECONDS_MAX) == 0
        assert time.monotonic() - begin < STOP_SECONDS_MAX


def test_a_program_that_hangs_feeds_no_watchdog(tmp_path: Path) -> None:
    with tracker(tmp_path, watchdog_seconds=0.3) as (process, manager):
        manager.wait("READY=1")
        manager.wait("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        silent = False
        while not silent:
            readable, _, _ = select.select([manager._socket], [], [], 1.0)
            silent = not readable
            if readable:
                manager._socket.recv(4096)
        process.send_signal(signal.SIGCONT)
        manager.wait("WATCHDOG=1")


def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    def logged(word: str) -> bool:
        return word in (tmp_path / "log").read_text()

    with tracker(tmp_path) as (process, manager):
        manager.wait("READY=1")
        (tmp_path / "upswarm.toml").write_text('[tracker]\nlog_level = "debug"\nname = "other"\n')
        process.send_signal(signal.SIGHUP)
        manager.wait("RELOADING=1")
        manager.wait("READY=1")
        assert logged("settings read again") and logged('["name"]'), "what waits for a restart is named"
        (tmp_path / "upswarm.toml").write_text("[tracker]\nnmae = 1\n")
        process.send_signal(signal.SIGHUP)
        manager.wait("RELOADING=1")
        manager.wait("READY=1")
        assert logged("did you mean name?") and process.poll() is None
