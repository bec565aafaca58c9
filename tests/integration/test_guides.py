"""What the README, the tutorial and the guides say is typed as it stands there, each machine a network namespace with
its own home.

``make newcomer`` does the tutorial alone, in an environment made from nothing as the page says, and writes
docs/transcript.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.files import MIB, make_file
from support.processes import wait_until

from bench import testbed as net

ROOT = Path(__file__).parents[2]
MACHINES = ("tracker", "cellar", "laptop", "other")
LINE = re.compile(r"^(\w+)\$ (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS_MAX = 120.0
READY = '"ready"'


def lines_of(page: str) -> list[tuple[str, str]]:
    """Return machine and command of each line of a page's console blocks."""
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text("utf-8"))
    return [
        (machine, command.partition("  #")[0].rstrip()) for block in blocks for machine, command in LINE.findall(block)
    ]


@dataclass
class Machines:
    """Types commands, remembers what was printed, ends in the end what runs."""

    testbed: net.Testbed
    root: Path
    upswarm: str = f"{sys.executable} -m upswarm"
    said: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def home(self, machine: str) -> Path:
        return self.root / machine

    def environment(self, machine: str) -> dict[str, str]:
        home = self.home(machine)
        run = home / "run"
        run.mkdir(parents=True, exist_ok=True, mode=0o700)
        keep = {key: value for key, value in os.environ.items() if key in ("LANG", "LC_ALL")}
        path = f"{self.root}/bin:{os.environ['PATH']}"
        return {**keep, "HOME": str(home), "PATH": path, "XDG_RUNTIME_DIR": str(run), "COLUMNS": "100"}

    def make(self) -> None:
        """Make homes, the files that the pages speak of, and the command."""
        command = self.root / "bin" / "upswarm"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {self.upswarm} "$@"\n')
        command.chmod(0o755)
        for name, size in (("film.mov", 3 * MIB), ("template.img", 2 * MIB), ("image.tar", MIB)):
            make_file(self.home("laptop") / name, size, seed=len(name))
        for number in range(2):
            make_file(self.home("laptop") / "rushes" / f"{number}.mov", MIB, seed=number)

    def type(self, machine: str, command: str) -> str:
        """Run one line as a person would; return what it printed on stdout."""
        self.told.append(f"{machine}$ {command}")
        words = command
        for name, value in self.said.items():
            words = words.replace(name, value)
        words = words.replace("tracker.example.org", self.testbed.addresses["tracker"])
        call = [*self.testbed.prefix(machine), "bash", "-c"]
        if words.endswith("&"):
            return self._begin(machine, [*call, f"exec {words.removesuffix('&')}"])
        done = subprocess.run(
            [*call, words], env=self.environment(machine), cwd=self.home(machine), capture_output=True, text=True,
            timeout=SECONDS_MAX,
        )  # fmt: skip
        assert done.returncode == 0, f"{machine}$ {command}\n{done.stdout}{done.stderr}"
        if command.startswith("upswarm invite"):
            self.said["INVITE_FOR_STORAGE" if "storage" in command else "INVITE_FOR_PEERS"] = done.stdout.split()[-1]
        if "upswarm put" in command and "--json" not in command:
            self.said["LINK"] = f"'{done.stdout.split()[1]}'"
        self.told += (done.stderr + done.stdout).splitlines()
        return done.stdout

    def _begin(self, machine: str, words: list[str]) -> str:
        log = (self.root / f"{machine}.log").open("ab")
        process = subprocess.Popen(
            words, env=self.environment(machine), cwd=self.home(machine), stdout=subprocess.PIPE, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        log.close()
        self.running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert READY in line, (self.root / f"{machine}.log").read_text()[-2000:]
        self.told.append(line.strip())
        if json.loads(line)["ready"] == "daemon":
            # A person needs a second for the next line.
            wait_until(lambda: self._connected(machine), f"the daemon of {machine} has its tracker", SECONDS_MAX)
        return line

    def _connected(self, machine: str) -> bool:
        done = subprocess.run(
            [*self.testbed.prefix(machine), "upswarm", "status", "--json"], env=self.environment(machine),
            capture_output=True, text=True, timeout=SECONDS_MAX,
        )  # fmt: skip
        return bool(done.returncode == 0 and json.loads(done.stdout)["tracker"]["connected"])

    def end(self) -> None:
        """End what runs, peers first, within ten seconds each."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            assert process.wait(10.0) == 0
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """The four machines of the tutorial, nothing typed yet."""
    root = tmp_path_factory.mktemp("m")
    with net.Testbed([net.Host(name) for name in MACHINES]) as testbed:
        found = Machines(testbed, root)
        found.make()
        try:
            yield found
        finally:
            for process in found.running:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def test_every_line_of_the_tutorial_and_the_guides_works(machines: Machines) -> None:
    for machine, command in lines_of("tutorial.md"):
        machines.type(machine, command)
    got = machines.home("other") / "film.mov"
    assert got.read_bytes() == (machines.home("laptop") / "film.mov").read_bytes()
    for page in ("howto/office.md", "howto/build-farm.md", "howto/film-crew.md"):
        for machine, command in lines_of(page):
            if command.startswith("upswarm daemon"):
                # It runs already; the guide is for those who start it so.
                running = machines.running.pop()
                running.send_signal(signal.SIGTERM)
                assert running.wait(10.0) == 0
                assert running.stdout is not None
                running.stdout.close()
            machines.type(machine, command)
    for name in ("template.img", "image.tar"):
        here, there = (machines.home(machine) / name for machine in ("laptop", "other"))
        assert here.read_bytes() == there.read_bytes()
    machines.end()


def test_every_line_of_the_readmes_first_upload_works(machines: Machines) -> None:
    typed = lines_of("../README.md")
    assert {machine for machine, _ in typed} == set(MACHINES)
    for machine, command in typed:
        machines.type(machine, command)
    got = machines.home("other") / "film.mov"
    assert got.read_bytes() == (machines.home("laptop") / "film.mov").read_bytes()
    machines.end()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_newcomer_has_a_swarm_in_ten_minutes(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("n")  # short: control sockets lie below it
    begun = time.monotonic()
    told = []
    home = tmp_path / "newcomer"
    home.mkdir()
    checkout = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, checkout / name)
    install = re.search(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "tutorial.md").read_text("utf-8"), re.M | re.S)
    assert install is not None
    environment = {**os.environ, "HOME": str(home)}
    environment.pop("PYTHONPATH", None)
    for command in install.group(1).splitlines():
        told.append(f"$ {command}")
        subprocess.run(["bash", "-c", command], cwd=checkout, env=environment, check=True, timeout=600)
    with net.Testbed([net.Host(name) for name in MACHINES]) as testbed:
        machines = Machines(testbed, tmp_path, upswarm=str(home / "upswarm" / "bin" / "upswarm"))
        machines.make()
        try:
            for machine, command in lines_of("tutorial.md"):
                machines.type(machine, command)
            machines.end()
        finally:
            for process in machines.running:
                process.kill()
                process.wait()
    seconds = time.monotonic() - begun
    assert seconds < 600.0
    if target := os.environ.get("UPSWARM_TRANSCRIPT"):
        text = "\n".join([*told, *machines.told]).replace(str(tmp_path), "/home")
        text = re.sub(r"upswarm-invite-\S+", "upswarm-invite-…", text)
        Path(target).write_text(
            "# Transcript of the tutorial\n\nMade by `make newcomer`: a fresh environment, fresh homes, four machines"
            f" in network namespaces. From the first line to the last: {seconds:.0f} s, on two cores.\n\n"
            f"```text\n{text}\n```\n",
            "utf-8",
        )
