"""A swarm of real processes: started, joined, killed, started again, asked, and all gone when the test is.

Decides how a process is started and waited for, and that nothing of it outlives its test. What the processes must do is
the tests' business. No wait is blind: everything polls a condition and has a deadline, and a test that fails shows the
end of every process's log.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from support.commands import COMMAND_SECONDS_MAX, Command, Done, die_with_parent

T = TypeVar("T")

READY_SECONDS_MAX = 30.0
WAIT_SECONDS_MAX = 30.0
PAUSE_SECONDS = 0.03
LOG_TAIL_LINES = 15


def wait_until(
    condition: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS_MAX, pause: float = PAUSE_SECONDS
) -> T:
    """Return the first true answer of ``condition``; an AssertionError that names ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)


class Refused(Exception):
    """The control socket answered with an error: ``code`` of JSON-RPC, ``data`` of ours."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.data: dict[str, Any] = error.get("data") or {}


def _values_of(thing: Any, name: str) -> Iterator[Any]:
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key == name:
                yield value
            yield from _values_of(value, name)
    elif isinstance(thing, list):
        for value in thing:
            yield from _values_of(value, name)


class Program:
    """A tracker, a storage node or a daemon: one home, one process at a time, the same port after each start."""

    def __init__(self, swarm: Swarm, kind: str, name: str, arguments: Sequence[str]) -> None:
        self.swarm = swarm
        self.kind = kind
        self.name = name
        self.home = swarm.folder / name
        self.arguments = list(arguments)
        self.environment: dict[str, str] = {}
        self.prefix: tuple[str, ...] = ()  # such as ("ip", "netns", "exec", NAME)
        self.ready: dict[str, Any] = {}
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    # --- its life ---

    def start(self) -> Program:
        """Start it and wait for its ready line."""
        self.launch()
        self.wait_ready()
        return self

    def launched(self) -> Program:
        """Start it without waiting, and return it."""
        self.launch()
        return self

    def launch(self) -> None:
        """Start it without waiting."""
        assert not self.running, f"{self} runs already"
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            log.write(f'{{"event": "=== start {self.starts}"}}\n'.encode())
            log.flush()
            self._process = subprocess.Popen(
                [
                    *self.prefix,
                    sys.executable,
                    "-P",
                    "-m",
                    "upswarm",
                    "--home",
                    str(self.home),
                    self.kind,
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.swarm.environment | self.environment,
                cwd=self.swarm.folder,
                preexec_fn=die_with_parent,
            )
        self.starts += 1

    def wait_ready(self, seconds: float = READY_SECONDS_MAX) -> None:
        """Wait for the ready line and remember the ports."""
        assert self._process is not None and self._process.stdout is not None
        deadline = time.monotonic() + seconds
        line = bytearray()
        descriptor = self._process.stdout.fileno()
        while not line.endswith(b"\n"):
            rest = deadline - time.monotonic()
            readable = rest > 0 and select.select([descriptor], [], [], rest)[0]
            assert readable, f"{self} was not ready in {seconds:.0f} s\n{self.log_tail()}"
            data = os.read(descriptor, 4096)
            assert data, f"{self} ended with {self._process.wait()} before it was ready\n{self.log_tail()}"
            line += data
        self.ready = json.loads(line)
        assert self.ready["ready"] == self.kind
        # The same place after a restart: others know it by its address.
        self._pin("--listen", self.ready["listen"])
        if "http" in self.ready and self.kind == "tracker":
            self._pin("--http", self.ready["http"])

    def _pin(self, flag: str, address: str) -> None:
        self.arguments[self.arguments.index(flag) + 1] = address

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.end(signal.SIGKILL)

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM; return the exit code."""
        return self.end(signal.SIGTERM, seconds)

    def end(self, signal_number: int, seconds: float = 20.0) -> int:
        """Send a signal that ends it and wait for that."""
        assert self._process is not None
        self._process.send_signal(signal_number)
        try:
            exit_code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end in {seconds:.0f} s\n{self.log_tail()}") from None
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        return exit_code

    def restart(self) -> None:
        """SIGKILL and start again."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End of the test: kill whatever runs."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    # --- what it is ---

    @property
    def node(self) -> str:
        """Its node id."""
        return str(self.ready["node"])

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.ready["listen"])

    @property
    def state(self) -> Path:
        """The folder of its state."""
        return self.home / self.kind

    @property
    def data(self) -> Path:
        """Where a storage node keeps what is stored."""
        return Path(self.arguments[self.arguments.index("--data") + 1])

    @property
    def identity(self) -> Path:
        """The folder of its key and certificate."""
        return self.state / "identity"

    @property
    def socket_path(self) -> Path:
        """Its control socket."""
        return self.state / "control.sock"

    def resident_bytes(self) -> int:
        """What it keeps in memory now (RSS)."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def counter(self, name: str) -> int:
        """Return the number that ``status`` gives under ``name``, wherever it stands there."""
        found = list(_values_of(self.call("status"), name))
        assert len(found) == 1, (name, found, self.call("status"))
        return int(found[0])

    @property
    def sent_bytes(self) -> int:
        """All bytes of chunks that left it."""
        traffic = self.call("status")["traffic"]
        return int(traffic["sent_own_bytes"] + traffic["sent_help_bytes"])

    # --- what it says ---

    @property
    def log_path(self) -> Path:
        """Its stderr, of all starts."""
        return self.swarm.folder / f"{self.name}.stderr"

    def log(self) -> list[dict[str, Any]]:
        """Return its log lines; what is no JSON comes as event text."""
        if not self.log_path.exists():
            return []
        lines: list[dict[str, Any]] = []
        for text in self.log_path.read_text("utf-8", "replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                line = text
            lines.append(line if isinstance(line, dict) else {"event": text})
        return lines

    def logged(self, event: str, **fields: str) -> list[dict[str, Any]]:
        """Return the lines whose event begins with ``event`` and whose fields contain these texts."""
        return [
            line
            for line in self.log()
            if str(line.get("event", "")).startswith(event)
            and all(text in str(line.get(field, "")) for field, text in fields.items())
        ]

    def wait_logged(self, event: str, *, more_than: int = 0, seconds: float = WAIT_SECONDS_MAX, **fields: str) -> None:
        """Wait until more than ``more_than`` such lines are there."""
        wait_until(
            lambda: len(self.logged(event, **fields)) > more_than, f"{self} logs {event!r} with {fields}", seconds
        )

    def log_tail(self) -> str:
        """Return the end of its log."""
        if not self.log_path.exists():
            return f"--- {self.name}: no log"
        lines = self.log_path.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"--- end of the log of {self.name}", *(line[:500] for line in lines)])

    # --- asking it ---

    def call(self, method: str, /, seconds: float = WAIT_SECONDS_MAX, **params: Any) -> Any:
        """Ask its control socket. Raises ``Refused``, and ``OSError`` when nobody answers there."""
        *_, answer = self.conversation(method, params, seconds)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def conversation(self, method: str, params: dict[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
        """Yield notifications as they come, and the answer last."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(str(self.socket_path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    yield message
                    if "method" not in message:
                        return
        raise ConnectionError(f"{self} hung up before it answered {method}")

    def upswarm(self, *arguments: str | Path, check: bool = True, seconds: float = COMMAND_SECONDS_MAX) -> Done:
        """Run a command of the command line on its home, and wait."""
        done = self.begin(*arguments).wait(seconds)
        assert not check or done.exit_code == 0, str(done)
        return done

    def begin(self, *arguments: str | Path) -> Command:
        """Run a command beside the test."""
        return self.swarm.begin("--home", self.home, *arguments)


class Swarm:
    """A folder, a tracker, and what joins it. Use as a context manager: on leaving, every process is killed."""

    def __init__(self) -> None:
        # Short: the path of a Unix socket has little room.
        self.folder = Path(tempfile.mkdtemp(prefix="up-", dir="/tmp"))
        self.programs: list[Program] = []
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("UPSWARM_")}
        self.environment |= {"PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        self._commands: list[Command] = []

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill everything and remove the folder."""
        for command in self._commands:
            command.close()
        for program in self.programs:
            program.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tails(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(program.log_tail() for program in self.programs)

    # --- members ---

    def tracker(self, name: str = "tracker", *arguments: str) -> Program:
        """Start a tracker; its first start makes the swarm."""
        flags = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns", *arguments]
        return self.add("tracker", name, flags).start()

    def storage(self, name: str = "storage", *arguments: str) -> Program:
        """Join and start a storage node."""
        return self.join(self.add_storage(name, *arguments)).start()

    def daemon(self, name: str, *arguments: str, **settings: str) -> Program:
        """Join and start a daemon; ``settings`` go by the environment (``up_bytes_per_second="5M"``)."""
        return self.join(self.add_daemon(name, *arguments, **settings)).start()

    def daemons(self, count: int, **settings: str) -> list[Program]:
        """Join and start daemons d0, d1, ..., side by side."""
        return self.start_all([self.add_daemon(f"d{number}", **settings) for number in range(count)])

    def start_all(self, programs: list[Program]) -> list[Program]:
        """Join and start ``programs`` side by side."""
        joins = [(program, self.begin_join(program)) for program in programs]
        for program, joining in joins:
            done = joining.wait()
            assert done.exit_code == 0, str(done)
            program.launch()
        for program in programs:
            program.wait_ready()
        return programs

    def add_daemon(self, name: str, *arguments: str, **settings: str) -> Program:
        """Return a daemon that has neither joined nor started."""
        program = self.add("daemon", name, ["--listen", "127.0.0.1:0", "--no-mdns", *arguments])
        program.environment = {f"UPSWARM_DAEMON_{key.upper()}": value for key, value in settings.items()}
        return program

    def add_storage(self, name: str, *arguments: str) -> Program:
        """Return a storage node that has neither joined nor started."""
        data = self.folder / f"{name}.data"
        return self.add("storage", name, ["--listen", "127.0.0.1:0", "--data", str(data), "--no-mdns", *arguments])

    def add(self, kind: str, name: str, arguments: Sequence[str]) -> Program:
        """Return a program that is neither joined nor started."""
        assert all(program.name != name for program in self.programs), name
        program = Program(self, kind, name, arguments)
        self.programs.append(program)
        return program

    def join(self, program: Program) -> Program:
        """Let a program's home join the swarm."""
        done = self.begin_join(program).wait()
        assert done.exit_code == 0, str(done)
        return program

    def begin_join(self, program: Program) -> Command:
        """Let a program's home join the swarm, beside the test."""
        role = "storage" if program.kind == "storage" else "peer"
        return self.begin("--home", program.home, "join", self.invite(role), prefix=program.prefix)

    def invite(self, role: str = "peer", **params: Any) -> str:
        """Return an invite, made by the (first) tracker."""
        tracker = self.programs[0]
        assert tracker.kind == "tracker"
        return str(tracker.call("invite", role=role, uses=1, expires_seconds=600, **params)["invite"])

    # --- commands ---

    def upswarm(self, *arguments: str | Path, seconds: float = COMMAND_SECONDS_MAX) -> Done:
        """Run a command and wait."""
        return self.begin(*arguments).wait(seconds)

    def begin(self, *arguments: str | Path, prefix: Sequence[str] = ()) -> Command:
        """Run a command beside the test."""
        command = Command([str(argument) for argument in arguments], self.environment, self.folder, prefix)
        self._commands.append(command)
        return command


def ended(pid: int) -> bool:
    """Whether no process of that number lives."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True
