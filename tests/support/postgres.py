"""A real PostgreSQL: a cluster of the tests' own on loopback, as the user postgres when we are root. Gone afterwards.

It may be stopped and started, and clients may be thrown out; each test takes a database of its own.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from support.commands import die_with_parent

PASSWORD = "a password for tests that nobody may print"
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0


def _tool(name: str) -> str:
    """Where Debian keeps the server's programs, which are in nobody's path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    known = str(found[-1]) if found else shutil.which(name)
    assert known, f"{name} is not installed; scripts/install-test-packages installs it"
    return known


class Postgres:
    """``start`` and ``stop`` it; ``close`` in the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        # It refuses to run as root.
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            for path in (self.folder, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        command = [_tool("initdb"), "-D", str(self.data), "-U", "owner", "-A", "scram-sha-256", "-E", "UTF8"]
        command += ["--locale=C", "--no-sync", f"--pwfile={secret}"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._as_user())

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _as_user(self) -> dict[str, int]:
        return {"user": self._user.pw_uid, "group": self._user.pw_gid} if self._user is not None else {}

    def address(self, database: str = "postgres") -> str:
        """Without the password."""
        return f"postgresql://owner@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make a database and return its address."""
        name = f"ledger_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return self.address(name)

    def ask(self, statement: str, address: str | None = None) -> list[tuple[object, ...]]:
        """Ask with other eyes than the program's."""
        with psycopg.connect(address or self.address(), password=PASSWORD, autocommit=True) as connection:
            answer = connection.execute(statement.encode())
            return answer.fetchall() if answer.description else []

    def throw_out(self) -> None:
        """End the connections of everybody, as an administrator or a failover does."""
        self.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'upswarm'")

    def start(self) -> Postgres:
        """Start it and wait until it answers."""
        assert self._process is None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    _tool("postgres"),
                    "-D",
                    str(self.data),
                    "-p",
                    str(self.port),
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "unix_socket_directories=",
                    "-c",
                    "shared_buffers=16MB",
                    # Its processes are killed, this machine is not.
                    "-c",
                    "fsync=off",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=die_with_parent,
                **self._as_user(),
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.ask("SELECT 1")
                return self
            except psycopg.OperationalError:
                assert self._process.poll() is None and time.monotonic() < deadline, self.log_tail()
                time.sleep(0.05)

    def stop(self) -> None:
        """At once (SIGQUIT): as after a crash, it recovers from its log when it starts."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        return "\n".join((self.folder / "log").read_text("utf-8", "replace").splitlines()[-20:])


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server while the block lasts."""
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.close()
