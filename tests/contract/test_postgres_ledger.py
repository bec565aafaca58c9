"""The ledger in PostgreSQL keeps the contract on a real server; and what it adds: whose a job is, and what is new."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from contract.keeping_contract import KeepingContract
from contract.ledger_contract import ANNA, BEN, A, B, LedgerContract, manifest, store
from support.postgres import PASSWORD, Postgres, running_postgres

from protocol.bitmap import Bitmap
from protocol.errors import ConfigError
from protocol.ids import NodeId
from protocol.messages import JobState
from runtime.postgres import PostgresDatabase
from runtime.seam import Database, Runtime
from storage.ledger.base import Acknowledgement, LeaseLost, Ledger
from storage.ledger.postgres import OpenShared, PostgresLedger

LEASE_SECONDS = 30.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def address(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def open_shared(runtime: Runtime) -> OpenShared:
    async def opened(address: str, password: str, schema: str) -> Database:
        return await PostgresDatabase.open(address, password, schema, runtime.run_sync)

    return opened


async def join(open_shared: OpenShared, address: str, node: NodeId) -> PostgresLedger:
    return await PostgresLedger.open(open_shared, address, PASSWORD, node, LEASE_SECONDS)


@pytest.fixture
async def ledger(open_shared: OpenShared, address: str) -> AsyncIterator[PostgresLedger]:
    ledger = await join(open_shared, address, ANNA)
    yield ledger
    await ledger.aclose()


@pytest.fixture
async def other(open_shared: OpenShared, address: str) -> AsyncIterator[PostgresLedger]:
    ledger = await join(open_shared, address, BEN)
    yield ledger
    await ledger.aclose()


def silence(postgres: Postgres, address: str, node: NodeId) -> None:
    """``node`` has not beaten for longer than a lease lasts."""
    postgres.ask(
        f"UPDATE nodes SET beat_at = beat_at - interval '{LEASE_SECONDS + 1} seconds' WHERE node = '{node}'", address
    )


class TestPostgresLedger(LedgerContract, KeepingContract):
    """All of it."""


async def test_two_that_start_at_once_make_one_ledger(open_shared: OpenShared, address: str) -> None:
    ledgers: list[PostgresLedger] = []

    async def start(node: NodeId) -> None:
        ledgers.append(await join(open_shared, address, node))

    async with trio.open_nursery() as starting:
        for node in (ANNA, BEN, ANNA):
            starting.start_soon(start, node)
    assert len({ledger.id for ledger in ledgers}) == 1 and ledgers[0].id
    for ledger in ledgers:
        await ledger.aclose()


async def test_a_job_belongs_to_who_opened_it_as_long_as_that_one_beats(ledger: Ledger, other: Ledger) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    assert await other.take(A.tag) is None
    assert await other.orphans() == []
    assert await other.jobs() == []
    with pytest.raises(LeaseLost):
        await other.open_job(A, BEN, ["b"], 2.0)
    with pytest.raises(LeaseLost):
        await other.claim(A.tag, BEN, "b")
    (kept,) = await ledger.jobs()
    assert kept.job.uploaders == {ANNA: ("a",)}


async def test_a_job_of_a_node_that_fell_silent_is_taken_over_as_it_was(
    ledger: Ledger, other: Ledger, postgres: Postgres, address: str
) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    await ledger.set_upload(A.tag, "begun")
    await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [1]), pushed={ANNA: 5})], 2.0)
    silence(postgres, address, ANNA)
    assert await other.orphans() == [A.tag]
    kept = await other.take(A.tag)
    assert kept is not None and kept.upload is not None
    assert (list(kept.job.durable), kept.job.pushed, kept.upload.id) == ([1], {ANNA: 5}, "begun")
    assert kept.job.uploaders == {ANNA: ("a",)}
    assert await other.orphans() == []


async def test_an_owner_that_wakes_up_after_its_job_was_taken_over_can_write_nothing_about_it(
    ledger: Ledger, other: Ledger, postgres: Postgres, address: str
) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    await ledger.open_job(B, ANNA, ["b"], 1.0)
    await ledger.set_upload(A.tag, "begun")
    silence(postgres, address, ANNA)
    assert await other.take(A.tag) is not None
    batch = [
        Acknowledgement(tag=B.tag, durable=Bitmap.full(3)),
        Acknowledgement(tag=A.tag, durable=Bitmap.full(3), pushed={ANNA: 1}, apart=Bitmap.full(3)),
    ]
    for late in (
        lambda: ledger.acknowledge(batch, 3.0),
        lambda: ledger.set_durable(A.tag, Bitmap.full(3)),
        lambda: ledger.store(A.tag, [(ANNA, "a")], 3.0),
        lambda: ledger.end_job(A.tag, JobState.CANCELLED, "late", 3.0),
        lambda: ledger.claim(A.tag, ANNA, "late"),
        lambda: ledger.withdraw(A.tag, ANNA),
        lambda: ledger.set_upload(A.tag, "late"),
        lambda: ledger.drop_upload(A.tag),
        lambda: ledger.forget_job(A.tag),
    ):
        # It beats again; that gives it nothing back.
        await ledger.beat()
        with pytest.raises(LeaseLost):
            await late()
    (kept,) = await other.jobs()
    assert (len(kept.job.durable), kept.job.state, kept.job.uploaders) == (0, JobState.OPEN, {ANNA: ("a",)})
    assert kept.upload is not None and kept.upload.id == "begun"
    # Of a batch nothing was written; the rest of it is still its own.
    await ledger.acknowledge(batch[:1], 4.0)
    (own,) = [kept for kept in await ledger.jobs() if kept.job.tag == B.tag]
    assert own.job.durable.complete


async def test_a_second_process_of_a_node_leaves_nothing_to_the_first(
    ledger: Ledger, open_shared: OpenShared, address: str
) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    again = await join(open_shared, address, ANNA)
    assert len(await again.jobs()) == 1
    with pytest.raises(LeaseLost):
        await ledger.end_job(A.tag, JobState.FAILED, "", 2.0)
    await again.end_job(A.tag, JobState.FAILED, "", 2.0)
    await again.aclose()


async def test_a_silent_owner_keeps_what_nobody_took(ledger: Ledger, postgres: Postgres, address: str) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    silence(postgres, address, ANNA)
    assert len(await ledger.store(A.tag, [(ANNA, "a")], 2.0)) == 1


async def test_of_many_that_want_an_orphan_one_gets_it(
    ledger: Ledger, open_shared: OpenShared, postgres: Postgres, address: str
) -> None:
    jobs = [manifest(f"job {number}") for number in range(10)]
    for job in jobs:
        await ledger.open_job(job, ANNA, [""], 1.0)
    silence(postgres, address, ANNA)
    nodes = [manifest(f"node {number}").tag.root.hex() for number in range(4)]
    takers = [await join(open_shared, address, NodeId(node)) for node in nodes]
    got: list[str] = []

    async def take(taker: PostgresLedger) -> None:
        for job in jobs:
            if await taker.take(job.tag) is not None:
                got.append(str(job.tag))

    async with trio.open_nursery() as taking:
        for taker in takers:
            taking.start_soon(take, taker)
    assert sorted(got) == sorted(str(job.tag) for job in jobs)
    for taker in takers:
        await taker.aclose()


async def test_a_job_that_ended_may_be_opened_by_another_node(ledger: Ledger, other: Ledger) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    await ledger.end_job(A.tag, JobState.CANCELLED, "", 2.0)
    await other.open_job(A, BEN, ["b"], 3.0)
    with pytest.raises(LeaseLost):
        await ledger.claim(A.tag, ANNA, "a")
    assert len(await other.store(A.tag, [(BEN, "b")], 4.0)) == 1


async def test_each_hears_what_the_others_stored_named_and_lost(ledger: Ledger, other: Ledger) -> None:
    mark = (await other.changes("")).mark
    await store(ledger, A, ANNA, "report", 1.0)
    news = await other.changes(mark)
    assert [(file.tag, file.names) for file in news.stored] == [(A.tag, ("report",))]
    await store(ledger, B, ANNA, "report", 2.0)
    news = await other.changes(news.mark)
    assert {file.tag: file.names for file in news.stored} == {A.tag: (), B.tag: ("report",)}
    await ledger.lose(A.tag, "gone", 3.0)
    news = await other.changes(news.mark)
    assert A.tag in news.gone and A.tag not in {file.tag for file in news.stored}


async def test_nothing_is_missed_of_what_was_begun_before_and_committed_after_the_question(
    ledger: PostgresLedger, other: Ledger, runtime: Runtime
) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    begun, asked = trio.Event(), trio.Event()

    def slowly(cursor: object) -> None:
        ledger.write_stored(cursor, A.tag, [(ANNA, "a")], 2.0)
        trio.from_thread.run_sync(begun.set)
        trio.from_thread.run(asked.wait)

    async with trio.open_nursery() as storing:
        storing.start_soon(ledger._database.transaction, slowly)
        await begun.wait()
        await store(other, B, BEN, "b", 2.0)
        news = await other.changes("")
        assert [file.tag for file in news.stored] == [B.tag]
        asked.set()
    assert A.tag in {file.tag for file in (await other.changes(news.mark)).stored}


async def test_two_that_store_under_one_name_at_once_agree_who_was_last(ledger: Ledger, other: Ledger) -> None:
    for number in range(5):
        one, two = manifest(f"one {number}"), manifest(f"two {number}")
        async with trio.open_nursery() as storing:
            storing.start_soon(store, ledger, one, ANNA, "report", 1.0)
            storing.start_soon(store, other, two, BEN, "report", 1.0)
        newest = (await ledger.versions("report"))[0].tag
        named = {file.tag for file in await other.stored() if file.names}
        assert named == {newest} and newest in (one.tag, two.tag)


async def test_a_server_that_restarts_or_throws_us_out_is_waited_for(
    ledger: Ledger, postgres: Postgres, address: str
) -> None:
    await ledger.open_job(A, ANNA, ["a"], 1.0)
    postgres.throw_out()
    await ledger.claim(A.tag, BEN, "b")
    postgres.stop()
    answered: list[int] = []

    async def ask() -> None:
        answered.append(len(await ledger.store(A.tag, [(ANNA, "a")], 2.0)))

    async with trio.open_nursery() as asking:
        asking.start_soon(ask)
        await trio.sleep(0.3)  # so that it has met the closed door; that it waits is seen below whenever that was
        assert not answered
        await trio.to_thread.run_sync(postgres.start)
    assert answered == [1]


async def test_a_wrong_password_is_told_without_it(open_shared: OpenShared, address: str) -> None:
    with pytest.raises(ConfigError, match="authentication failed") as caught:
        await PostgresLedger.open(open_shared, address, "a wrong one", ANNA, LEASE_SECONDS)
    assert "a wrong one" not in str(caught.value)


async def test_a_ledger_of_a_later_version_is_refused(
    ledger: Ledger, open_shared: OpenShared, postgres: Postgres, address: str
) -> None:
    postgres.ask("UPDATE format SET version = 2", address)
    with pytest.raises(ConfigError, match="format 2"):
        await join(open_shared, address, BEN)
