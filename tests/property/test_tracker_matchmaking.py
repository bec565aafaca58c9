"""Laws of matchmaking, for all pictures of a swarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st
from support.pairs import node, some_tag

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, Role, Tag
from protocol.messages import JobState, Whereabouts
from tracker.index.base import Holder, Job, NodeView, Standing
from tracker.matchmaking import (
    RELAYS_PER_JOB_MAX,
    choose_holders,
    choose_lenders,
    choose_storage,
    find_place,
    is_helpful,
    is_lender,
    meeting_order_of,
    order_of,
    relay_order_of,
)

TAG = some_tag("film", 12)
GRACE = 60.0
names = st.sampled_from([node(f"n{number}") for number in range(12)])


@st.composite
def nodes(draw: st.DrawFn, role: Role | None = None, who: NodeId | None = None) -> NodeView:
    standing = draw(st.sampled_from(Standing))
    return NodeView(
        node=who or draw(names),
        role=role or draw(st.sampled_from([Role.PEER, Role.STORAGE])),
        name="",
        addresses=draw(st.sampled_from([("127.0.0.1:1",), ("127.0.0.1:1", "10.0.0.1:1"), ()])),
        standing=standing,
        seen_seconds_ago=draw(st.floats(0, 5)) if standing is Standing.FRESH else draw(st.floats(13, 600)),
        tags=1,
        room_bytes=draw(st.integers(0, 100)),
        lend=draw(st.booleans()),
        paused=draw(st.booleans()),
    )


@st.composite
def holders(draw: st.DrawFn) -> Holder:
    chunks = draw(st.none() | st.sets(st.integers(0, TAG.chunks - 1), max_size=TAG.chunks - 1))
    bitmap = None if chunks is None else Bitmap.of(TAG.chunks, chunks)
    return Holder(node=draw(nodes()), bitmap=bitmap, size_bytes=1, names=(), since=0)


def job(storage: NodeId, state: JobState = JobState.OPEN) -> Job:
    return Job(
        tag=TAG,
        storage=storage,
        size_bytes=1,
        name="",
        state=state,
        reason="",
        chunks_stored=0,
        safe=False,
        uploaders=(),
        pushed=(),
        opened_seconds_ago=1.0,
        updated_seconds_ago=1.0,
    )


crowds = st.lists(holders(), max_size=8, unique_by=lambda holder: holder.node.node)
stores = st.lists(nodes(Role.STORAGE), max_size=6, unique_by=lambda view: view.node)


def chunks_of(holder: Holder) -> set[int]:
    return set(range(TAG.chunks)) if holder.bitmap is None else set(holder.bitmap)


@given(crowds, stores, st.sampled_from(JobState))
def test_orders_go_to_fresh_holders_of_what_storage_lacks_and_to_nobody_else(
    crowd: list[Holder], storages: list[NodeView], state: JobState
) -> None:
    assume(storages)
    storage = storages[0]
    stored = next((holder for holder in crowd if holder.node.node == storage.node), None)
    for helper in crowd:
        order = order_of(job(storage.node, state), storage, helper, stored)
        if order is None:
            continue
        assert state is JobState.OPEN and storage.fresh and helper.node.fresh and not helper.node.paused
        assert helper.node.node != storage.node and chunks_of(helper)
        assert order.target == storage.address and order.tag == TAG


@given(holders(), holders())
def test_who_alone_has_a_missing_chunk_is_always_asked(helper: Holder, stored: Holder) -> None:
    assume(helper.node.node != stored.node.node and helper.node.fresh and not helper.node.paused)
    if chunks_of(helper) - chunks_of(stored):
        assert is_helpful(job(stored.node.node), helper, stored)
    assert is_helpful(job(stored.node.node), helper, None) == bool(chunks_of(helper))


@given(crowds, names, st.integers(0, 5))
def test_holders_are_fresh_ones_first_then_complete_ones_and_never_the_asker(
    crowd: list[Holder], asker: NodeId, limit: int
) -> None:
    by_node = {holder.node.node: holder for holder in crowd}
    chosen = [by_node[address.node] for address in choose_holders(TAG, asker, crowd, limit)]
    ranks = [(not holder.node.fresh, not holder.complete) for holder in chosen]
    assert ranks == sorted(ranks) and len(chosen) <= limit
    able = {
        holder.node.node
        for holder in crowd
        if holder.node.node != asker and not holder.node.paused and chunks_of(holder) and holder.node.addresses
    }
    assert {holder.node.node for holder in chosen} <= able
    assert len(chosen) == min(limit, len(able))
    assert choose_holders(TAG, asker, crowd[::-1], limit) == choose_holders(TAG, asker, crowd, limit)


def plain_store(number: int, *, room_bytes: int = 100) -> NodeView:
    return NodeView(
        node=node(f"store {number}"),
        role=Role.STORAGE,
        name="",
        addresses=("127.0.0.1:1",),
        standing=Standing.FRESH,
        seen_seconds_ago=0,
        tags=0,
        room_bytes=room_bytes,
        lend=False,
        paused=False,
    )


def test_askers_are_spread_over_equal_holders() -> None:
    crowd = [Holder(node=plain_store(n), bitmap=None, size_bytes=1, names=(), since=0) for n in range(5)]
    first = [choose_holders(TAG, node(f"asker {n}"), crowd)[0].node for n in range(200)]
    assert all(20 <= first.count(holder.node.node) <= 60 for holder in crowd)


@given(st.integers(2, 6), st.integers(0, 5), st.integers(0, 2**32))
def test_a_storage_node_that_goes_moves_only_its_own_share(count: int, gone: int, seed: int) -> None:
    storages = [plain_store(number) for number in range(count)]
    tags = [some_tag(f"{seed} {number}", 1) for number in range(10)]
    left = [view for number, view in enumerate(storages) if number != gone % count]
    for tag in tags:
        before, after = choose_storage(tag, 1, storages), choose_storage(tag, 1, left[::-1])
        assert before is not None and after is not None
        assert before == after or before not in left


def test_new_files_are_spread_over_storage_nodes_and_full_ones_are_left_out() -> None:
    storages = [plain_store(number) for number in range(4)]
    chosen = [choose_storage(some_tag(str(number), 1), 1, storages) for number in range(400)]
    assert all(60 <= chosen.count(view) <= 140 for view in storages)
    full = [plain_store(0, room_bytes=9), plain_store(1, room_bytes=10)]
    assert {choose_storage(some_tag(str(number), 1), 10, full) for number in range(20)} == {full[1]}
    assert choose_storage(TAG, 11, full) is None


def test_a_storage_node_that_began_a_file_goes_on_with_it() -> None:
    storages = [plain_store(number) for number in range(4)]
    for view in storages:
        begun = Holder(node=view, bitmap=Bitmap.of(12, [3]), size_bytes=1, names=(), since=0)
        assert choose_storage(TAG, 1, storages, [begun]) == view


def place(
    tag: Tag, holders: Sequence[Holder], jobs: Sequence[Job], storages: Sequence[NodeView], *, to_put: bool
) -> tuple[Whereabouts, NodeView | None]:
    found = find_place(tag, 1, to_put=to_put, jobs=jobs, holders=holders, storages=storages, grace_seconds=GRACE)
    return found.state, found.storage


@given(stores, st.data(), st.booleans())
def test_places_are_named_in_the_order_stored_open_assigned(
    storages: list[NodeView], data: st.DataObject, to_put: bool
) -> None:
    keepers = data.draw(st.lists(st.sampled_from(storages), unique=True)) if storages else []
    busy = data.draw(st.lists(st.sampled_from(storages), unique=True)) if storages else []
    held = [Holder(node=view, bitmap=None, size_bytes=1, names=(), since=0) for view in keepers]
    jobs = [job(view.node) for view in busy]
    state, storage = place(TAG, held, jobs, storages, to_put=to_put)
    stored = [view for view in keepers if view not in busy]
    if any(view.fresh for view in stored):
        assert state is Whereabouts.STORED and storage in stored and storage.fresh
    elif any(view.fresh for view in busy):
        assert state is Whereabouts.OPEN and storage in busy and storage.fresh
    elif any(view.seen_seconds_ago <= GRACE for view in stored + busy):
        assert storage is not None and storage.seen_seconds_ago <= GRACE and storage in stored + busy
    elif to_put and choose_storage(TAG, 1, storages) is not None:
        assert state is Whereabouts.ASSIGNED and storage is not None and storage.fresh
    elif stored or busy:
        assert state in (Whereabouts.STORED, Whereabouts.OPEN)
    else:
        assert (state, storage) == (Whereabouts.NONE, None)
    assert (storage is None) == (state is Whereabouts.NONE)


@given(
    crowds, stores, st.lists(nodes(Role.PEER), max_size=8, unique_by=lambda view: view.node), st.sampled_from(JobState)
)
def test_relays_are_lenders_that_want_nothing_of_it_and_are_told_of_others_only(
    crowd: list[Holder], storages: list[NodeView], peers: list[NodeView], state: JobState
) -> None:
    assume(storages and peers)
    open_job = replace(job(storages[0].node, state), uploaders=(peers[0].node,))
    held = {holder.node.node: holder for holder in crowd}
    lenders = choose_lenders(open_job, peers, crowd)
    assert len(lenders) <= RELAYS_PER_JOB_MAX
    for peer in peers:
        chosen = is_lender(open_job, peer, held.get(peer.node))
        assert chosen == (peer in lenders)
        if chosen:
            assert state is JobState.OPEN and peer.lend and peer.fresh and not peer.paused and peer is not peers[0]
            assert peer.node not in held or not held[peer.node].complete
    for lender in lenders:
        order = relay_order_of(open_job, storages[0], lender, crowd)
        if order is None:
            assert not (storages[0].fresh and storages[0].addresses)
            continue
        assert order.sources[0] == peers[0].node and lender.node not in order.sources
        for source in order.sources[1:]:
            assert held[source].node.fresh and held[source].node.role is Role.PEER and chunks_of(held[source])


@given(nodes(), nodes())
def test_only_peers_that_are_there_are_sent_to_meet_peers_that_can_be_dialled(
    asker: NodeView, holder: NodeView
) -> None:
    order = meeting_order_of(TAG, asker, holder)
    able = holder.fresh and not holder.paused and holder.node != asker.node and bool(asker.addresses)
    assert (order is not None) == (able and asker.role is holder.role is Role.PEER)
    assert order is None or order.target == asker.address
