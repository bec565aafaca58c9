"""Two trackers of one swarm: real processes, a real Redis between them, and nobody who tells them anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.crew import Crew, progress_of_put, put, share, wait_connected
from support.files import MIB, same_bytes
from support.processes import Program, Swarm, wait_until
from support.redis_server import PASSWORD, RedisProcess, running_redis


@dataclass
class Pair:
    """A swarm whose storage node and uploader began with one tracker, and whose helper began with the other."""

    redis: RedisProcess
    crew: Crew
    other: Program

    @property
    def trackers(self) -> tuple[Program, Program]:
        return self.crew.tracker, self.other

    def tracker_of(self, program: Program) -> Program | None:
        """Return the tracker that a node is linked to now."""
        told = program.call("status")["tracker"]
        if not told["connected"]:
            return None
        return next(tracker for tracker in self.trackers if tracker.address == told["address"])

    def file(self, name: str, size_bytes: int) -> Path:
        return self.crew.file(name, size_bytes, seed=len(name))


def begin_with(program: Program, tracker: Program) -> None:
    """Let a node that is not running know of one tracker only."""
    known = {"node": tracker.node, "addresses": [tracker.address]}
    (program.identity / "tracker.json").write_text(json.dumps(known))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_redis() as redis, Swarm() as swarm:
        shared = {"UPSWARM_TRACKER_REDIS": redis.address, "UPSWARM_TRACKER_REDIS_PASSWORD": PASSWORD}
        shared["UPSWARM_TRACKER_HEARTBEAT_SECONDS"] = "1"
        swarm.environment |= shared
        tracker = swarm.tracker("tracker")
        other = swarm.add("tracker", "other", ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns"])
        # All that makes a tracker one of this swarm.
        shutil.copytree(tracker.state / "authority", other.state / "authority")
        other.start()
        settings = {"up_bytes_per_second": "2M"}
        programs = [swarm.add_storage("storage"), *(swarm.add_daemon(f"d{number}", **settings) for number in range(2))]
        for joining in [swarm.begin_join(program) for program in programs]:
            assert joining.wait().exit_code == 0
        for program in programs:
            begin_with(program, other if program.name == "d1" else tracker)
            program.launch()
        for program in programs:
            program.wait_ready()
            wait_connected(program)
        yield Pair(redis, Crew(swarm, tracker, programs[0], programs[1:]), other)


def test_a_node_learns_of_all_trackers_and_both_know_every_node(pair: Pair) -> None:
    for program in (pair.crew.storage, *pair.crew.daemons):
        kept = program.identity / "tracker.json"
        wait_until(lambda: "others" in kept.read_text(), f"{program} keeps both trackers")
        known = json.loads(kept.read_text())
        assert {known["node"], known["others"][0]["node"]} == {tracker.node for tracker in pair.trackers}
    for tracker in pair.trackers:
        # Members that joined by the other one are known here as well.
        wait_until(
            lambda: [node["state"] for node in tracker.call("nodes")["nodes"]] == ["fresh"] * 3,
            f"{tracker} knows every node",
        )


def test_an_order_reaches_a_helper_that_is_linked_to_another_tracker(pair: Pair) -> None:
    uploader, helper = pair.crew.daemons
    assert pair.tracker_of(helper) is pair.other and pair.tracker_of(pair.crew.storage) is pair.crew.tracker
    file = pair.file("helped.bin", 16 * MIB)
    share(helper, file)
    result = put(uploader, file)
    assert result["state"] == "stored" and same_bytes(pair.crew.object_of(result["tag"]), file)
    assert result["pushed"].get(helper.node, 0) > 4 * MIB, result["pushed"]


def test_a_tracker_killed_in_mid_upload_is_replaced_by_the_other_without_a_command(pair: Pair) -> None:
    uploader, helper = pair.crew.daemons
    file = pair.file("replaced.bin", 32 * MIB)
    killed = False
    note: dict = {}
    for note in progress_of_put(uploader, file):
        if not killed and note.get("state") == "sending" and note.get("bytes_stored", 0) >= 2 * MIB:
            pair.crew.tracker.kill()
            killed = True
            # Who comes only now is ordered by the tracker that is left: it knows the open job, though it was
            # told to the other.
            share(helper, file, told=False)
    assert killed and note["state"] == "stored", note
    assert note["pushed"].get(helper.node, 0) > 4 * MIB, note["pushed"]
    for program in (pair.crew.storage, uploader):
        wait_until(lambda: pair.tracker_of(program) is pair.other, f"{program} has moved")
    pair.crew.tracker.start()


def test_a_redis_killed_in_mid_upload_is_missed_by_nobody_and_filled_again(pair: Pair) -> None:
    uploader, helper = pair.crew.daemons
    file = pair.file("alone.bin", 24 * MIB)
    share(helper, file)
    killed = False
    note: dict = {}
    for note in progress_of_put(uploader, file):
        if not killed and note.get("state") == "sending" and note.get("bytes_stored", 0) >= 2 * MIB:
            pair.redis.kill()
            killed = True
    assert killed and note["state"] == "stored", note
    for tracker in pair.trackers:
        tracker.wait_logged("shared index is away")
        assert tracker.call("status")["traffic"]["alone"]
    assert put(uploader, pair.file("meanwhile.bin", 2 * MIB))["state"] == "stored"
    pair.redis.start()
    for tracker in pair.trackers:
        tracker.wait_logged("shared index is back")
        wait_until(
            lambda: (
                [node["state"] for node in tracker.call("nodes")["nodes"]] == ["fresh"] * 3
                and tracker.call("status")["tag_count"] >= 4
            ),
            f"{tracker} knows everything again",
        )
        assert not tracker.call("status")["traffic"]["alone"]


def test_who_is_shut_out_at_one_tracker_is_shut_out_at_all(pair: Pair) -> None:
    helper = pair.crew.daemons[1]
    holding = pair.tracker_of(helper)
    elsewhere = next(tracker for tracker in pair.trackers if tracker is not holding)
    elsewhere.call("revoke", node=helper.node)
    assert holding is not None
    holding.wait_logged("node revoked elsewhere", node=helper.node)
    wait_until(lambda: pair.tracker_of(helper) is None, "its link has ended")
    for tracker in pair.trackers:
        states = {node["node"]: node["state"] for node in tracker.call("nodes")["nodes"]}
        assert states[helper.node] == "revoked"
