"""What people watch: no line wider than the terminal, colours only where they are wanted, shares that add up."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.front_door import TAG, Notify, running

from upswarm.painting import NARROW_COLUMNS, bar, columns_of, daemon_view, fitted, transfers

NODES = ["a" * 52, "b" * 52, "c" * 52]
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SECONDS_MAX = 60.0


def transfer(name: str = "film.mov", state: str = "sending", **more: Any) -> dict[str, Any]:
    pushed = {NODES[0]: 20 << 20, NODES[1]: 15 << 20, NODES[2]: 5 << 20}
    return {
        "id": name, "name": name, "state": state, "bytes_total": 64 << 20, "bytes_stored": 40 << 20, "rate": 2.5e6,
        "eta_seconds": 12.0, "pushed": pushed, "safe": True, **more,
    }  # fmt: skip


def status(**more: Any) -> dict[str, Any]:
    return {
        "program": "daemon", "name": "edit", "node": NODES[0], "links": 4, "files": 3, "safe": True,
        "tracker": {"connected": True, "round_trip_seconds": 0.012},
        "traffic": {"sent_own_bytes": 9_000_000, "sent_help_bytes": 3_000_000, "received_bytes": 0},
        "limits": {"up": 2.5e6, "down": None, "help": None}, "puts": [transfer()], "gets": [], **more,
    }  # fmt: skip


names = st.text(max_size=80) | st.just("日本語" * 20) | st.just("[b]\x1b[2J\u202eevil")
files = st.builds(
    transfer,
    names,
    st.sampled_from(["hashing", "sending", "stored", "failed", "fetching", "done"]),
    bytes_total=st.integers(0, 2**50) | st.none(),
    bytes_stored=st.integers(0, 2**50),
    rate=st.floats(0, 1e10) | st.none(),
    eta_seconds=st.floats(0, 1e7) | st.none(),
    pushed=st.dictionaries(st.sampled_from(NODES), st.integers(0, 2**50)),
    note=names,
)


@given(st.lists(files, max_size=20), st.integers(1, 200), st.booleans())
def test_no_line_is_wider_than_the_terminal_and_no_name_steers_it(
    found: list[dict[str, Any]], width: int, colour: bool
) -> None:
    for line in transfers(found, width, {}, colour=colour):
        plain = ANSI.sub("", line) if colour else line
        assert columns_of(plain) <= max(width, NARROW_COLUMNS), line
        assert "\x1b" not in plain and "\n" not in plain


@given(files, st.integers(1, 120))
def test_a_bar_is_as_long_as_it_should_be(params: dict[str, Any], columns: int) -> None:
    for colour in (False, True):
        assert len(ANSI.sub("", bar(params, columns, colour=colour))) == columns


def test_each_helper_has_its_part_of_the_bar() -> None:
    plain = bar(transfer(), 64, colour=False)
    assert [plain.count(mark) for mark in "█▓▒·"] == [20, 15, 5, 24]
    colours = re.findall(r"\x1b\[(\d+)m(█+)", bar(transfer(), 64, colour=True))
    assert [(code, len(cells)) for code, cells in colours] == [("36", 20), ("35", 15), ("33", 5)]


@given(st.text(max_size=50), st.integers(0, 60))
def test_what_is_fitted_fits(text: str, columns: int) -> None:
    assert columns_of(fitted(text, columns)) == columns or columns == 0


def test_a_wide_terminal_has_one_line_a_file_and_a_narrow_one_keeps_what_matters() -> None:
    wide = transfers([transfer()], 170, {NODES[0]: "this machine"}, colour=False)
    assert len(wide) == 4 and "62 %  40.0 MiB of 64.0 MiB  2.5 MB/s  12 s left  sending (safe to disconnect)" in wide[0]
    assert wide[1].strip() == "█ this machine  20.0 MiB  50 %"
    narrow = transfers([transfer()], 30, {}, colour=False)
    assert narrow[0] == "film.mov" and narrow[2].strip() == "62 %  12 s left"


def test_a_daemon_is_seen_at_a_glance() -> None:
    before = status(traffic={"sent_own_bytes": 7_000_000, "sent_help_bytes": 3_000_000, "received_bytes": 0})
    lines = daemon_view(status(), before, 2.0, 120, colour=False)
    assert lines[0] == "edit · tracker 12 ms away · 4 links · 3 files held · safe to disconnect"
    assert lines[1] == "own 1.0 MB/s  help 0 B/s  down 0 B/s  capped at  up 2.5 MB/s"
    assert "nothing to move" in daemon_view(status(puts=[]), None, 0.0, 80, colour=False)
    away = daemon_view(
        status(paused=True, tracker={"connected": False, "trouble": "refused"}), None, 0, 80, colour=False
    )
    assert "no tracker: refused" in away[0] and "PAUSED" in away[0]


def begun_on_a_terminal(
    home: Path, columns: int, arguments: list[str], environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the command on a terminal of its own; return it, and our end of the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "upswarm", "--home", str(home), *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, "TERM": "xterm", **environment},
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def on_a_terminal(home: Path, columns: int, enough: str, **environment: str) -> str:
    """Return what ``status --watch`` writes to a terminal until ``enough`` has come."""
    process, ours = begun_on_a_terminal(home, columns, ["status", "--watch"], environment)
    said, due = b"", time.monotonic() + SECONDS_MAX
    try:
        while enough.encode() not in said and time.monotonic() < due:
            if select.select([ours], [], [], 1.0)[0]:
                said += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS_MAX)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert process.returncode == 130
    return said.decode()


@pytest.mark.parametrize(("columns", "environment"), [(120, {}), (40, {"NO_COLOR": "1"})])
def test_watching_on_a_terminal_paints_over_itself(tmp_path: Path, columns: int, environment: dict[str, str]) -> None:
    with running(tmp_path, status=status()):
        said = on_a_terminal(tmp_path, columns, "own 0 B/s", **environment)  # the second picture has rates
    assert said.count("\x1b[H") == 2 and "film.mov" in said and "62 %" in said
    assert bool(re.search(r"\x1b\[3\dm", said)) is not bool(environment)
    for line in ANSI.sub("", said).replace("\x1b[H", "").replace("\x1b[K", "").replace("\x1b[J", "").split("\r\n"):
        assert columns_of(line.replace("^C", "")) <= columns


def test_watching_into_a_pipe_tells_in_lines(tmp_path: Path) -> None:
    with running(tmp_path, status=status()):
        command = [sys.executable, "-m", "upswarm", "--home", str(tmp_path), "status", "--watch"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS_MAX)
    assert line.startswith("film.mov: sending (safe to disconnect), 40.0 MiB of 64.0 MiB (62 %)") and "\x1b" not in line


def to_its_end_on_a_terminal(home: Path, columns: int, *arguments: str, **environment: str) -> str:
    """Return all that a command writes to a terminal; it must succeed."""
    process, ours = begun_on_a_terminal(home, columns, list(arguments), environment)
    said, due = b"", time.monotonic() + SECONDS_MAX
    try:
        while time.monotonic() < due:
            if select.select([ours], [], [], 1.0)[0]:
                try:
                    said += os.read(ours, 65536)
                except OSError:  # EIO: nobody has the other end open any more
                    break
        assert process.wait(SECONDS_MAX) == 0, said
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return said.decode()


def moving(verb: str, ended: dict[str, Any]) -> Any:
    """A daemon's handler of ``put`` or ``get``: three notifications, then how it ended."""

    async def handle(_params: dict[str, Any], notify: Notify) -> Any:
        for mib in (0, 20, 40):
            known = transfer(bytes_stored=mib << 20)
            if verb == "get":
                known |= {"state": "fetching", "bytes_done": mib << 20, "from": known.pop("pushed")}
            await notify("progress", known)
        return ended

    return handle


def ended_of(verb: str) -> dict[str, Any]:
    file = {
        "id": "p1", "tag": TAG, "size": 64 << 20, "name": "film.mov", "path": "/there/film.mov", "seconds": 25.6,
        "instant": False,
    }  # fmt: skip
    if verb == "get":
        return {**file, "state": "done", "from": {NODES[0]: 64 << 20}}
    stored = {**file, "state": "stored", "link": "upswarm:LINK", "safe": True, "pushed": {NODES[0]: 64 << 20}}
    return {"results": [stored], "skipped": []}


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize(("columns", "environment"), [(120, {}), (36, {"NO_COLOR": "1"}), (36, {})])
def test_a_transfer_on_a_terminal_is_drawn_as_wide_as_that(
    tmp_path: Path, verb: str, columns: int, environment: dict[str, str]
) -> None:
    file = tmp_path / "film.mov"
    file.write_bytes(b"bytes")
    what = str(file) if verb == "put" else TAG
    with running(tmp_path, **{verb: moving(verb, ended_of(verb)), "nodes": {"nodes": []}}) as daemon:
        said = to_its_end_on_a_terminal(tmp_path, columns, verb, what, **environment)
        assert verb in {method for method, _ in daemon.asked}
    assert "film.mov" in said and "62 %" in said and "12 s left" in said
    assert bool(re.search(r"\x1b\[(?:\d;)*3\dm", said)) is not bool(environment)
    drawn = said.rpartition("12 s left")[0].splitlines()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).replace("\r", "") for line in drawn]
    assert any("█" in line or "#" in line for line in lines) and all(columns_of(line) <= columns for line in lines)


@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_transfer_into_a_pipe_is_told_in_lines_on_stderr(tmp_path: Path, verb: str) -> None:
    file = tmp_path / "film.mov"
    file.write_bytes(b"bytes")
    command = [sys.executable, "-m", "upswarm", "--home", str(tmp_path), verb, str(file) if verb == "put" else TAG]
    with running(tmp_path, **{verb: moving(verb, ended_of(verb)), "nodes": {"nodes": []}}):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr
    assert done.stderr.startswith("film.mov: ") and " of 64.0 MiB (0 %)" in done.stderr
    assert "film.mov" in done.stdout and "%" not in done.stdout
