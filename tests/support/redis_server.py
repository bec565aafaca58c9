"""A real Redis server: one process on loopback, with a port and a folder of its own, that keeps nothing on disk.

Started, paused and killed by tests as often as they like, always on the same port. Dies with the test process.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from types import TracebackType

from support.commands import die_with_parent

START_SECONDS_MAX = 30.0
PASSWORD = "a word for tests"


class RedisProcess:
    """A context manager; started when entered. ``flags`` as redis-server takes them."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._folder = tempfile.mkdtemp(prefix="redis-", dir="/tmp")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it; returns when it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder]
        command += ["--save", "", "--appendonly", "no", "--requirepass", PASSWORD, "--loglevel", "warning"]
        self._process = subprocess.Popen(
            [*command, *self._flags], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
        )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
            client.sendall(b"PING\r\n")
            return bool(client.recv(64))
        return False

    def say(self, *words: str) -> bytes:
        """Give one command and return the beginning of the answer: for what a test does behind everybody's back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            for command in (("AUTH", PASSWORD), words):
                parts = [f"*{len(command)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in command)]
                client.sendall("".join(parts).encode())
                answer = client.recv(65536)
        return answer

    def kill(self) -> None:
        """End it at once; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: it accepts, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> RedisProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def running_redis(*flags: str) -> Iterator[RedisProcess]:
    """Run one while the block lasts."""
    with RedisProcess(*flags) as server:
        yield server
