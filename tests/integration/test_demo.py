"""The demo on real processes: what it shows is true, and nothing of it is left, however it ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.processes import die_with_parent, wait_until

MIB = 1 << 20


@dataclass
class Demo:
    """A demo that runs, with a temporary folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def children(self) -> list[psutil.Process]:
        """The processes of its swarm."""
        return psutil.Process(self.process.pid).children()

    @property
    def told(self) -> str:
        """What stderr got so far."""
        return (self.folder.parent / "err").read_text("utf-8")

    def wait_told(self, words: str) -> None:
        wait_until(lambda: words in self.told or self.process.poll() is not None, f"it says {words!r}", 60)
        assert words in self.told

    def end(self) -> int:
        return self.process.wait(90)

    @property
    def result(self) -> dict:
        """What it printed on stdout: one object."""
        return json.loads((self.folder.parent / "out").read_text("utf-8"))


@pytest.fixture
def start() -> Iterator:
    demos: list[Demo] = []
    # Short: the path of a Unix socket has little room.
    above = Path(tempfile.mkdtemp(prefix="de-", dir="/tmp"))

    def begin(*arguments: object) -> Demo:
        folder = above / "t"
        folder.mkdir()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("UPSWARM_")}
        with (above / "out").open("wb") as out, (above / "err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "upswarm", "demo", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment | {"TMPDIR": str(folder)},
                preexec_fn=die_with_parent,
            )
        demos.append(Demo(folder, process))
        return demos[-1]

    yield begin
    for demo in demos:
        children = demo.children if demo.process.poll() is None else []
        for process in (demo.process, *children):
            if process.poll() is None if isinstance(process, subprocess.Popen) else process.is_running():
                process.kill()
        demo.process.wait()
    shutil.rmtree(above)


def test_the_crowd_is_faster_and_nothing_is_left(start) -> None:
    demo = start("--peers", 3, "--size", "12MiB", "--uplink", "16mbit", "--json")
    demo.wait_told("alone: peer 1 uploads")
    children = demo.children
    assert len(children) == 5
    assert demo.end() == 0, demo.told
    result = demo.result
    assert result["size"] == 12 * MIB and result["get"]["identical"] is True
    assert result["alone"]["tag"] != result["crowd"]["tag"]
    assert list(result["alone"]["pushed"]) == ["peer 1"]
    assert sorted(result["crowd"]["pushed"]) == ["peer 1", "peer 2", "peer 3"]
    assert sum(result["crowd"]["pushed"].values()) == 12 * MIB
    assert result["crowd"]["seconds"] < result["alone"]["seconds"]
    assert list(demo.folder.iterdir()) == [] and not any(child.is_running() for child in children)


def test_a_given_file_makes_the_round_trip_and_is_not_touched(start, tmp_path: Path) -> None:
    file = tmp_path / "mine.bin"
    data = os.urandom(3 * MIB + 5)
    file.write_bytes(data)
    demo = start(file, "--peers", 2, "--uplink", "40mbit", "--json")
    assert demo.end() == 0, demo.told
    assert demo.result["get"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert file.read_bytes() == data and list(demo.folder.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing(start, number: int, code: int) -> None:
    demo = start("--peers", 2, "--size", "40MiB", "--uplink", "4mbit")
    demo.wait_told("sending")
    children = demo.children
    demo.process.send_signal(number)
    assert demo.end() == code
    assert list(demo.folder.iterdir()) == [] and not any(child.is_running() for child in children)


def test_a_process_that_dies_ends_it_with_the_end_of_its_log_and_nothing_is_left(start) -> None:
    demo = start("--peers", 2, "--size", "40MiB", "--uplink", "4mbit", "--json")
    demo.wait_told("sending")
    children = demo.children
    (uploader,) = [child for child in children if "peer-1" in " ".join(child.cmdline())]
    uploader.kill()
    assert demo.end() != 0
    assert "peer 1" in demo.told and "end of" in demo.told and "error" in demo.result
    assert list(demo.folder.iterdir()) == [] and not any(child.is_running() for child in children)


def test_kept_it_runs_on_and_says_how_to_look_and_how_to_end_it(start) -> None:
    demo = start("--peers", 2, "--size", "1MiB", "--uplink", "80mbit", "--keep", "--json")
    demo.wait_told("alone:")
    children = demo.children
    try:
        assert demo.end() == 0, demo.told
        assert all(child.is_running() for child in children)
        (home,) = demo.folder.iterdir()
        assert f"--home {home}/peer-1" in demo.told and "page http://127.0.0.1:" in demo.told
        numbers = demo.told.split("kill ")[1].split(";")[0].split()
        assert sorted(map(int, numbers)) == sorted(child.pid for child in children)
    finally:
        for child in children:
            child.terminate()
        psutil.wait_procs(children, 20)
