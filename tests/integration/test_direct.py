"""Direct mode: helpers put parts straight into a real S3 server; the storage node grants, checks and completes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from support.bucket import Bucket, crew_on
from support.crew import Crew, get, put, share, wait_connected, wait_stored
from support.files import MIB, digest_of, same_bytes, tag_by_hand
from support.processes import Swarm, wait_until
from support.seaweed import Seaweed

STORED_SECONDS_MAX = 120.0
PART_BYTES = 8 * MIB


def direct_crew(swarm: Swarm, seaweed: Seaweed, prefix: str, daemons: int, **more: str) -> Crew:
    return crew_on(swarm, seaweed, daemons, direct="true", s3_prefix=prefix, **more)


def socket_bytes(pid: int) -> int:
    """What a process has read and written by system calls: all it sends and receives, and its files."""
    counters = psutil.Process(pid).io_counters()
    return int(counters.read_chars + counters.write_chars)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_helpers_put_the_parts_and_the_storage_node_carries_next_to_nothing(
    swarm: Swarm, seaweed: Seaweed, bucket: Bucket
) -> None:
    crew = direct_crew(swarm, seaweed, "carries/", 2)
    bucket.prefix = "carries/"
    uploader, helper = crew.daemons
    file = crew.file("film", 300 * MIB + 12345, seed=1)
    tag = tag_by_hand(file)
    share(helper, file)
    before = socket_bytes(crew.storage.pid)
    result = put(uploader, file, name="film")
    carried = socket_bytes(crew.storage.pid) - before
    assert result["state"] == "stored"
    assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
    assert bucket.uploads() == []
    assert carried < 3 * MIB, carried
    assert crew.storage.counter("received_bytes") == 0
    # Both were credited, and nothing was put twice.
    pushed = result["pushed"]
    assert set(pushed) == {uploader.node, helper.node}
    assert sum(pushed.values()) == 300 * MIB + 12345
    assert uploader.sent_bytes + helper.sent_bytes <= 300 * MIB + 12345 + 16 * MIB
    # It reads as any other.
    uploader.stop()
    helper.call("unshare", what=tag)
    assert same_bytes(Path(get(helper, tag, crew.folder / "back")["path"]), file)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_helper_that_is_killed_is_replaced_and_a_killed_storage_node_goes_on_with_what_the_store_has(
    swarm: Swarm, seaweed: Seaweed, bucket: Bucket
) -> None:
    crew = direct_crew(swarm, seaweed, "killed/", 2)
    bucket.prefix = "killed/"
    uploader, helper = crew.daemons
    for daemon in crew.daemons:
        daemon.call("limit", up=20 * MIB)
    file = crew.file("film", 240 * MIB, seed=2)
    tag = tag_by_hand(file)
    share(helper, file)
    put(uploader, file, wait="no")
    wait_until(lambda: bucket.parts(tag) >= 4, "parts are in the store", STORED_SECONDS_MAX)
    helper.kill()
    wait_until(lambda: bucket.parts(tag) >= 8, "more parts are in the store", STORED_SECONDS_MAX)
    there_bytes = bucket.parts(tag) * PART_BYTES
    sent_bytes = uploader.sent_bytes
    crew.storage.restart()
    wait_connected(crew.storage)
    wait_stored(crew.storage, tag, STORED_SECONDS_MAX)
    assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
    assert bucket.uploads() == []
    # What was in the store did not come a second time. What was on its way did; of that, what had left before we looked
    # is not counted, and hardly a part can have left until the node was dead.
    assert uploader.sent_bytes - sent_bytes <= 240 * MIB - there_bytes + PART_BYTES


@pytest.mark.slow
def test_nodes_that_put_nothing_by_themselves_are_served_the_normal_way(
    swarm: Swarm, seaweed: Seaweed, bucket: Bucket
) -> None:
    crew = direct_crew(swarm, seaweed, "normal/", 0)
    bucket.prefix = "normal/"
    daemon = swarm.daemon("plain", direct="false")
    wait_connected(daemon)
    file = crew.file("film", 80 * MIB, seed=3)
    tag = tag_by_hand(file)
    assert put(daemon, file)["state"] == "stored"
    assert bucket.digest(tag) == digest_of(file) and bucket.tag(tag) == tag
    assert crew.storage.counter("received_bytes") == 80 * MIB
    assert bucket.uploads() == []
