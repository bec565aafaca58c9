"""A whole crowd in virtual time: everybody downloads what goes up, relays carry it, the uploader leaves.

Real pickers, uplinks and seeding on every node (tests/support/crowd_world.py); the same in every run.
"""

from __future__ import annotations

import pytest
from support.crowd_lines import WORD_BYTES
from support.crowd_world import CrowdWorld, Member

from protocol.limits import MIB

MBIT = 1_000_000 / 8
UP = 20 * MBIT


def latency(place: int) -> float:
    """Return 10 to 40 ms: neighbours differ."""
    return 0.01 + 0.03 * (place * 11 % 16) / 15


def downloaders(nodes: int) -> list[Member]:
    return [Member(UP, latency(place), has=place == 0, wants=place > 0) for place in range(nodes)]


def relays(nodes: int) -> list[Member]:
    lan = 1000 * MBIT
    return [Member(UP, latency(place), lan=lan, has=place == 0, lends=place > 0) for place in range(nodes)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("nodes", "mib"), [(5, 64), (9, 64), (5, 128)])
def test_what_everybody_downloads_leaves_the_uploader_about_once(nodes: int, mib: int, seed: int) -> None:
    outcome = CrowdWorld(mib * MIB, downloaders(nodes), seed=seed).run()
    bound_seconds = mib * MIB / UP
    assert outcome.uploader_to_storage_bytes + outcome.uploader_to_peers_bytes <= 1.03 * mib * MIB
    assert outcome.stored_seconds <= 1.05 * bound_seconds
    assert outcome.all_seconds <= 1.1 * bound_seconds
    assert outcome.free_seconds <= 1.05 * bound_seconds
    assert outcome.wasted_bytes <= 0.01 * mib * MIB


@pytest.mark.parametrize(("mib", "all_share", "sent_share"), [(256, 1.10, 1.03), (1024, 1.05, 1.03)])
def test_downlinks_no_wider_than_uplinks_are_full_once_there_is_something_to_pass_on(
    mib: int, all_share: float, sent_share: float
) -> None:
    up = 100 * MBIT
    members = [Member(up, 0.0005, down=up, has=place == 0, wants=place > 0) for place in range(5)]
    outcome = CrowdWorld(mib * MIB, members).run()
    bound_seconds = mib * MIB / up
    assert outcome.stored_seconds <= 1.05 * bound_seconds
    assert outcome.all_seconds <= all_share * bound_seconds
    assert outcome.uploader_to_storage_bytes + outcome.uploader_to_peers_bytes <= sent_share * mib * MIB


def test_many_downloaders_get_from_each_other_what_left_the_uploader_once() -> None:
    outcome = CrowdWorld(16 * MIB, downloaders(30)).run()
    bound_seconds = 16 * MIB / UP
    assert outcome.uploader_to_storage_bytes + outcome.uploader_to_peers_bytes <= 1.03 * 16 * MIB
    assert outcome.stored_seconds <= 1.1 * bound_seconds
    assert outcome.all_seconds <= 1.25 * bound_seconds


@pytest.mark.parametrize(("mib", "all_share"), [(64, 1.25), (256, 1.17)])
def test_a_storage_node_with_a_narrow_uplink_passes_on_each_chunk_once_before_any_twice(
    mib: int, all_share: float
) -> None:
    members = [Member(UP, 0.0005, has=place == 0, wants=place > 0) for place in range(5)]
    outcome = CrowdWorld(mib * MIB, members, storage_up=UP).run()
    assert outcome.stored_seconds <= 1.05 * mib * MIB / UP
    assert outcome.all_seconds <= all_share * mib * MIB / UP
    assert outcome.uploader_to_storage_bytes + outcome.uploader_to_peers_bytes <= 1.03 * mib * MIB


def test_fifty_who_find_storage_slow_do_not_bury_the_uploader_under_what_they_ask_for() -> None:
    members = [Member(UP, 0.01, has=place == 0, wants=place > 0) for place in range(50)]
    outcome = CrowdWorld(24 * MIB, members, storage_up=100 * MBIT).run()
    assert outcome.stored_seconds <= 3 * 24 * MIB / UP, "4 to 5 when all of them are served as soon as anybody is"
    words_pass = CrowdWorld(24 * MIB, members, storage_up=100 * MBIT, sparse_bytes=WORD_BYTES).run()
    assert words_pass.stored_seconds <= 1.05 * 24 * MIB / UP


def test_a_storage_node_with_a_narrow_downlink_leaves_the_rest_of_the_line_to_others() -> None:
    members = [Member(50 * MBIT, 0.0005, has=place == 0, wants=place > 0) for place in range(5)]
    world = CrowdWorld(64 * MIB, members, storage_down=10 * MBIT)
    outcome = world.run()
    assert outcome.stored_seconds <= 1.05 * 64 * MIB / (10 * MBIT)
    others = [node.complete_at for node in world.nodes if node.complete_at]
    assert max(others) <= 0.4 * outcome.stored_seconds


def test_whoever_downloads_over_the_lan_does_not_wait_for_storage() -> None:
    members = [Member(UP, 0.0005, lan=1000 * MBIT, has=place == 0, wants=place > 0) for place in range(5)]
    world = CrowdWorld(64 * MIB, members)
    world.run()
    others = [node.complete_at for node in world.nodes if node.complete_at]
    assert max(others) <= 0.25 * 64 * MIB / UP


@pytest.mark.parametrize("seed", range(4))
def test_a_crowd_whose_uploader_leaves_when_it_may_ends_as_soon(seed: int) -> None:
    outcome = CrowdWorld(64 * MIB, downloaders(5), leave_when_free=True, seed=seed).run()
    bound_seconds = 64 * MIB / UP
    assert outcome.free_seconds <= 1.05 * bound_seconds
    assert outcome.stored_seconds <= 1.05 * bound_seconds


@pytest.mark.parametrize(("nodes", "mib"), [(5, 64), (9, 64), (5, 256)])
def test_idle_lines_carry_what_comes_over_the_lan(nodes: int, mib: int) -> None:
    outcome = CrowdWorld(mib * MIB, relays(nodes)).run()
    assert outcome.stored_seconds <= 1.08 * mib * MIB / (nodes * UP)
    assert outcome.wasted_bytes <= 0.01 * mib * MIB
    assert outcome.uploader_to_storage_bytes <= 1.2 * mib * MIB / nodes, "the relays carry their share"


@pytest.mark.parametrize(("nodes", "up", "mib", "ratio"), [(5, 100, 256, 1.08), (33, 20, 512, 1.25)])
def test_relays_get_their_first_chunks_one_after_the_other(nodes: int, up: int, mib: int, ratio: float) -> None:
    members = [Member(up * MBIT, 0.02, lan=1000 * MBIT, has=place == 0, lends=place > 0) for place in range(nodes)]
    outcome = CrowdWorld(mib * MIB, members).run()
    bound_seconds = mib * MIB / (nodes * up * MBIT)
    assert outcome.stored_seconds <= ratio * bound_seconds
    assert outcome.wasted_bytes <= 0.01 * mib * MIB


def test_the_same_seed_gives_the_same_crowd() -> None:
    first, second = (CrowdWorld(16 * MIB, downloaders(5), seed=3).run() for _ in range(2))
    assert first == second
