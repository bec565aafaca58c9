"""What every index must do (tracker/index/base.py is the law). A subclass says how an empty one is made: its fixture
``make`` returns a function for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from support.pairs import node, some_tag

from protocol.bitmap import Bitmap
from protocol.errors import RemoteProtocolError
from protocol.ids import NodeId, Role, Tag
from protocol.limits import NAMES_PER_TAG_MAX
from protocol.messages import Heartbeat, Holding, Inventory, JobState, JobUpdate, Pushed
from tracker.index.base import ENDED_JOBS_MAX, Index, Patience, Profile, Standing, TagState

MIB = 1024 * 1024
PATIENCE = Patience(silent_seconds=12.5, forgotten_seconds=600.0)
TAG = some_tag("film", 8)
OTHER = some_tag("other", 8)
PEER = node("peer")
STORE = node("store")


def profile(who: NodeId, role: Role = Role.PEER, name: str = "") -> Profile:
    return Profile(node=who, role=role, name=name or who[:4], addresses=("127.0.0.1:4200",))


def beat(epoch: int = 1, sequence: int = 1, *, room_bytes: int = 0, paused: bool = False) -> Heartbeat:
    return Heartbeat(number=0, epoch=epoch, sequence=sequence, room_bytes=room_bytes, lend=False, paused=paused)


def holding(
    tag: Tag = TAG, chunks: Sequence[int] | None = None, *, names: tuple[str, ...] = (), since: int = 1
) -> Holding:
    """What is held of a tag; ``chunks`` None: all."""
    bitmap = b"" if chunks is None else Bitmap.of(tag.chunks, chunks).to_bytes()
    return Holding(tag=tag, size_bytes=tag.chunks * MIB, names=names, since=since, bitmap=bitmap)


def said(
    *held: Holding, epoch: int = 1, sequence: int = 1, full: bool = True, dropped: tuple[Tag, ...] = ()
) -> Inventory:
    return Inventory(epoch=epoch, sequence=sequence, full=full, held=held, dropped=dropped)


def update(tag: Tag = TAG, state: JobState = JobState.OPEN, *, stored: int = 0, name: str = "film.mkv") -> JobUpdate:
    return JobUpdate(
        tag=tag,
        size_bytes=tag.chunks * MIB,
        name=name,
        state=state,
        reason="",
        chunks_stored=stored,
        safe=False,
        uploaders=(PEER,),
        pushed=(Pushed(node=PEER, bytes_pushed=stored * MIB),),
    )


MakeIndex = Callable[[Patience], Index]


class IndexContract:
    """Subclass it as ``Test...`` and say how to make an index."""

    @pytest.fixture
    def index(self, make: MakeIndex) -> Index:
        return make(PATIENCE)

    # --- nodes ---

    async def test_an_empty_index_knows_nothing(self, index: Index) -> None:
        assert await index.nodes(0) == () and await index.jobs(0) == () and await index.tag(TAG, 0) is None
        assert await index.tags(0, after=None, limit=9, stored_only=False) == ()
        assert await index.named("film.mkv", 0) is None and await index.node(PEER, 0) is None
        await index.forget(PEER)
        await index.left(PEER, 0)
        assert await index.take(PEER, said(holding()), 0) is None

    async def test_a_node_is_fresh_then_silent_then_forgotten(self, index: Index) -> None:
        await index.arrived(profile(PEER, name="ada"), 100)
        await index.beat(profile(PEER, name="ada"), beat(room_bytes=7, paused=True), 100)
        for now, standing in ((100, Standing.FRESH), (112.5, Standing.FRESH), (113, Standing.SILENT), (700, "silent")):
            view = await index.node(PEER, now)
            assert view is not None and view.standing == standing
            assert (view.name, view.room_bytes, view.paused) == ("ada", 7, True)
            assert view.seen_seconds_ago == now - 100
        assert await index.node(PEER, 701) is None and await index.nodes(701) == ()

    async def test_whether_anybody_sweeps_changes_no_answer(self, make: MakeIndex) -> None:
        swept, unswept = make(PATIENCE), make(PATIENCE)
        for index in (swept, unswept):
            await index.arrived(profile(PEER), 0)
            await index.take(PEER, said(holding(names=("a",))), 0)
            await index.arrived(profile(STORE, Role.STORAGE), 500)
            await index.take(STORE, said(holding(OTHER)), 500)
        assert await swept.sweep(700) == (PEER,)
        assert await swept.sweep(700) == ()
        for index in (swept, unswept):
            assert [view.node for view in await index.nodes(700)] == [STORE]
            assert await index.named("a", 700) is None and await index.holders(TAG, 700) == ()
            assert [view.tag for view in await index.tags(700, after=None, limit=9, stored_only=False)] == [OTHER]
            assert (await index.counts(700)).tags == 1

    async def test_a_node_that_left_is_silent_at_once_and_fresh_when_it_is_back(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)
        await index.left(PEER, 1)
        assert (await index.nodes(1))[0].standing is Standing.SILENT
        await index.arrived(profile(PEER), 2)
        assert (await index.nodes(2))[0].fresh

    async def test_a_node_that_was_told_to_beat_less_often_is_silent_later(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)
        await index.beat(profile(PEER), beat(), 0, interval_seconds=20)
        assert (await index.nodes(50))[0].fresh and not (await index.nodes(51))[0].fresh
        await index.beat(profile(PEER), beat(), 60, interval_seconds=1)
        assert (await index.nodes(72.5))[0].fresh, "no sooner than others"
        await index.beat(profile(PEER), beat(), 80, interval_seconds=20)
        await index.beat(profile(PEER), beat(), 81)
        assert not (await index.nodes(94))[0].fresh

    async def test_nodes_come_in_order_and_by_role(self, index: Index) -> None:
        names = [node(f"n{number}") for number in range(20)]
        for number, name in enumerate(names):
            await index.arrived(profile(name, Role.STORAGE if number % 4 == 0 else Role.PEER), 0)
        assert [view.node for view in await index.nodes(0)] == sorted(names)
        assert [view.node for view in await index.nodes(0, role=Role.STORAGE)] == sorted(names[::4])

    async def test_a_revoked_node_and_all_it_said_is_forgotten_at_once(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        await index.take(STORE, said(holding(names=("film.mkv",))), 0)
        await index.job(STORE, update(OTHER), 0)
        await index.forget(STORE)
        assert await index.node(STORE, 0) is None and await index.holders(TAG, 0) == ()
        assert await index.jobs(0) == () and await index.named("film.mkv", 0) is None

    # --- inventories ---

    async def test_an_unknown_inventory_is_wanted_until_it_is_there(self, index: Index) -> None:
        assert await index.beat(profile(PEER), beat(epoch=5, sequence=0), 0)
        assert await index.take(PEER, said(epoch=5, sequence=1), 0) == ()
        assert not await index.beat(profile(PEER), beat(epoch=5, sequence=1), 0)
        assert await index.beat(profile(PEER), beat(epoch=5, sequence=2), 0), "one was lost"
        assert await index.beat(profile(PEER), beat(epoch=6, sequence=1), 0), "it was started anew"

    async def test_a_change_out_of_step_is_not_applied_and_everything_is_wanted(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)
        await index.take(PEER, said(holding(TAG), sequence=4), 0)
        for wrong in (4, 6):
            assert await index.take(PEER, said(holding(OTHER), sequence=wrong, full=False), 0) is None
            assert await index.holders(OTHER, 0) == () and len(await index.holders(TAG, 0)) == 1
            assert await index.beat(profile(PEER), beat(sequence=wrong), 0)
            assert await index.take(PEER, said(holding(TAG), sequence=4), 0) is not None
        assert await index.take(PEER, said(holding(OTHER), sequence=5, full=False, epoch=2), 0) is None
        assert await index.take(PEER, said(holding(OTHER), sequence=5, full=False), 0) is None, "still out of step"

    async def test_a_long_list_comes_in_several_messages(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)
        tags = [some_tag(f"t{number}", 8) for number in range(6)]
        await index.take(PEER, said(*map(holding, tags[:3]), sequence=7), 0)
        await index.take(PEER, said(*map(holding, tags[3:]), sequence=8, full=False), 0)
        listed = await index.tags(0, after=None, limit=99, stored_only=False)
        assert [view.tag for view in listed] == sorted(tags)
        await index.take(PEER, said(holding(tags[0]), sequence=9), 0)
        assert [view.tag for view in await index.tags(0, after=None, limit=9, stored_only=False)] == [tags[0]]

    async def test_only_chunks_that_were_not_held_before_are_gained(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)

        async def take(held: Holding, sequence: int, *, full: bool = False) -> tuple[Tag, ...] | None:
            return await index.take(PEER, said(held, sequence=sequence, full=full), 0)

        assert await take(holding(chunks=()), 1, full=True) == ()
        assert await take(holding(chunks=(0,)), 2) == (TAG,)
        assert await take(holding(chunks=(0,), names=("renamed",)), 3) == ()
        assert await take(holding(chunks=(0, 3)), 4) == (TAG,)
        assert await take(holding(chunks=(3,)), 5) == ()
        assert await take(holding(chunks=(3,)), 6, full=True) == (), "told again in full, it is not new"
        assert await take(holding(), 7) == (TAG,)
        assert await take(holding(), 8) == ()

    async def test_a_bitmap_with_every_bit_is_the_same_as_none(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)
        await index.take(PEER, said(holding(chunks=range(8))), 0)
        (holder,) = await index.holders(TAG, 0)
        assert holder.complete and holder.any

    @pytest.mark.parametrize("bitmap", [b"\x01\x00", b"\x01" * 3])
    async def test_what_cannot_be_is_refused_whole(self, index: Index, bitmap: bytes) -> None:
        await index.arrived(profile(PEER), 0)
        false = Holding(tag=OTHER, size_bytes=8 * MIB, names=(), since=0, bitmap=bitmap)
        with pytest.raises(RemoteProtocolError):
            await index.take(PEER, said(holding(), false), 0)
        wrong_size = Holding(tag=OTHER, size_bytes=1, names=(), since=0, bitmap=b"")
        with pytest.raises(RemoteProtocolError):
            await index.take(PEER, said(holding(), wrong_size), 0)
        assert await index.holders(TAG, 0) == ()

    # --- names and tags ---

    async def test_the_last_put_wins_a_name_and_storage_comes_before_peers(self, index: Index) -> None:
        old, new, newest = (some_tag(name, 8) for name in ("old", "new", "newest"))
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        await index.arrived(profile(PEER), 0)
        await index.take(PEER, said(holding(newest, names=("f",), since=99)), 0)
        assert await index.named("f", 0) == newest
        await index.take(STORE, said(holding(old, names=("f",), since=1), holding(new, names=("f",), since=2)), 0)
        assert await index.named("f", 0) == new
        unfinished = holding(new, (0,), names=("f",), since=2)
        await index.take(STORE, said(unfinished, sequence=2, full=False), 0)
        assert await index.named("f", 0) == old, "what storage does not have yet counts as a peer's word"
        assert await index.named("g", 0) is None

    async def test_a_tag_is_stored_open_or_shared(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        await index.arrived(profile(PEER), 0)
        await index.take(PEER, said(holding(names=("a",), since=5)), 0)
        view = await index.tag(TAG, 0)
        assert view is not None and (view.state, view.storage, view.holders) == (TagState.SHARED, None, 1)
        await index.job(STORE, update(), 0)
        view = await index.tag(TAG, 0)
        assert view is not None and (view.state, view.storage) == (TagState.OPEN, STORE)
        await index.take(STORE, said(holding(names=("b",), since=3)), 0)
        view = await index.tag(TAG, 0)
        assert view is not None and view.state is TagState.OPEN, "not stored before its job says so"
        await index.job(STORE, update(state=JobState.STORED, stored=8), 0)
        view = await index.tag(TAG, 0)
        assert view is not None and (view.state, view.storage, view.holders) == (TagState.STORED, STORE, 2)
        assert view.names == ("b", "a") and view.since == 5 and view.size_bytes == 8 * MIB
        assert [one.tag for one in await index.tags(0, after=None, limit=9, stored_only=True)] == [TAG]

    async def test_names_are_bounded(self, index: Index) -> None:
        for number in range(4):
            who = node(f"n{number}")
            await index.arrived(profile(who), 0)
            await index.take(who, said(holding(names=(f"a{number}", f"b{number}"))), 0)
        view = await index.tag(TAG, 0)
        assert view is not None and len(view.names) == NAMES_PER_TAG_MAX

    async def test_paging_visits_every_tag_once_while_others_come_and_go(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)
        tags = sorted(some_tag(f"t{number}", 8) for number in range(50))
        await index.take(PEER, said(*map(holding, tags)), 0)
        seen: list[Tag] = []
        sequence = 1
        while page := await index.tags(0, after=seen[-1] if seen else None, limit=7, stored_only=False):
            seen += [view.tag for view in page]
            sequence += 1
            extra = some_tag(f"extra{sequence}", 8)
            news = said(holding(extra), sequence=sequence, full=False, dropped=(seen[0],))
            await index.take(PEER, news, 0)
        assert len(seen) == len(set(seen)) and set(tags) <= set(seen) and seen == sorted(seen)

    async def test_the_newest_tags_come_newest_first(self, index: Index) -> None:
        await index.arrived(profile(PEER), 0)
        tags = [some_tag(f"t{number}", 8) for number in range(9)]
        await index.take(PEER, said(*(holding(tag, since=number) for number, tag in enumerate(tags))), 0)
        assert [view.tag for view in await index.newest_tags(0, 3)] == tags[:-4:-1]

    # --- jobs ---

    async def test_what_a_node_holds_comes_newest_first_and_bounded(self, index: Index) -> None:
        tags = [some_tag(f"file {number}", 2) for number in range(5)]
        await index.arrived(profile(PEER), 0)
        held = [holding(tag, [0] if number == 3 else None, since=number) for number, tag in enumerate(tags)]
        await index.take(PEER, said(*held), 0)
        newest = await index.held_by(PEER, 0, 3)
        assert [tag for tag, _ in newest] == [tags[4], tags[3], tags[2]]
        assert [holder.complete for _, holder in newest] == [True, False, True]
        assert await index.held_by(STORE, 0, 3) == () == await index.held_by(PEER, 601, 3)

    async def test_a_job_is_open_until_it_ends_and_is_told_once_as_news(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        assert await index.job(STORE, update(), 10)
        assert not await index.job(STORE, update(stored=3), 20)
        (job,) = await index.jobs(30)
        assert (job.tag, job.storage, job.chunks_stored, job.state) == (TAG, STORE, 3, JobState.OPEN)
        assert (job.opened_seconds_ago, job.updated_seconds_ago) == (20, 10) and job.uploaders == (PEER,)
        assert not await index.job(STORE, update(state=JobState.COMMITTING), 31)
        assert (await index.jobs_of(TAG, 31))[0].is_open
        assert not await index.job(STORE, update(state=JobState.STORED), 32)
        assert await index.jobs(32) == () and await index.jobs_of(TAG, 32) == ()
        assert [ended.state for ended in await index.ended_jobs(32)] == [JobState.STORED]
        assert await index.job(STORE, update(), 33), "the same file, put again"

    async def test_jobs_that_a_storage_node_does_not_tell_again_are_gone(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        await index.job(STORE, update(TAG), 0)
        await index.job(STORE, update(OTHER), 0)
        await index.arrived(profile(STORE, Role.STORAGE), 10)
        assert len(await index.jobs(10)) == 2, "it has a moment to tell them"
        assert await index.job(STORE, update(OTHER, stored=1), 11), "helpers need orders anew"
        await index.beat(profile(STORE, Role.STORAGE), beat(), 22)
        assert [job.tag for job in await index.jobs(23)] == [OTHER]
        assert await index.jobs_of(TAG, 23) == ()

    async def test_another_arrival_does_not_bring_back_jobs_that_were_gone(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        await index.job(STORE, update(), 0)
        await index.arrived(profile(STORE, Role.STORAGE), 10)
        assert await index.jobs(30) == ()
        await index.arrived(profile(STORE, Role.STORAGE), 30)
        assert await index.jobs(30) == () and await index.jobs_of(TAG, 30) == ()

    async def test_jobs_of_a_forgotten_storage_node_are_gone(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        await index.job(STORE, update(), 0)
        assert len(await index.jobs(600)) == 1 and await index.jobs(601) == ()
        assert not await index.job(node("nobody"), update(), 0)

    async def test_who_holds_something_of_open_jobs_is_known(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        await index.arrived(profile(PEER), 0)
        await index.take(PEER, said(holding(TAG), holding(OTHER)), 0)
        assert await index.open_tags_of(PEER, 0) == ()
        await index.job(STORE, update(TAG), 0)
        assert await index.open_tags_of(PEER, 0) == (TAG,)
        assert await index.open_tags_of(STORE, 0) == () and await index.open_tags_of(node("nobody"), 0) == ()
        holder = await index.holder(TAG, PEER, 0)
        assert holder is not None and holder.complete
        assert await index.holder(TAG, STORE, 0) is None

    async def test_ended_jobs_are_kept_newest_first_and_bounded(self, index: Index) -> None:
        await index.arrived(profile(STORE, Role.STORAGE), 0)
        for number in range(ENDED_JOBS_MAX + 5):
            await index.job(STORE, update(name=f"f{number}", state=JobState.FAILED), number)
        ended = await index.ended_jobs(99)
        assert ended[0].name == f"f{ENDED_JOBS_MAX + 4}" and len(ended) <= ENDED_JOBS_MAX
