"""What is shown of a swarm: rates, time left, copies, maps, orders; from an index and a journal told by hand."""

from __future__ import annotations

import dataclasses

import pytest
from contract.index_contract import MIB, holding, profile, said
from hypothesis import given
from hypothesis import strategies as st
from support.page_world import ADA, BERT, DISK, FILM, PageWorld
from support.pairs import node, some_tag

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Role, Tag
from protocol.messages import JobState
from tracker import statistics as s
from tracker.index.base import Holder, NodeView, Standing
from tracker.page.cells import CELLS_MAX, cells_of, chunks_per_cell
from tracker.showing import copies_of


@pytest.fixture
def world() -> PageWorld:
    return PageWorld()


async def test_an_upload_shows_its_rate_the_time_left_and_who_does_what(world: PageWorld) -> None:
    await world.is_busy()
    (job,) = (await world.sight.overview()).jobs
    assert (job.chunks_stored, job.bytes_stored, job.storage_name) == (4, 4 * MIB, "cellar")
    assert [(one.name, one.place, one.bytes_pushed, one.is_uploader) for one in job.pushed] == [
        ("ada", 0, 3 * MIB, True),
        ("bert", 1, MIB, False),
    ]
    assert job.bytes_per_second > 0 and job.average_bytes_per_second == 2 * MIB
    assert job.bytes_per_second == pytest.approx(sum(one.bytes_per_second for one in job.pushed), rel=0.01)
    assert job.seconds_left == pytest.approx(4 * MIB / job.bytes_per_second, abs=0.1)
    assert job.copies == 0.5, "bert and the storage node hold the same half; ada is the uploader"


async def test_an_upload_that_stands_still_promises_no_time(world: PageWorld) -> None:
    await world.is_busy()
    world.passes(300)
    detail = await world.sight.job(FILM)
    assert detail is not None and detail.job.seconds_left is None and detail.job.bytes_per_second == 0


async def test_places_stay_when_one_overtakes_the_other(world: PageWorld) -> None:
    await world.is_busy()
    await world.told((BERT, 4), (ADA, 3))
    detail = await world.sight.job(FILM)
    assert detail is not None and [(one.name, one.place) for one in detail.job.pushed] == [("ada", 0), ("bert", 1)]


async def test_an_upload_that_ended_is_still_shown_with_its_map(world: PageWorld) -> None:
    await world.is_busy()
    await world.told((ADA, 5), (BERT, 3), state=JobState.STORED)
    detail, shown = await world.sight.job(FILM), await world.sight.job_map(FILM)
    assert detail is not None and detail.job.state == "stored" and detail.job.seconds_left is None
    assert shown is not None and shown.detailed
    assert (await world.sight.overview()).ended_jobs[0].tag == str(FILM)


async def test_a_map_tells_every_chunk_and_who_is_behind_it(world: PageWorld) -> None:
    await world.is_busy()
    shown = await world.sight.job_map(FILM)
    assert shown is not None and (shown.stored, shown.coming, shown.missing) == (4, 2, 2)
    assert [(run.chunks, run.state, run.node) for run in shown.runs] == [
        (3, "stored", ADA),
        (1, "stored", BERT),
        (1, "coming", ADA),
        (1, "coming", BERT),
        (2, "missing", None),
    ]


async def test_without_a_map_what_storage_says_it_holds_is_shown(world: PageWorld) -> None:
    await world.arrives(DISK, "cellar", Role.STORAGE)
    await world.holds(DISK, chunks=[0, 7])
    await world.told((ADA, 2))
    shown = await world.sight.job_map(FILM)
    assert shown is not None and not shown.detailed
    assert [(run.chunks, run.state, run.node) for run in shown.runs] == [
        (1, "stored", None),
        (6, "missing", None),
        (1, "stored", None),
    ]


async def test_a_node_shows_its_orders_and_what_it_pushes(world: PageWorld) -> None:
    await world.is_busy()
    detail = await world.sight.node(BERT)
    assert detail is not None
    (order,) = detail.orders
    assert (order.name, order.storage_name, order.bytes_pushed) == ("film.mkv", "cellar", MIB)
    assert order.bytes_per_second > 0 < detail.node.bytes_per_second
    assert detail.jobs == () and [(one.name, one.chunks_held) for one in detail.held] == [("film.mkv", 4)]
    ada = await world.sight.node(ADA)
    assert ada is not None and [job.name for job in ada.jobs] == ["film.mkv"]
    assert await world.sight.node(node("nobody")) is None


async def test_a_file_shows_its_link_and_its_copies(world: PageWorld) -> None:
    await world.is_busy()
    detail = await world.sight.file(FILM)
    assert detail is not None and detail.link == f"upswarm:{FILM}?name=film.mkv&size={8 * MIB}"
    assert detail.copies == 1.5 and detail.job is not None and detail.file.state == "open"
    assert await world.sight.file(some_tag("nothing", 3)) is None


async def test_nodes_are_counted_by_state_and_silent_ones_add_no_copies_and_no_room(world: PageWorld) -> None:
    await world.is_busy()
    await world.index.left(BERT, world.now)
    await world.index.left(DISK, world.now)
    shown = await world.sight.overview()
    assert shown.nodes_by_state == s.NodeCounts(fresh=1, paused=0, silent=2, peers=2, storages=1)
    assert shown.room_bytes == 0 and shown.jobs[0].copies == 0.0


async def test_an_overview_is_taken_once_a_second_however_many_ask(world: PageWorld) -> None:
    first = await world.sight.overview()
    await world.is_busy()
    world.passes(-2)
    assert await world.sight.overview() is first
    world.passes(1.1)
    assert (await world.sight.overview()).node_count == 3


async def test_lists_are_bounded_and_pages_visit_everything_once(world: PageWorld) -> None:
    tags = sorted(some_tag(f"file {number}", 2) for number in range(250))
    for number in range(130):
        await world.index.arrived(profile(node(str(number))), world.now)
    for tag in tags:
        await world.index.take(node(str(tags.index(tag) % 130)), said(holding(tag)), world.now)
    shown = await world.sight.overview()
    assert len(shown.nodes) == s.NODES_SHOWN_MAX and shown.node_count == 130
    seen: list[str] = []
    after: Tag | None = None
    while True:
        page = await world.sight.files(after)
        assert len(page.files) <= s.PAGE_ROWS
        seen += [file.tag for file in page.files]
        if page.after is None:
            break
        after = Tag.parse(page.after)
    assert seen == [str(tag) for tag in tags if str(tag) in seen] and len(set(seen)) == len(seen) >= 130
    first = await world.sight.nodes()
    assert first.after is not None and len(first.nodes) == s.PAGE_ROWS
    rest = await world.sight.nodes(NodeId(first.nodes[-1].node))
    assert rest.after is None and len(first.nodes) + len(rest.nodes) == 130 == rest.count


# --- copies ---


def holder(number: int, bitmap: Bitmap | None, *, fresh: bool = True) -> Holder:
    view = NodeView(
        node=node(str(number)),
        role=Role.PEER,
        name="",
        addresses=(),
        standing=Standing.FRESH if fresh else Standing.SILENT,
        seen_seconds_ago=0,
        tags=1,
        room_bytes=0,
        lend=False,
        paused=False,
    )
    return Holder(node=view, bitmap=bitmap, size_bytes=8 * MIB, names=(), since=0)


@given(st.lists(st.sets(st.integers(0, 7)), max_size=6))
def test_copies_are_what_counting_each_chunk_says(held: list[set[int]]) -> None:
    counts = [sum(chunk in one for one in held) for chunk in range(8)]
    least = min(counts)
    expected = least + sum(count > least for count in counts) / 8
    holders = [holder(number, None if len(one) == 8 else Bitmap.of(8, one)) for number, one in enumerate(held)]
    assert copies_of(FILM, holders) == pytest.approx(expected, abs=0.01)
    silent = [dataclasses.replace(holder(99, None, fresh=False))]
    assert copies_of(FILM, holders + silent + [holder(50, None)], without=[node("50")]) == copies_of(FILM, holders)


# --- cells ---


def shown_map(*runs: tuple[int, str, str | None]) -> s.MapStatistics:
    chunks = sum(count for count, _, _ in runs)
    return s.MapStatistics(
        tag="t",
        size_bytes=chunks * MIB,
        chunk_bytes=MIB,
        chunks=chunks,
        detailed=True,
        stored=0,
        coming=0,
        missing=0,
        runs=tuple(s.RunStatistics(chunks=count, state=state, node=who) for count, state, who in runs),
    )


def test_each_chunk_of_a_small_file_is_a_cell() -> None:
    shown = shown_map((2, "stored", "a"), (1, "coming", "b"), (1, "stored", None), (2, "missing", None))
    assert cells_of(shown, {"a": 0, "b": 12}) == ["s c0 o0", "s c0 o0", "w c8 o12", "s", "m", "m"]


def test_a_sender_that_has_pushed_nothing_yet_is_coloured_behind_the_others() -> None:
    assert cells_of(shown_map((1, "coming", "new"), (1, "stored", "a")), {"a": 0}) == ["w c1 o1", "s c0 o0"]


def test_cells_of_a_large_file_stand_for_ranges() -> None:
    shown = shown_map(
        (8, "stored", "a"), (4, "stored", "b"), (4, "missing", None), (1, "coming", "b"), (8175, "missing", None)
    )
    assert chunks_per_cell(8192) == 8
    cells = cells_of(shown, {"a": 0, "b": 1})
    assert len(cells) == CELLS_MAX and cells[:4] == ["s c0 o0", "p2 c1 o1", "w c1 o1", "m"]


@given(st.integers(1, 8192))
def test_there_are_never_more_cells_than_fit_a_page_and_every_chunk_has_one(chunks: int) -> None:
    cells = cells_of(shown_map((chunks, "stored", "a")), {"a": 0})
    assert len(cells) <= CELLS_MAX and (len(cells) - 1) * chunks_per_cell(chunks) < chunks
    assert set(cells) == {"s c0 o0"}
