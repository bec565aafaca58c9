"""Budgets: a cap is a cap, for everything and for help, and both change while things run."""

from __future__ import annotations

import time

import pytest
from support.crew import Crew, put, share
from support.files import MIB
from support.processes import Program, Swarm, wait_until

pytestmark = pytest.mark.timing


def rate_of(program: Program, seconds: float) -> float:
    """Measure chunk bytes per second that leave ``program``."""
    begin, first = time.monotonic(), program.sent_bytes
    wait_until(lambda: time.monotonic() - begin >= seconds, "the measurement is over", seconds + 5)
    last, end = program.sent_bytes, time.monotonic()
    return (last - first) / (end - begin)


def test_a_cap_on_everything_holds_and_changes_while_running(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1)
    (daemon,) = crew.daemons
    daemon.upswarm("limit", "up=1M")
    put(daemon, crew.file("capped.bin", 60 * MIB), wait="no")
    wait_until(lambda: daemon.sent_bytes > 0, "it has begun")
    assert rate_of(daemon, 2.5) == pytest.approx(1e6, rel=0.25)
    daemon.upswarm("limit", "up=6M")
    assert rate_of(daemon, 2.5) == pytest.approx(6e6, rel=0.2)
    daemon.upswarm("limit", "up=off")
    wait_until(lambda: crew.storage.logged("stored"), "without a cap it is done soon", 10)


def test_the_cap_for_help_leaves_own_uploads_alone(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2)
    uploader, helper = crew.daemons
    uploader.upswarm("limit", "up=1M")
    helper.upswarm("limit", "help=500k")
    file = crew.file("helped.bin", 40 * MIB, 1)
    # What it only fetched it serves as help; what its user shares would be its own.
    share(uploader, file)
    tag_path = crew.folder / "fetched"
    uploader.upswarm("limit", "up=off")
    helper.upswarm("get", uploader.call("ls", stored=False, local=True)["files"][0]["tag"], "-o", tag_path)
    uploader.upswarm("limit", "up=1M")
    before = helper.sent_bytes
    put(uploader, file, wait="no")
    wait_until(lambda: helper.sent_bytes > before, "it helps")
    assert rate_of(helper, 3) == pytest.approx(0.5e6, rel=0.35)
    own = crew.file("own.bin", 8 * MIB, 2)
    begin = time.monotonic()
    assert put(helper, own)["state"] == "stored"
    assert time.monotonic() - begin < 6, "its own upload has no such cap"
    helper.upswarm("limit", "help=3M")
    assert rate_of(helper, 2.5) == pytest.approx(3e6, rel=0.3)


def test_a_limit_survives_a_restart(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1)
    (daemon,) = crew.daemons
    limits = daemon.call("limit", up=1_500_000, help=700_000)
    daemon.restart()
    assert daemon.call("limit") == limits


def test_the_cap_on_downloads_holds(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2)
    holder, getter = crew.daemons
    file = crew.file("down.bin", 12 * MIB)
    share(holder, file)
    getter.upswarm("limit", "down=2M")
    begin = time.monotonic()
    tag = holder.call("ls", stored=False, local=True)["files"][0]["tag"]
    getter.upswarm("get", tag, "-o", crew.folder / "down.copy")
    seconds = time.monotonic() - begin
    assert seconds > 0.7 * file.stat().st_size / 2e6, seconds
