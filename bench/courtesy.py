"""What help costs the others on a line: the round trip of a small packet beside it, and how much of the line help uses.

    sudo .venv/bin/python -m bench.courtesy [--mbit 10] [--queue 200] [--seconds 20]

Hosts in network namespaces (testbed.py): a storage node, an uploader that is capped to a trickle, and a helper that has
the same file and whose uplink is shaped by tbf, with a queue as long as cheap routers have. A packet every 20 ms
goes over that line and comes back. Measured idle, with help as it is, and with `help_when_idle`: JSON, one line each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from support.files import make_file, tag_by_hand
from support.processes import wait_until

from bench.cast import Cast
from bench.testbed import Host, Testbed

MIB = 1 << 20
PROBE = """
import socket, sys, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.settimeout(1.0)
end = time.monotonic() + seconds
while time.monotonic() < end:
    begun = time.monotonic()
    probe.sendto(repr(begun).encode(), (host, port))
    try:
        while float(probe.recv(64)) != begun: pass
    except TimeoutError:
        print("lost"); continue
    took = time.monotonic() - begun
    print(took)
    time.sleep(max(0.0, 0.02 - took))
"""
ECHO = """
import socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    data, sender = echo.recvfrom(64)
    echo.sendto(data, sender)
"""
ECHO_PORT = 7007
SETTLE_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Round trips in milliseconds; ``used``: share of the line that was used, frames and all."""

    help: str
    mbit: float
    median_milliseconds: float
    p95_milliseconds: float
    used: float


def measure(testbed: Testbed, name: str, target: str, mbit: float, seconds: float, label: str) -> Measured:
    """Probe the line of ``name`` for a while."""
    before = testbed.sample()
    words = [
        *testbed.prefix(name),
        sys.executable,
        "-c",
        PROBE,
        testbed.addresses[target],
        str(ECHO_PORT),
        str(seconds),
    ]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout.split()
    after = testbed.sample()
    trips = sorted(1000 * float(word) for word in said if word != "lost")
    sent = after.sent[name] - before.sent[name]
    return Measured(
        label,
        mbit,
        round(statistics.median(trips), 1),
        round(trips[int(0.95 * (len(trips) - 1))], 1),
        round(sent * 8 / (after.at - before.at) / (mbit * 1e6), 3),
    )


def run(mbit: float, queue_milliseconds: int, seconds: float) -> list[Measured]:
    """Return idle, help as it is, and help that makes way."""
    hosts = [
        Host("tracker"),
        Host("storage"),
        Host("source"),
        Host("helper", up=mbit, queue_milliseconds=queue_milliseconds),
    ]
    found = []
    with Testbed(hosts) as testbed, tempfile.TemporaryDirectory() as folder:
        # Where the way is shorter than a millisecond, as here, Linux sends 64 KiB at once however it is paced (tcp(7),
        # tcp_tso_rtt_log). No line to the outside is that short; so it does as it does on ways of 5 ms and more.
        subprocess.run([*testbed.prefix("helper"), "sysctl", "-qw", "net.ipv4.tcp_tso_rtt_log=0"], check=True)
        echo = subprocess.Popen(
            [*testbed.prefix("storage"), sys.executable, "-c", ECHO, testbed.addresses["storage"], str(ECHO_PORT)],
            stdout=subprocess.PIPE,
        )
        try:
            assert echo.stdout is not None
            echo.stdout.readline()
            with Cast.opened(testbed) as cast:
                found.append(measure(testbed, "helper", "storage", mbit, min(seconds, 5.0), "none"))
                size = int(mbit * 1e6 / 8 * (2 * seconds + 60) / MIB + 1) * MIB
                file = make_file(Path(folder) / "film.bin", size, seed=1)
                source, helper = cast.daemons["source"], cast.daemons["helper"]
                cast.share_own("source", file)
                got = helper.call("get", 120, what=str(tag_by_hand(file)), output=str(Path(folder) / "got.bin"))
                assert got["state"] == "done", got
                source.call("limit", up=20_000)
                for label, idle in (("as it is", "off"), ("when idle", "on")):
                    helper.call("limit", idle=idle)
                    if label == "as it is":
                        source.call("put", paths=[str(file)], wait="no")
                    wait_until(
                        lambda: helper.call("status")["traffic"]["sent_help_bytes"] > MIB, "the helper helps", 60
                    )
                    time.sleep(SETTLE_SECONDS)
                    found.append(measure(testbed, "helper", "storage", mbit, seconds, label))
        finally:
            echo.kill()
            echo.communicate()  # closes the pipe, too
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mbit", type=float, default=10.0)
    parser.add_argument("--queue", type=int, default=200, help="milliseconds")
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    for measured in run(arguments.mbit, arguments.queue, arguments.seconds):
        print(json.dumps(asdict(measured)), flush=True)


if __name__ == "__main__":
    main()
