"""What befalls a crowd that downloads while a file goes up: whoever stays and is honest gets all of it, soon.

While storage fetches from an origin it has the origin's line to itself (exchange/seeding.py). So each story asks as
well how long that line was idle although somebody waited for what only the origin had. Real pickers, uplinks and
seeding on every node (tests/support/crowd_trouble.py); the same in every run.
"""

from __future__ import annotations

import pytest
from support.crowd_trouble import TroubledCrowd
from support.crowd_world import Member

from protocol.limits import MIB

MBIT = 1_000_000 / 8
UP = 20 * MBIT
MIBS = 32
BOUND_SECONDS = MIBS * MIB / UP
# In the middle of it.
THEN = BOUND_SECONDS / 3
BACK_SECONDS = 6.0
NOT_MUCH = 1.1
# Who was sent away asks again every two seconds.
SOON_SECONDS = 3.0


def crowd(downloaders: int = 4, mib: int = MIBS, **more: float) -> TroubledCrowd:
    """An uploader, ``node0``, and so many downloaders, at unequal distances."""
    places = range(downloaders + 1)
    members = [Member(UP, 0.01 + 0.03 * (place * 11 % 16) / 15, has=place == 0, wants=place > 0) for place in places]
    return TroubledCrowd(mib * MIB, members, **more)


def last(done: dict[str, float]) -> float:
    """Return when the last one had all."""
    return max(done.values())


def test_storage_without_room_keeps_nobody_waiting() -> None:
    world = crowd()
    world.at(THEN, world.fill_up)
    done = world.live(100)
    assert set(done) == {"node1", "node2", "node3", "node4"}
    assert max(world.starved_seconds.values()) <= SOON_SECONDS
    # From then on nobody has a line wide enough to pass on all that comes.
    assert last(done) <= 1.3 * BOUND_SECONDS + SOON_SECONDS


def test_storage_that_has_room_again_gets_its_turn_again() -> None:
    world = crowd()
    world.at(THEN, world.fill_up)
    world.at(THEN + BACK_SECONDS, world.make_room)
    done = world.live(100)
    assert world.idle_seconds <= SOON_SECONDS
    assert last(done) <= NOT_MUCH * BOUND_SECONDS + SOON_SECONDS


def test_storage_that_freezes_is_not_waited_for_long() -> None:
    world = crowd()
    world.at(THEN, world.freeze, "storage")
    done = world.live(100)
    assert set(done) == {"node1", "node2", "node3", "node4"}
    # What it was asked for, and what is in its connection, tells of nothing: that takes as long as it may be slow.
    assert max(world.starved_seconds.values()) <= 2 * SOON_SECONDS


@pytest.mark.parametrize("away_seconds", [0.5, BACK_SECONDS])
def test_storage_that_is_killed_and_comes_back_has_all_as_if_it_had_stayed(away_seconds: float) -> None:
    world = crowd()
    world.at(THEN, world.kill, "storage")
    world.at(THEN + away_seconds, world.start, "storage")
    done = world.live(100)
    assert world.idle_seconds <= 1.0
    assert last(done) <= NOT_MUCH * BOUND_SECONDS + 2.0


def test_an_uploader_that_leaves_and_comes_back_costs_the_time_it_was_away() -> None:
    world = crowd()
    world.at(THEN, world.kill, "node0")
    world.at(THEN + BACK_SECONDS, world.start, "node0")
    done = world.live(100)
    assert last(done) <= NOT_MUCH * BOUND_SECONDS + BACK_SECONDS


@pytest.mark.parametrize("away_seconds", [1.0, BACK_SECONDS])
def test_a_downloader_that_comes_and_goes_holds_nobody_up(away_seconds: float) -> None:
    world = crowd()
    for number, name in enumerate(("node2", "node3", "node2", "node3")):
        world.at(2.0 + number * 1.5 * away_seconds, world.kill, name)
        world.at(2.0 + number * 1.5 * away_seconds + away_seconds, world.start, name)
    done = world.live(100)
    assert set(done) == {"storage", "node1", "node2", "node3", "node4"}
    others = [done[name] for name in ("storage", "node1", "node4")]
    assert max(others) <= NOT_MUCH * BOUND_SECONDS


@pytest.mark.parametrize("liars", [("node2",), ("node1", "node3")])
def test_who_says_to_have_what_he_does_not_give_holds_nobody_up(liars: tuple[str, ...]) -> None:
    world = crowd()
    for name in liars:
        world.lie(name)
    done = world.live(100)
    assert last(done) <= NOT_MUCH * BOUND_SECONDS


def test_who_asks_for_the_same_block_without_end_holds_nobody_up() -> None:
    world = crowd()
    world.ask_without_end("node2")
    done = world.live(100)
    assert last(done) <= NOT_MUCH * BOUND_SECONDS


@pytest.mark.parametrize("mib", [8, MIBS])
def test_storage_that_takes_a_tenth_of_the_line_leaves_the_rest_to_others(mib: int) -> None:
    world = crowd(mib=mib, storage_down=UP / 10)
    done = world.live(400)
    stored_seconds = done.pop("storage")
    assert stored_seconds <= NOT_MUCH * mib * MIB / (UP / 10)
    # The first one is invited after two seconds, and shows after one chunk that the line was not full.
    assert last(done) <= 1.5 * mib * MIB / UP + 8.0


def test_who_waited_for_chunks_when_storage_came_back_is_invited_all_the_same() -> None:
    world = crowd(storage_down=UP / 10)
    world.at(2.0, world.kill, "storage")
    world.at(4.0, world.start, "storage")
    done = world.live(400)
    del done["storage"]
    assert last(done) <= 1.5 * BOUND_SECONDS + 10.0


def test_who_comes_when_invited_and_freezes_does_not_keep_the_others_from_being_invited() -> None:
    world = crowd(storage_down=UP / 10)

    def freeze_who_came() -> None:
        spread = world.uploader.seeding._tags[world.tag]
        if spread.invited is None or spread.rate_before is None:
            world.after(0.1, freeze_who_came)
        else:
            world.freeze(world.links[spread.owners[spread.invited]].receiver.name)

    world.at(2.0, freeze_who_came)
    done = world.live(400)
    assert len(done) == 4
    del done["storage"]
    assert last(done) <= 1.5 * BOUND_SECONDS + 30.0, "the next one is invited twenty seconds later"


def test_the_same_story_ends_in_the_same_way() -> None:
    ends = []
    for _ in range(2):
        world = crowd()
        world.at(THEN, world.freeze, "storage")
        world.at(THEN + BACK_SECONDS, world.thaw, "storage")
        world.lie("node2")
        ends.append((world.live(100), world.idle_seconds, world.starved_seconds))
    assert ends[0] == ends[1]
