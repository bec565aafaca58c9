"""A terminal for a command: what is drawn there, byte by byte, as a person's terminal would get it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from support.processes import Program

TERMINAL_SECONDS_MAX = 60.0


def on_a_terminal(
    program: Program, *arguments: str | Path, screens: int | None = None, columns: int | None = None
) -> str:
    """Return what a terminal gets of a command: until its end, or until it was painted ``screens`` times. ``columns``:
    how wide it is, if not as it comes."""
    ours, theirs = pty.openpty()
    if columns is not None:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {key: value for key, value in program.swarm.environment.items() if key not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-P", "-m", "upswarm", "--home", str(program.home), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm-256color"}
    )
    os.close(theirs)
    data, deadline = bytearray(), time.monotonic() + TERMINAL_SECONDS_MAX
    try:
        while screens is None or data.count(b"\x1b[H") <= screens:
            left = deadline - time.monotonic()
            assert left > 0, data
            if select.select([ours], [], [], left)[0]:
                try:
                    data += os.read(ours, 65536)
                except OSError:
                    break  # Linux's word for: nobody has it open any more
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    # Strictly, but for a character that was cut off with the process.
    return codecs.getincrementaldecoder("utf-8")().decode(bytes(data))
