"""The LAN: daemons and tracker find each other by mDNS, and files go on when the tracker does not.

Each "machine" is a network namespace that the test makes, with a cable (a veth pair) into one bridge: multicast there
is real, and reaches nobody else. That needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.crew import share
from support.files import MIB, make_file, same_bytes, tag_by_hand
from support.processes import Program, Swarm, wait_until

SWITCH = "sw"


def ip(*words: str) -> None:
    """Run ``ip`` and say what it said when it failed."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"


class Lan:
    """Machines m0, m1, ... at 10.77.0.1, 10.77.0.2, ..., on one switch."""

    def __init__(self, machines: int) -> None:
        self._stack = ExitStack()
        self.switch = self._namespace(SWITCH)
        self.machines = []
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        ip("-n", self.switch, "link", "set", "br0", "up")
        for number in range(machines):
            machine = self._namespace(f"m{number}")
            ip("-n", self.switch, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", machine)
            ip("-n", self.switch, "link", "set", f"p{number}", "master", "br0", "up")
            ip("-n", machine, "addr", "add", f"{self.host(number)}/24", "dev", "eth0")
            ip("-n", machine, "link", "set", "lo", "up")
            ip("-n", machine, "link", "set", "eth0", "up")
            self.machines.append(machine)

    @staticmethod
    def host(number: int) -> str:
        """Address of a machine."""
        return f"10.77.0.{number + 1}"

    def place(self, program: Program, number: int) -> Program:
        """Let ``program`` run on a machine."""
        program.prefix = ("ip", "netns", "exec", self.machines[number])
        return program

    def _namespace(self, name: str) -> str:
        name = f"up{os.getpid()}{name}"
        ip("netns", "add", name)
        self._stack.callback(ip, "netns", "del", name)
        return name

    def close(self) -> None:
        """Remove what was made."""
        self._stack.close()


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Three machines."""
    assert os.geteuid() == 0, "run this test as root: it makes network namespaces, so that no real LAN is bothered"
    lan = Lan(3)
    try:
        yield lan
    finally:
        lan.close()


def test_with_the_tracker_stopped_two_daemons_exchange_a_file_by_tag_over_the_lan(swarm: Swarm, lan: Lan) -> None:
    tracker = lan.place(swarm.add("tracker", "tracker", ["--listen", f"{lan.host(0)}:0", "--http", "127.0.0.1:0"]), 0)
    tracker.start()
    daemons = []
    for number in (1, 2):
        # As an installation does by default: every interface, and mDNS.
        daemon = lan.place(swarm.add("daemon", f"d{number}", ["--listen", "0.0.0.0:0"]), number)
        daemons.append(swarm.join(daemon).launched())
    for daemon in daemons:
        daemon.wait_ready()
    first, second = daemons
    tracker.stop()
    file = make_file(swarm.folder / "files" / "near.bin", 5 * MIB)
    # Shared after the tracker has gone: it cannot have told.
    share(first, file, told=False)
    target = swarm.folder / "near.copy"
    wait_until(
        lambda: second.upswarm("get", tag_by_hand(file), "-o", target, check=False).exit_code == 0,
        "the file comes over the LAN",
        60,
    )
    assert same_bytes(target, file)


def test_daemons_find_a_tracker_that_has_moved_by_mdns(swarm: Swarm, lan: Lan) -> None:
    tracker = lan.place(swarm.add("tracker", "tracker", ["--listen", f"{lan.host(0)}:0", "--http", "127.0.0.1:0"]), 0)
    tracker.start()
    daemon = lan.place(swarm.add("daemon", "d", ["--listen", "0.0.0.0:0"]), 1)
    swarm.join(daemon).start()
    daemon.wait_logged("tracker connected")
    old = tracker.address
    tracker.stop()
    tracker.arguments[1] = f"{lan.host(0)}:0"
    tracker.start()
    assert tracker.address != old
    daemon.wait_logged("tracker connected", address=tracker.address, seconds=60)


def test_a_stranger_on_the_lan_is_looked_at_and_refused(swarm: Swarm, lan: Lan) -> None:
    """mDNS gives addresses only: a daemon of another swarm on the same LAN is never talked to."""
    tracker = lan.place(swarm.add("tracker", "tracker", ["--listen", f"{lan.host(0)}:0", "--http", "127.0.0.1:0"]), 0)
    tracker.start()
    ours = swarm.join(lan.place(swarm.add("daemon", "ours", ["--listen", "0.0.0.0:0"]), 1)).launched()
    file = make_file(swarm.folder / "files" / "theirs.bin", MIB)
    with Swarm() as other:
        elsewhere = other.add("tracker", "tracker", ["--listen", f"{lan.host(2)}:0", "--http", "127.0.0.1:0"])
        lan.place(elsewhere, 2).start()
        theirs = other.join(lan.place(other.add("daemon", "theirs", ["--listen", "0.0.0.0:0"]), 2)).start()
        ours.wait_ready()
        share(theirs, file)
        tracker.stop()
        done = ours.upswarm("get", tag_by_hand(file), "-o", swarm.folder / "x", check=False)
        assert done.exit_code in (4, 5) and not (swarm.folder / "x").exists()
