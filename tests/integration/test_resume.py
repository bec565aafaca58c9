"""Join and resume: two uploaders share one job, and any process may be killed at any time."""

from __future__ import annotations

import threading

import pytest
from support.crew import Crew, acknowledged_bytes, files_of, put, wait_stored
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Program, Refused, Swarm, wait_until

from runtime.heartbeat import BEAT_SECONDS

# What may be under way, or received and not yet acknowledged, when a process dies: blocks in the receiver's memory and
# chunks begun and not finished.
WINDOW_BYTES = 8 * MIB


def test_two_daemons_that_put_the_same_file_share_one_job(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="3M")
    file = crew.file("shared.bin", 18 * MIB)
    results: dict[str, dict] = {}

    def run(daemon: Program) -> None:
        results[daemon.node] = put(daemon, file, name=f"by {daemon.name}")

    threads = [threading.Thread(target=run, args=(daemon,)) for daemon in crew.daemons]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result["state"] for result in results.values()} == {"stored"}
    assert crew.storage.counter("received_bytes") <= 18 * MIB + 2 * MIB
    assert len(crew.storage.logged("job open")) == 1
    for result in results.values():
        assert min(result["pushed"].values()) > 4 * MIB, result["pushed"]


@pytest.mark.parametrize("victim", ["daemon", "tracker", "storage"])
def test_an_upload_survives_sigkill_and_restart_of_any_process(swarm: Swarm, victim: str) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="5M")
    (daemon,) = crew.daemons
    program = {"daemon": daemon, "tracker": crew.tracker, "storage": crew.storage}[victim]
    file = crew.file("survivor.bin", 30 * MIB)
    tag = tag_by_hand(file)
    put(daemon, file, wait="no")
    wait_until(lambda: acknowledged_bytes(crew.storage, tag) >= 8 * MIB, "some chunks are acknowledged")
    received = crew.storage.counter("received_bytes")
    program.kill()
    acknowledged = acknowledged_bytes(crew.storage, tag)
    if victim != "storage":
        # Without that process too, what was acknowledged is there.
        assert acknowledged >= 8 * MIB
    program.start()
    wait_stored(crew.storage, tag)
    assert same_bytes(crew.object_of(tag), file)
    # The counter begins anew with the storage node itself.
    again = crew.storage.counter("received_bytes")
    if victim == "storage":
        assert again <= 30 * MIB - acknowledged + MIB, "acknowledged chunks are not sent again"
    else:
        assert again <= 30 * MIB + WINDOW_BYTES and again >= received
    # The daemon knows the good end without a new command.
    wait_until(lambda: daemon.logged("put stored"), "the put ends well")


def test_the_tracker_may_be_away_during_a_whole_upload(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="5M")
    (daemon,) = crew.daemons
    file = crew.file("alone.bin", 15 * MIB)
    tag = tag_by_hand(file)
    put(daemon, file, wait="no")
    wait_until(lambda: acknowledged_bytes(crew.storage, tag) >= 2 * MIB, "it is under way")
    crew.tracker.kill()
    wait_stored(crew.storage, tag)
    assert same_bytes(crew.object_of(tag), file)


def test_the_trackers_index_is_complete_again_within_two_heartbeats(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2)
    first, second = crew.daemons
    files = [crew.file(f"f{number}", MIB + number, number) for number in range(5)]
    for number, file in enumerate(files):
        if number % 2:
            put(first, file)
        else:
            second.call("share", paths=[str(file)])
    wanted = {tag_by_hand(file) for file in files}
    wait_until(lambda: wanted <= known_tags(first), "the tracker knows everything")
    crew.tracker.restart()
    # Reconnecting takes its own moment (full jitter); the beats are counted from there.
    for daemon in (first, second, crew.storage):
        daemon.wait_logged("tracker connected", more_than=1)
    wait_until(lambda: wanted <= known_tags(first), "the index is complete", 2 * BEAT_SECONDS)


def known_tags(daemon: Program) -> set[str]:
    """Tags the tracker tells a daemon of."""
    try:
        return {row["tag"] for row in files_of(daemon.call("ls", stored=False, local=False))}
    except Refused:
        return set()
