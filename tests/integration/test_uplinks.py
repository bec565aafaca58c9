"""The promise: the upload takes size / (sum of the uplinks)."""

from __future__ import annotations

import time

import pytest
from support.crew import Crew, put, share
from support.files import same_bytes
from support.processes import Swarm, wait_until

pytestmark = pytest.mark.timing

HELPERS = 4
UPLINK_BYTES_PER_SECOND = 40e6 / 8
SIZE_BYTES = 240_000_000


def test_five_uplinks_of_forty_megabit_carry_one_file_together(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=HELPERS + 1, up_bytes_per_second="40mbit")
    uploader, *helpers = crew.daemons
    file = crew.file("film.bin", SIZE_BYTES)
    for helper in helpers:
        share(helper, file)
    tag = share_known(crew, helpers)
    begin = time.monotonic()
    # Asked over the control socket: how long a Python takes to start is another matter.
    result = put(uploader, file)
    seconds = time.monotonic() - begin
    assert result["state"] == "stored" and result["tag"] == tag
    assert same_bytes(crew.object_of(tag), file)
    bound = SIZE_BYTES / ((HELPERS + 1) * UPLINK_BYTES_PER_SECOND)
    pushed = result["pushed"]
    print(f"{seconds:.2f} s, bound {bound:.2f} s, ratio {seconds / bound:.3f}, pushed {pushed}")
    assert sum(pushed.values()) == SIZE_BYTES
    assert set(pushed) == {daemon.node for daemon in crew.daemons}
    assert min(pushed.values()) >= 0.10 * SIZE_BYTES, pushed
    assert seconds <= 1.15 * bound
    assert crew.storage.counter("wasted_bytes") <= 0.02 * SIZE_BYTES


def share_known(crew: Crew, helpers) -> str:
    """Wait until the tracker knows all helpers as holders; return the tag."""
    (row,) = helpers[0].call("ls", stored=False, local=True)["files"]
    nodes = {helper.node for helper in helpers}

    def known() -> bool:
        shown = str(crew.daemons[0].call("show", tag=row["tag"]))
        return all(node in shown for node in nodes)

    wait_until(known, "the tracker knows the helpers")
    return str(row["tag"])


def test_one_uplink_alone_is_used_to_the_full(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="40mbit")
    file = crew.file("solo.bin", 30_000_000)
    begin = time.monotonic()
    put(crew.daemons[0], file)
    assert time.monotonic() - begin <= 1.15 * 30_000_000 / UPLINK_BYTES_PER_SECOND
