"""Get: by tag, name and link, from several at once, during the upload; resumed, verified, placed by rename."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.crew import Crew, get, put, share
from support.files import MIB, make_file, same_bytes, tag_by_hand
from support.processes import Refused, Swarm, wait_until

from tracker.access import PACE_SECONDS
from tracker.pace import LATE_SECONDS


def test_a_file_comes_by_tag_by_name_and_by_link(crew: Crew) -> None:
    first, second = crew.daemons
    file = crew.file("three ways.bin", 4 * MIB + 7)
    result = put(first, file, name="docs/three ways.bin")
    for number, what in enumerate((result["tag"], "docs/three ways.bin", result["link"])):
        target = crew.folder / f"way-{number}"
        done = second.upswarm("get", what, "-o", target, "--json")
        assert done.json["tag"] == result["tag"] and done.json["size"] == file.stat().st_size, done
        assert Path(done.json["path"]) == target and same_bytes(target, file)


def test_a_file_comes_into_the_folder_one_stands_in_under_its_own_name(crew: Crew) -> None:
    file = crew.file("own name.bin", 70_000, seed=3)
    tag = put(crew.daemons[0], file)["tag"]
    folder = crew.folder / "here"
    folder.mkdir()
    done = crew.daemons[1].upswarm("get", tag, "-o", folder, "--json")
    assert Path(done.json["path"]) == folder / "own name.bin" and same_bytes(folder / "own name.bin", file)


def test_an_empty_file_comes_too(crew: Crew) -> None:
    file = crew.file("nothing", 0)
    tag = put(crew.daemons[0], file)["tag"]
    target = crew.folder / "nothing.copy"
    get(crew.daemons[1], tag, target)
    assert target.read_bytes() == b""


def test_a_file_comes_from_several_holders_at_once(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=3, up_bytes_per_second="2M")
    first, second, getter = crew.daemons
    file = crew.file("many.bin", 16 * MIB)
    share(first, file)
    share(second, file)
    result = get(getter, tag_by_hand(file), crew.folder / "many.copy")
    assert same_bytes(crew.folder / "many.copy", file)
    assert set(result["from"]) == {first.node, second.node}
    assert min(result["from"].values()) > 4 * MIB, result["from"]
    assert getter.counter("received_bytes") <= 16 * MIB + 2 * MIB
    # The storage node is a holder like others, and with it there are three.
    put(first, file)
    (crew.folder / "many.copy").unlink()
    fresh = swarm.daemon("fresh")
    result = get(fresh, tag_by_hand(file), crew.folder / "more.copy")
    assert crew.storage.node in result["from"] and same_bytes(crew.folder / "more.copy", file)


def test_a_file_comes_by_tag_name_and_link_while_it_is_still_going_up(swarm: Swarm) -> None:
    # They help little, and take their part of its line: the upload lasts seven seconds at least.
    crew = Crew.of(swarm, daemons=4, up_bytes_per_second="3M", help_bytes_per_second="100k")
    uploader, *getters = crew.daemons
    file = crew.file("early.bin", 20 * MIB)
    tag = tag_by_hand(file)
    uploading = uploader.begin("put", file, "--name", "films/early", "--json")
    wait_until(lambda: crew.storage.counter("received_bytes") > MIB, "the upload has begun")
    ways = (tag, "films/early", f"upswarm:{tag}?name=films%2Fearly&size={file.stat().st_size}")
    copies = [crew.folder / f"early-{number}" for number in range(len(ways))]
    getting = [
        getter.begin("get", what, "-o", copy, "--json")
        for getter, what, copy in zip(getters, ways, copies, strict=True)
    ]
    for getter, command in zip(getters, getting, strict=True):
        # A command that is over says what it met.
        wait_until(
            lambda getter=getter, command=command: getter.counter("received_bytes") > MIB or not command.running,
            f"the download to {getter} has begun",
        )
        assert getter.counter("received_bytes") > MIB, command.wait()
    assert uploading.running, "while the upload goes on"
    for command, copy in zip(getting, copies, strict=True):
        done = command.wait()
        assert done.exit_code == 0 and same_bytes(copy, file), done
    done = uploading.wait()
    assert done.exit_code == 0 and done.json["link"] == ways[2]


def test_a_name_is_found_at_once_by_a_tracker_that_was_frozen(crew: Crew) -> None:
    tracker, (first, second) = crew.tracker, crew.daemons
    file = crew.file("frozen.bin", MIB, seed=5)
    # Late, because of something else on its machine; what comes meanwhile must not wait for the next heartbeats.
    os.kill(tracker.pid, signal.SIGSTOP)
    try:
        share(first, file, told=False)
        time.sleep(PACE_SECONDS + 2 * LATE_SECONDS)
    finally:
        os.kill(tracker.pid, signal.SIGCONT)
    get(second, "frozen.bin", crew.folder / "found.copy")
    assert same_bytes(crew.folder / "found.copy", file)


def test_a_killed_getter_goes_on_where_it_was(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="5M")
    holder, getter = crew.daemons
    file = crew.file("cut.bin", 24 * MIB)
    share(holder, file)
    target = crew.folder / "cut.copy"
    getter.begin("get", tag_by_hand(file), "-o", target)
    wait_until(lambda: getter.counter("received_bytes") >= 10 * MIB, "ten mebibytes have come")
    getter.kill()
    assert not target.exists(), "nothing unfinished lies under the final name"
    getter.start()
    wait_until(lambda: target.exists(), "it goes on without a new command", 60)
    assert same_bytes(target, file)
    assert getter.counter("received_bytes") <= 24 * MIB - 6 * MIB, "what had come is not fetched again"


def test_the_same_get_after_a_kill_joins_what_goes_on(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="5M")
    holder, getter = crew.daemons
    file = crew.file("again.bin", 16 * MIB)
    share(holder, file)
    target = crew.folder / "again.copy"
    getter.begin("get", tag_by_hand(file), "-o", target)
    wait_until(lambda: getter.counter("received_bytes") >= 6 * MIB, "it has begun")
    getter.restart()
    done = getter.upswarm("get", tag_by_hand(file), "-o", target, "--json")
    assert same_bytes(target, file) and done.json["size"] == 16 * MIB


def test_another_file_in_the_place_is_not_overwritten(crew: Crew) -> None:
    file = crew.file("precious.bin", 2 * MIB, seed=8)
    tag = put(crew.daemons[0], file)["tag"]
    target = crew.folder / "precious.copy"
    target.write_text("mine")
    done = crew.daemons[1].upswarm("get", tag, "-o", target, check=False)
    assert done.exit_code != 0 and target.read_text() == "mine"
    # The very file is no other file.
    target.write_bytes(file.read_bytes())
    assert crew.daemons[1].upswarm("get", tag, "-o", target).exit_code == 0
    assert same_bytes(target, file)


def test_share_and_get_need_no_storage_node(swarm: Swarm) -> None:
    swarm.tracker()
    first, second = swarm.daemons(2)
    file = make_file(swarm.folder / "files" / "lent.bin", 6 * MIB)
    share(first, file)
    target = swarm.folder / "lent.copy"
    wait_until(lambda: not second.upswarm("get", tag_by_hand(file), "-o", target, check=False).exit_code, "it comes")
    assert same_bytes(target, file)


def test_unshare_ends_the_offer(crew: Crew) -> None:
    file = crew.file("withdrawn.bin", 2 * MIB, seed=12)
    share(crew.daemons[0], file)
    tag = tag_by_hand(file)
    crew.daemons[0].upswarm("unshare", tag)
    assert file.exists()
    # Whether the tracker has heard of it yet or not: who is asked for the manifest has nothing of that tag any more.
    assert crew.daemons[1].upswarm("get", tag, "-o", crew.folder / "w", check=False).exit_code == 4


def test_what_nobody_has_is_not_found(crew: Crew) -> None:
    daemon = crew.daemons[0]
    assert daemon.upswarm("get", "00" * 32 + "-1", "-o", crew.folder / "x", check=False).exit_code == 4
    assert daemon.upswarm("get", "no such name", "-o", crew.folder / "x", check=False).exit_code == 4
    with pytest.raises(Refused):
        get(daemon, "upswarm:nonsense")
    assert not (crew.folder / "x").exists()


def test_the_newest_file_of_a_name_wins(crew: Crew) -> None:
    first, second = crew.daemons
    old = crew.file("old", 1_000_000, seed=21)
    new = crew.file("new", 1_000_001, seed=22)
    put(first, old, name="report.pdf")
    put(first, new, name="report.pdf")
    # The tracker hears of both from inventories.
    wait_until(lambda: second.call("show", tag="report.pdf")["tag"] == tag_by_hand(new), "the tracker knows both")
    target = crew.folder / "report"
    get(second, "report.pdf", target)
    assert same_bytes(target, new)
