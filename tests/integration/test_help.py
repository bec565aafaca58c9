"""Help: whoever holds chunks of a file that is being put is ordered to push them, and nothing goes twice."""

from __future__ import annotations

from support.crew import Crew, events, get, progress_of_put, put, share, wait_stored
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Program, Swarm, wait_until

# A tail may be asked of two at once: some blocks for each helper, and no more.
TAIL_BYTES_MAX = 2 * MIB


def test_helpers_that_share_the_file_are_ordered_and_push(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=3, up_bytes_per_second="2M")
    uploader, *helpers = crew.daemons
    file = crew.file("helped.bin", 18 * MIB)
    for helper in helpers:
        share(helper, file)
    result = put(uploader, file)
    assert result["state"] == "stored" and same_bytes(crew.object_of(result["tag"]), file)
    assert set(result["pushed"]) == {daemon.node for daemon in crew.daemons}
    assert sum(result["pushed"].values()) == file.stat().st_size
    # Three equal lines: each carries about a third.
    assert min(result["pushed"].values()) > 0.2 * file.stat().st_size, result["pushed"]
    received = crew.storage.counter("received_bytes")
    assert received <= file.stat().st_size + TAIL_BYTES_MAX, "no chunk goes twice, but for the tail"
    assert crew.storage.counter("wasted_bytes") <= TAIL_BYTES_MAX
    sent = sum(daemon.sent_bytes for daemon in crew.daemons)
    assert sent <= file.stat().st_size + TAIL_BYTES_MAX


def test_a_helper_that_comes_during_the_job_is_ordered_when_it_says_what_it_holds(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="2M")
    uploader, late = crew.daemons
    file = crew.file("late.bin", 20 * MIB)
    note: dict = {}
    shared = False
    for note in progress_of_put(uploader, file):
        if not shared and note.get("state") == "sending" and note.get("bytes_stored", 0) >= 2 * MIB:
            share(late, file)
            shared = True
    assert note["state"] == "stored" and note["pushed"].get(late.node, 0) > 4 * MIB, note["pushed"]


def test_the_job_completes_when_the_uploader_is_killed_after_it_was_safe(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="2M")
    uploader, helper = crew.daemons
    file = crew.file("left.bin", 16 * MIB)
    share(helper, file)
    result = put(uploader, file, wait="safe")
    assert result["state"] != "stored"
    uploader.kill()
    tag = tag_by_hand(file)
    wait_stored(crew.storage, tag)
    assert same_bytes(crew.object_of(tag), file)
    # When it comes back it learns the good end by itself.
    uploader.start()
    wait_until(lambda: event_of(uploader, tag), "the uploader hears that it is stored")


def event_of(daemon: Program, tag: str) -> bool:
    """Whether a daemon tells that its put of ``tag`` is stored."""
    return any(event["event"] == "put stored" and event.get("tag") == tag for event in events(daemon))


def test_a_helper_that_is_still_downloading_helps(swarm: Swarm) -> None:
    """One line is slow, the LAN is not: what the helper has fetched so far it pushes on."""
    crew = Crew.of(swarm, daemons=3, up_bytes_per_second="3M")
    uploader, seed, loader = crew.daemons
    file = crew.file("growing.bin", 24 * MIB)
    share(seed, file)
    tag = tag_by_hand(file)
    target = crew.folder / "fetched.bin"
    fetching = loader.begin("get", tag, "-o", target, "--json")
    wait_until(lambda: loader.counter("received_bytes") >= 2 * MIB, "the download has begun")
    result = put(uploader, file)
    assert result["state"] == "stored"
    assert not target.exists() or result["pushed"].get(loader.node, 0) > 0
    assert result["pushed"].get(loader.node, 0) >= MIB, result["pushed"]
    done = fetching.wait()
    assert done.exit_code == 0 and same_bytes(target, file)


def test_a_finished_download_helps_the_next_upload(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=3, up_bytes_per_second="3M")
    uploader, seed, loader = crew.daemons
    file = crew.file("had.bin", 12 * MIB)
    share(seed, file)
    get(loader, tag_by_hand(file), crew.folder / "had.copy")
    seed.stop()
    result = put(uploader, file)
    assert result["pushed"].get(loader.node, 0) > 3 * MIB, result["pushed"]
