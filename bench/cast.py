"""Who acts in a scenario: tracker, storage node and daemons as real processes on a testbed's hosts, and what is
read off them; libtorrent's cast too. Decides how things are started, timed and counted; the plot is scenarios.py's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from support.commands import die_with_parent
from support.processes import Program, Refused, Swarm, wait_until

from bench.contest import cpu_seconds
from bench.testbed import Testbed

PUT_SECONDS_MAX = 900.0
PAUSE_SECONDS = 0.02
SERVERS = ("tracker", "storage")


class Cast:
    """Started by ``opened``. The hosts ``tracker`` and ``storage`` run those, every other host a daemon."""

    def __init__(self, testbed: Testbed, swarm: Swarm) -> None:
        self.testbed = testbed
        self.swarm = swarm
        self.daemons: dict[str, Program] = {}
        self.tracker: Program
        self.storage: Program

    @classmethod
    @contextlib.contextmanager
    def opened(cls, testbed: Testbed, *, lend: Sequence[str] = (), mdns: bool = False) -> Iterator[Cast]:
        """Start everybody and wait until they know each other."""
        with Swarm() as swarm:
            cast = cls(testbed, swarm)
            quiet = [] if mdns else ["--no-mdns"]
            listen = f"{testbed.addresses['tracker']}:4100"
            cast.tracker = cast._add("tracker", "tracker", ["--listen", listen, "--http", "127.0.0.1:4180", *quiet])
            cast.tracker.start()
            data = str(swarm.folder / "storage.data")
            cast.storage = cast._add("storage", "storage", ["--listen", "0.0.0.0:4200", "--data", data, *quiet])
            for name in testbed.hosts:
                if name not in SERVERS:
                    flags = ["--listen", "0.0.0.0:4101", *quiet, *(["--lend"] if name in lend else [])]
                    cast.daemons[name] = cast._add("daemon", name, flags)
            programs = [cast.storage, *cast.daemons.values()]
            cast._join(programs)
            for program in programs:
                program.launch()
            for program in programs:
                program.wait_ready()
                program.wait_logged("tracker connected")
            if mdns:
                for name, program in cast.daemons.items():
                    cast._wait_lan(name, program)
            yield cast

    def _add(self, kind: str, name: str, arguments: Sequence[str]) -> Program:
        program = self.swarm.add(kind, name, [*arguments, "--name", name])
        program.prefix = self.testbed.prefix(name)
        return program

    def _join(self, programs: Sequence[Program]) -> None:
        joining = []
        for program in programs:
            role = "storage" if program.kind == "storage" else "peer"
            invite = self.swarm.invite(role)
            joining.append(self.swarm.begin("--home", program.home, "join", invite, prefix=program.prefix))
        for command in joining:
            done = command.wait()
            assert done.exit_code == 0, str(done)

    def _wait_lan(self, name: str, program: Program) -> None:
        lan = self.testbed.hosts[name].lan
        others = sum(1 for host in self.testbed.hosts.values() if lan and host.lan == lan) - 1
        if lan:
            wait_until(lambda: program.call("status")["lan_nodes"] >= others, f"{name} sees its LAN", 60)

    def share(self, names: Sequence[str], file: Path) -> str:
        """Let these hold ``file``, and wait until the tracker knows; return its tag."""
        tag = ""
        for name in names:
            (row,) = self.daemons[name].call("share", PUT_SECONDS_MAX, paths=[str(file)])["results"]
            tag = row["tag"]
        asked = next(iter(self.daemons.values()))
        nodes = {self.daemons[name].node for name in names} - {asked.node}

        def known() -> bool:
            try:
                shown = str(asked.call("show", tag=tag))
            except Refused:
                return False  # nobody has told yet
            return all(node in shown for node in nodes)

        wait_until(known, "the tracker knows", 60)
        return tag

    def share_own(self, name: str, file: Path) -> None:
        """Let one hold ``file``, known to the tracker or not."""
        self.daemons[name].call("share", PUT_SECONDS_MAX, paths=[str(file)])

    def sent(self) -> dict[str, tuple[int, int]]:
        """Return for each daemon the payload bytes that it has sent: to storage, and to peers."""
        return {name: sent_by(program) for name, program in self.daemons.items() if program.running}

    def stored(self, tag: str) -> bool:
        """Whether storage has it."""
        rows = self.storage.call("ls")["files"]
        return any(row["tag"] == tag and row.get("state", "stored") == "stored" for row in rows)

    def wasted(self) -> int:
        """Return what storage received in vain."""
        return self.storage.counter("wasted_bytes")

    def cpu(self) -> dict[str, float]:
        """Return the processor seconds that each program has used so far. Soft interrupts: what the kernel does for
        packets, for whoever runs at that moment; most of it is in the others' figures already."""
        programs = (self.tracker, self.storage, *self.daemons.values())
        used = {program.name: cpu_seconds(program.pid) for program in programs if program.running}
        return used | {"soft interrupts": psutil.cpu_times().softirq}

    def cpu_since(self, before: dict[str, float]) -> dict[str, float]:
        """Return the same since it was ``before``."""
        return {name: seconds - before.get(name, 0.0) for name, seconds in self.cpu().items()}

    def keep_logs(self, folder: Path | None, scenario: str) -> None:
        """Copy what the programs have logged to ``folder``, if there is one."""
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for program in self.swarm.programs:
            if program.log_path.exists():
                shutil.copy(program.log_path, folder / f"{scenario}-{program.name}.log")


def sent_by(program: Program) -> tuple[int, int]:
    """Return the payload bytes that a daemon has sent: to storage, and to peers."""
    traffic = program.call("status")["traffic"]
    total = traffic["sent_own_bytes"] + traffic["sent_help_bytes"]
    links = program.call("peers")
    rows = links if isinstance(links, list) else next(value for value in links.values() if isinstance(value, list))
    to_peers = sum(row["bytes_sent"] for row in rows if row["role"] == "peer")
    # Links count every byte, also the words about the bytes; what is left after peers went to storage.
    to_peers = min(total, to_peers) if to_peers > 64 * 1024 else 0
    return total - to_peers, to_peers


class Watched(threading.Thread):
    """One put, watched: when what was said."""

    def __init__(self, daemon: Program, file: Path, wait: str = "stored") -> None:
        super().__init__(daemon=True)
        self.began_at = time.monotonic()
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.result: dict[str, Any] | None = None
        self.ended_at: float | None = None
        self._daemon = daemon
        self._params = {"paths": [str(file)], "wait": wait}
        self.start()

    def run(self) -> None:
        """Follow the conversation."""
        try:
            for message in self._daemon.conversation("put", self._params, PUT_SECONDS_MAX):
                now = time.monotonic()
                if message.get("method") == "progress":
                    self.events.append((now, message["params"]))
                elif "result" in message:
                    self.ended_at, self.result = now, message["result"]["results"][0]
        except (OSError, ValueError):
            pass  # the daemon was killed: that is some scenario's point

    def first(self, state: str) -> float | None:
        """Return after how many seconds it was first in ``state``."""
        return next((at - self.began_at for at, event in self.events if event["state"] == state), None)

    def free_seconds(self) -> float | None:
        """Return when it was first safe to disconnect, if it was before the end."""
        return next((at - self.began_at for at, event in self.events if event["safe"]), None)

    def seconds(self) -> float | None:
        """Return how long it took, once it is stored."""
        good = self.result is not None and self.result["state"] == "stored"
        return self.ended_at - self.began_at if good and self.ended_at is not None else None


class Got(threading.Thread):
    """One get, begun before anybody has the file."""

    def __init__(self, daemon: Program, tag: str, output: Path, begun_at: float) -> None:
        super().__init__(daemon=True)
        self.seconds: float | None = None
        self._daemon, self._tag, self._output, self._begun_at = daemon, tag, output, begun_at
        self.start()

    def run(self) -> None:
        """Ask until somebody has it, and wait for the end."""
        params = {"what": self._tag, "output": str(self._output)}
        while time.monotonic() - self._begun_at < PUT_SECONDS_MAX:
            try:
                self._daemon.call("get", PUT_SECONDS_MAX, **params)
            except Refused:
                time.sleep(0.05)
            except OSError:
                return
            else:
                self.seconds = time.monotonic() - self._begun_at
                return


class Rivals:
    """libtorrent on the same hosts: ``storage`` as a leecher among them."""

    def __init__(self, testbed: Testbed, folder: Path, file: Path) -> None:
        self.lines: dict[str, dict[str, Any]] = {}
        self.whole_at: dict[str, float] = {}
        self.first_at: dict[str, float] = {}
        self._testbed = testbed
        self._folder = folder
        self._file = file
        self._torrent = folder / "file.torrent"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []

    def make(self) -> None:
        """Make the torrent."""
        command = [sys.executable, "-W", "ignore", "-m", "bench.rival", "make", str(self._file), str(self._torrent)]
        subprocess.run(command, check=True)

    def start(self, name: str, *, seed: bool) -> None:
        """Start one."""
        home = self._file.parent if seed else self._folder / f"lt-{name}"
        home.mkdir(exist_ok=True)
        peers = [self._address(name, other) for other in self._testbed.hosts if other not in (name, "tracker")]
        command = [
            *self._testbed.prefix(name),
            *(sys.executable, "-W", "ignore", "-m", "bench.rival", "run", str(self._torrent), str(home)),
            *("--peers", ",".join(peers)),
            *(["--seed"] if seed else []),
        ]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=die_with_parent
        )
        self._processes[name] = process
        reader = threading.Thread(target=self._read, args=(name, process), daemon=True)
        self._readers.append(reader)
        reader.start()
        wait_until(lambda: name in self.first_at, f"libtorrent on {name}", 30)

    def kill(self, name: str) -> None:
        """End one at once."""
        self._processes[name].kill()

    def sent(self) -> dict[str, tuple[int, int]]:
        """Return the payload bytes that each has sent: to storage, and to peers."""
        storage = self._testbed.addresses["storage"]
        found = {}
        for name, line in self.lines.items():
            if name not in SERVERS:
                total = sum(line["sent"].values())
                to_storage = line["sent"].get(storage, 0)
                found[name] = (to_storage, total - to_storage)
        return found

    def close(self) -> None:
        """Kill all."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join()

    def _address(self, here: str, there: str) -> str:
        hosts = self._testbed.hosts
        same_lan = hosts[here].lan and hosts[here].lan == hosts[there].lan
        return (self._testbed.lan_addresses if same_lan else self._testbed.addresses)[there]

    def _read(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stdout:
            for line in stdout:
                now = time.monotonic()
                try:
                    self.lines[name] = json.loads(line)
                except ValueError:
                    return  # killed while it wrote
                self.first_at.setdefault(name, now)
                if self.lines[name]["whole"]:
                    self.whole_at.setdefault(name, now)


def wait_for(condition: Any, what: str, seconds: float = PUT_SECONDS_MAX) -> bool:
    """Return whether ``condition`` came true in time."""
    try:
        wait_until(condition, what, seconds, PAUSE_SECONDS)
    except AssertionError:
        return False
    return True
