"""Stories of one swarm each: what went wrong, and that the upload came to its good end all the same."""

from __future__ import annotations

import pytest
import trio
from simulation import stories
from simulation.hosts import Down
from simulation.stories import (
    begin_put,
    durable_share,
    put_state,
    set_uplinks,
    share,
    stored,
    tell,
    until,
    watched,
)
from simulation.world import MIB, Shape, World

HEARTBEAT_SECONDS = 5.0
EIGHT_HOURS = 8 * 3600.0


def test_upload_goes_on_while_the_tracker_restarts() -> None:
    async def story(world: World) -> None:
        async with watched(world, settle_seconds=90):
            set_uplinks(world, 2e5)
            uploader, helper, _ = world.daemons()
            await share(world, helper, "same.bin", 16 * MIB, 1)
            manifest = await begin_put(world, uploader, 16 * MIB, 1)
            await until(lambda: durable_share(world, manifest.tag) >= 0.5, 120)

            world.tracker.crash(power=True)
            before = durable_share(world, manifest.tag)
            await trio.sleep(8)
            # Who is linked already needs no introduction.
            assert durable_share(world, manifest.tag) > before
            await world.start(world.tracker)

            await until(stored(world, manifest.tag), 60)

    tell(story)


def test_helpers_finish_when_the_uploader_leaves_at_sixty_percent() -> None:
    tell(stories.uploader_leaves, Shape(4, 1))


def test_third_of_the_helpers_lying_costs_no_more_than_half_the_time_again() -> None:
    seconds: dict[bool, float] = {}

    async def story(world: World, *, lying: bool) -> None:
        async with watched(world, settle_seconds=120):
            set_uplinks(world, 1e6)
            uploader, *helpers = world.daemons()
            for helper in helpers[:2]:
                if lying:
                    await world.make_liar(helper)
            # The liars count as nothing in the honest case, too: they do not help there.
            for helper in helpers if lying else helpers[2:]:
                await share(world, helper, "same.bin", 32 * MIB, 2)
            began = trio.current_time()
            manifest = await begin_put(world, uploader, 32 * MIB, 2)
            await until(stored(world, manifest.tag), 120)
            seconds[lying] = trio.current_time() - began

    for lying in (False, True):
        tell(lambda world, lying=lying: story(world, lying=lying), Shape(7, 1))
    assert seconds[True] <= 1.5 * seconds[False], seconds


def test_disk_that_fills_up_at_ninety_percent_loses_nothing_and_the_next_put_waits_for_room() -> None:
    async def story(world: World) -> None:
        async with watched(world, settle_seconds=90):
            set_uplinks(world, 1e6)
            uploader, other, _ = world.daemons()
            (storage,) = world.storages()
            manifest = await begin_put(world, uploader, 10 * MIB, 3)
            await until(lambda: durable_share(world, manifest.tag) >= 0.9, 60)
            # Somebody else filled the disk. The job took its room when it was opened.
            storage.platter.capacity_bytes = storage.platter.used_bytes()
            await until(lambda: put_state(uploader, manifest.tag) == "stored", 60)

            await trio.sleep(2 * HEARTBEAT_SECONDS)
            late = await begin_put(world, other, 5 * MIB + 77, 4)
            await trio.sleep(60)
            (put,) = other.program.puts.all()
            assert put.state.value not in ("stored", "failed")
            assert "room" in put.note
            storage.platter.capacity_bytes = 1 << 40
            await until(lambda: put_state(other, late.tag) == "stored", 90)

    tell(story)


def test_disk_that_fills_up_under_many_uploads_fails_none_of_them() -> None:
    async def story(world: World) -> None:
        async with watched(world, settle_seconds=120):
            set_uplinks(world, 1e6)
            (storage,) = world.storages()
            storage.platter.capacity_bytes = storage.platter.used_bytes() + 9 * MIB
            for content, host in enumerate(world.daemons()):
                await begin_put(world, host, 4 * MIB, content)
            await trio.sleep(45)
            assert len(storage.program.shelf.stored) == 2
            storage.platter.capacity_bytes = 1 << 40

    tell(story)


def test_upload_survives_partitions_between_tracker_storage_and_uploader_in_turn() -> None:
    async def story(world: World) -> None:
        async with watched(world, settle_seconds=120):
            set_uplinks(world, 1e5)
            uploader, helper, _ = world.daemons()
            (storage,) = world.storages()
            await share(world, helper, "same.bin", 8 * MIB, 5)
            manifest = await begin_put(world, uploader, 8 * MIB, 5)
            pairs = (
                (world.tracker, storage),
                (world.tracker, uploader),
                (uploader, storage),
                (helper, storage),
                (world.tracker, helper),
            )
            for one, other in pairs:
                world.network.partition(one.port.address, other.port.address)
                await trio.sleep(8)
                world.network.join(one.port.address, other.port.address)
                await trio.sleep(1)
            await until(stored(world, manifest.tag), 120)

    tell(story)


def test_helper_behind_nat_helps_by_dialling_out() -> None:
    async def story(world: World) -> None:
        async with watched(world):
            set_uplinks(world, 2e5)
            uploader, helper, _ = world.daemons()
            helper.port.nat = True
            await share(world, helper, "same.bin", 8 * MIB, 6)
            manifest = await begin_put(world, uploader, 8 * MIB, 6)
            await until(lambda: durable_share(world, manifest.tag) >= 0.2, 60)
            await uploader.stop()
            await until(stored(world, manifest.tag), 90)
            assert helper.port.sent_bytes >= 3 * MIB
            await world.start(uploader)
            await until(lambda: put_state(uploader, manifest.tag) == "stored", 60)

    tell(story)


def test_laptop_that_slept_eight_hours_goes_on_within_two_beats() -> None:
    async def story(world: World) -> None:
        async with watched(world, settle_seconds=120) as beside:
            set_uplinks(world, 2e5)
            (uploader,) = world.daemons()
            manifest = await begin_put(world, uploader, 8 * MIB, 7)
            await until(lambda: durable_share(world, manifest.tag) >= 0.4, 60)
            before = durable_share(world, manifest.tag)
            uploader.clock.skew_seconds = -3600.0  # its clock has been set back, too
            beside.start_soon(uploader.suspend, EIGHT_HOURS)
            await trio.sleep(EIGHT_HOURS + 0.01)
            assert durable_share(world, manifest.tag) >= before
            await until(lambda: uploader.program.tracker_link.connected, 2 * HEARTBEAT_SECONDS)
            await until(stored(world, manifest.tag), 90)

    tell(story, Shape(1, 1))


def test_power_cut_of_storage_leaves_no_uploader_waiting_on_a_dead_connection() -> None:
    async def story(world: World) -> None:
        async with watched(world, settle_seconds=90):
            set_uplinks(world, 3e5)
            uploader, *_ = world.daemons()
            (storage,) = world.storages()
            manifest = await begin_put(world, uploader, 8 * MIB, 8)
            await until(lambda: durable_share(world, manifest.tag) >= 0.5, 60)
            storage.crash(power=True)
            world.checks.power_has_gone(storage)
            await storage.wait_ended()
            with pytest.raises(Down):
                await storage.call("status")
            await trio.sleep(3)
            await world.start(storage)
            assert durable_share(world, manifest.tag) >= 0.5
            await until(stored(world, manifest.tag), 75)

    tell(story)


def test_storage_nodes_that_swap_their_addresses_are_found_again() -> None:
    tell(stories.addresses_swapped, Shape(2, 2))


def test_upload_goes_on_after_two_minutes_of_silence() -> None:
    tell(stories.silence_amid, Shape(1, 1))


def test_swarm_that_falls_into_two_camps_comes_together_again() -> None:
    """Two trackers' worth of partitions: first the tracker's half cannot see the storage node's, then the other way."""

    async def story(world: World) -> None:
        async with watched(world, settle_seconds=120):
            set_uplinks(world, 1e5)
            uploader, helper, *others = world.daemons()
            (storage,) = world.storages()
            for host in (helper, *others):
                await share(world, host, "same.bin", 16 * MIB, 12)
            manifest = await begin_put(world, uploader, 16 * MIB, 12)
            await until(lambda: durable_share(world, manifest.tag) >= 0.1, 60)
            for camp in ((world.tracker, uploader, others[0]), (world.tracker, storage, helper)):
                rest = [host for host in world.hosts.values() if host not in camp]
                before = durable_share(world, manifest.tag)
                for one in camp:
                    for other in rest:
                        world.network.partition(one.port.address, other.port.address)
                await trio.sleep(30)
                # Whoever is on the storage node's side of the split goes on without all others.
                assert durable_share(world, manifest.tag) > before
                for one in camp:
                    for other in rest:
                        world.network.join(one.port.address, other.port.address)
                await trio.sleep(5)
            await until(stored(world, manifest.tag), 120)

    tell(story, Shape(5, 1))


@pytest.mark.parametrize("tls", [False, True])
def test_impostor_at_a_storage_nodes_address_learns_nothing(tls: bool) -> None:
    tell(stories.impostor_answers, Shape(2, 1, tls=tls))


def test_node_that_is_revoked_amid_an_upload_is_cut_off_and_the_upload_ends_well() -> None:
    tell(stories.revoked_amid, Shape(3, 1))


def test_thief_of_digests_is_not_granted_the_file() -> None:
    tell(stories.claims_without_bytes, Shape(2, 1))


def test_tracker_lists_exactly_what_is_held_after_everybody_restarted() -> None:
    tell(stories.memory_after_restarts, Shape(2, 1))


def test_put_that_is_cancelled_at_any_moment_stays_cancelled() -> None:
    async def story(world: World) -> None:
        async with watched(world):
            set_uplinks(world, 2e6)
            (uploader,) = world.daemons()
            for number in range(120):
                manifest = await begin_put(world, uploader, 700_000, content=100 + number)
                # Through hashing, asking, dialling and proposing; sending takes the longest.
                await trio.sleep(0.0005 * number)
                world.checks.put_was_given_up(uploader, manifest.tag)
                await uploader.call("cancel", id=uploader.program.puts.all()[-1].id)
            assert {put.state.value for put in uploader.program.puts.all()} == {"cancelled"}

    tell(story, Shape(1, 1))


def test_three_put_one_file_and_it_travels_once() -> None:
    tell(stories.plain_put, Shape(3, 1))
