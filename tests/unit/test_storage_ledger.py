"""The ledger: what a method returned from survives, what it failed in never happened, names follow their rule."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from protocol.bitmap import Bitmap
from protocol.errors import ConfigError, StorageFull
from protocol.ids import NodeId, node_id_from_bytes
from protocol.limits import MIB, NAMES_PER_TAG_MAX
from protocol.manifest import Layout, Manifest
from protocol.messages import JobState
from runtime.seam import Runtime
from storage.ledger.base import Acknowledgement, Ledger
from storage.ledger.sqlite import SqliteLedger

ANNA, BEN = (node_id_from_bytes(hashlib.sha256(name).digest()) for name in (b"anna", b"ben"))


def manifest(seed: str, size: int = 3 * MIB) -> Manifest:
    layout = Layout.of_size(size)
    return Manifest.of_digests(
        size, [hashlib.sha256(f"{seed} {chunk}".encode()).digest() for chunk in range(layout.chunks)]
    )


A, B = manifest("a"), manifest("b")


@pytest.fixture
async def ledger(runtime: Runtime, tmp_path: Path) -> Any:
    ledger = await SqliteLedger.open(runtime, tmp_path / "ledger.db")
    yield ledger
    await ledger.aclose()


async def store(ledger: Ledger, what: Manifest, node: NodeId, name: str, now: float) -> list[Any]:
    await ledger.open_job(what, node, [name], now)
    return await ledger.store(what.tag, [(node, name)], now)


async def test_a_job_comes_back_as_it_was_written(ledger: Ledger) -> None:
    await ledger.open_job(A, ANNA, ["one"], 10.0)
    await ledger.claim(A.tag, BEN, "two")
    await ledger.claim(A.tag, ANNA, "three")
    await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [0, 2]), pushed={ANNA: 5, BEN: 7})], 12.5)
    (kept,) = await ledger.jobs()
    assert kept.moved_at == 12
    assert kept.job.manifest == A
    assert kept.job.state is JobState.OPEN
    assert list(kept.job.durable) == [0, 2]
    assert list(kept.job.uploaders.items()) == [(ANNA, ("one", "three")), (BEN, ("two",))]
    assert kept.job.pushed == {ANNA: 5, BEN: 7}


async def test_one_transaction_acknowledges_chunks_of_many_jobs(ledger: Ledger) -> None:
    jobs = [manifest(str(number)) for number in range(50)]
    for job in jobs:
        await ledger.open_job(job, ANNA, [""], 1.0)
    await ledger.acknowledge([Acknowledgement(tag=job.tag, durable=Bitmap.of(3, [1])) for job in jobs], 2.0)
    assert [list(kept.job.durable) for kept in await ledger.jobs()] == [[1]] * 50


async def test_a_power_cut_after_the_answer_loses_nothing(ledger: Ledger, runtime: Runtime, tmp_path: Path) -> None:
    # The files as they are while the database is open: what a process that dies now leaves behind.
    await ledger.open_job(A, ANNA, ["name"], 1.0)
    for chunk in range(3):
        durable = Bitmap.of(3, range(chunk + 1))
        await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=durable, pushed={ANNA: chunk})], 2.0)
        copy = tmp_path / f"copy {chunk}"
        copy.mkdir()
        for path in tmp_path.glob("ledger.db*"):
            shutil.copy(path, copy / path.name)
        other = await SqliteLedger.open(runtime, copy / "ledger.db")
        (kept,) = await other.jobs()
        assert kept.job.durable == durable
        assert kept.job.pushed == {ANNA: chunk}
        await other.aclose()


async def test_a_torn_end_of_the_log_loses_only_what_was_not_answered(
    ledger: Ledger, runtime: Runtime, tmp_path: Path
) -> None:
    await ledger.open_job(A, ANNA, ["name"], 1.0)
    await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [0]))], 2.0)
    answered = (tmp_path / "ledger.db-wal").stat().st_size
    await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [0, 1]))], 3.0)
    written = (tmp_path / "ledger.db-wal").stat().st_size
    for cut in range(answered, written, 512):
        copy = tmp_path / f"cut {cut}"
        copy.mkdir()
        shutil.copy(tmp_path / "ledger.db", copy / "ledger.db")
        (copy / "ledger.db-wal").write_bytes((tmp_path / "ledger.db-wal").read_bytes()[:cut])
        other = await SqliteLedger.open(runtime, copy / "ledger.db")
        (kept,) = await other.jobs()
        assert list(kept.job.durable) == [0]
        await other.aclose()


async def test_a_transaction_that_fails_half_way_never_happened(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.open_job(A, ANNA, ["name"], 1.0)

    def no_room(*_: Any) -> Any:
        raise StorageFull("in the middle")

    monkeypatch.setattr("storage.ledger.sql._name", no_room)
    with pytest.raises(StorageFull):
        await ledger.store(A.tag, [(ANNA, "name")], 2.0)
    assert await ledger.stored() == []
    (kept,) = await ledger.jobs()
    assert kept.job.state is JobState.OPEN
    assert kept.job.uploaders == {ANNA: ("name",)}


async def test_a_cancelled_job_keeps_its_chunks_and_opens_again_without_its_old_claims(ledger: Ledger) -> None:
    await ledger.open_job(A, ANNA, ["old"], 1.0)
    await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [1]))], 2.0)
    await ledger.end_job(A.tag, JobState.CANCELLED, "withdrawn", 3.0)
    (kept,) = await ledger.jobs()
    assert (kept.job.state, kept.job.reason, list(kept.job.durable)) == (JobState.CANCELLED, "withdrawn", [1])
    await ledger.open_job(A, BEN, ["new"], 4.0)
    (kept,) = await ledger.jobs()
    assert (kept.job.state, kept.job.reason, list(kept.job.durable)) == (JobState.OPEN, "", [1])
    assert kept.job.uploaders == {BEN: ("new",)}


async def test_a_late_acknowledgement_does_not_touch_a_job_that_has_ended(ledger: Ledger) -> None:
    await ledger.open_job(A, ANNA, [""], 1.0)
    await ledger.end_job(A.tag, JobState.CANCELLED, "", 2.0)
    await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.full(3))], 3.0)
    (kept,) = await ledger.jobs()
    assert not kept.job.durable


async def test_what_is_stored_is_no_job_and_cannot_be_opened_again(ledger: Ledger) -> None:
    (file,) = await store(ledger, A, ANNA, "name", 5.0)
    await ledger.open_job(A, BEN, ["other"], 6.0)
    assert await ledger.jobs() == []
    assert await ledger.stored() == [file]
    assert (file.tag, file.size_bytes, file.names, file.since) == (A.tag, 3 * MIB, ("name",), 5)
    assert await ledger.manifest(A.tag) == A


async def test_the_newest_file_of_a_name_counts_and_earlier_ones_are_kept(ledger: Ledger) -> None:
    await store(ledger, A, ANNA, "report", 100.0)
    # The clock has jumped back; what is newer is newer all the same.
    changed = await store(ledger, B, BEN, "report", 50.0)
    assert {file.tag: file.names for file in changed} == {A.tag: (), B.tag: ("report",)}
    assert [version.tag for version in await ledger.versions("report")] == [B.tag, A.tag]
    changed = await ledger.add_name(A.tag, BEN, "report", 60.0)
    assert {file.tag: file.names for file in changed} == {A.tag: ("report",), B.tag: ()}
    assert [version.tag for version in await ledger.versions("report")] == [A.tag, B.tag, A.tag]


async def test_the_same_file_put_again_under_its_name_is_only_newer(ledger: Ledger) -> None:
    await store(ledger, A, ANNA, "report", 100.0)
    (file,) = await ledger.add_name(A.tag, BEN, "report", 200.0)
    assert (file.names, file.since) == (("report",), 200)
    (version,) = await ledger.versions("report")
    assert (version.node, version.stored_at) == (BEN, 200)


async def test_a_file_without_a_name_is_stored_all_the_same(ledger: Ledger) -> None:
    (file,) = await store(ledger, A, ANNA, "", 1.0)
    assert file.names == ()


async def test_only_so_many_names_are_told_as_an_inventory_may_carry(ledger: Ledger) -> None:
    await store(ledger, A, ANNA, "n0", 0.0)
    for number in range(1, 7):
        (file,) = await ledger.add_name(A.tag, ANNA, f"n{number}", float(number))
    assert file.names == ("n6", "n5", "n4", "n3")
    assert len(file.names) == NAMES_PER_TAG_MAX


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\0b", "'; DROP TABLE files; --", "\x1b[2J", "ü" * 512, "con", " "]
)
async def test_any_name_is_only_data(ledger: Ledger, name: str) -> None:
    await store(ledger, A, ANNA, "other", 1.0)
    await store(ledger, B, ANNA, name, 1.0)
    assert [file.names for file in await ledger.stored() if file.tag == B.tag] == [(name,)]
    assert [version.tag for version in await ledger.versions(name)] == [B.tag]


async def test_what_was_lost_is_a_failed_job_without_chunks_until_it_is_put_again(ledger: Ledger) -> None:
    await store(ledger, A, ANNA, "name", 1.0)
    await ledger.lose(A.tag, "gone", 2.0)
    assert await ledger.stored() == []
    (kept,) = await ledger.jobs()
    assert (kept.job.state, kept.job.reason, len(kept.job.durable)) == (JobState.FAILED, "gone", 0)
    (file,) = await store(ledger, A, BEN, "name", 3.0)
    assert file.names == ("name",)


async def test_a_forgotten_job_leaves_nothing_and_a_stored_one_cannot_be_forgotten(ledger: Ledger) -> None:
    await ledger.open_job(A, ANNA, [""], 1.0)
    await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap(3), pushed={ANNA: 1})], 1.0)
    await ledger.forget_job(A.tag)
    assert len(await ledger.jobs()) == 1, "an open job stays"
    await ledger.end_job(A.tag, JobState.CANCELLED, "", 2.0)
    await ledger.forget_job(A.tag)
    assert await ledger.jobs() == []
    assert await ledger.manifest(A.tag) is None
    await store(ledger, B, ANNA, "b", 3.0)
    await ledger.forget_job(B.tag)
    assert len(await ledger.stored()) == 1


async def test_a_ledger_of_a_later_version_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    first = await SqliteLedger.open(runtime, tmp_path / "ledger.db")
    await first.aclose()
    database = await runtime.open_database(tmp_path / "ledger.db", "UPDATE format SET version = 2")
    await database.aclose()
    with pytest.raises(ConfigError, match="format 2"):
        await SqliteLedger.open(runtime, tmp_path / "ledger.db")


async def test_a_file_that_is_no_ledger_is_the_operators_to_mend(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="not usable as a database"):
        await SqliteLedger.open(runtime, tmp_path / "ledger.db")


async def test_a_row_that_cannot_be_is_noticed(ledger: Ledger, runtime: Runtime, tmp_path: Path) -> None:
    await ledger.open_job(A, ANNA, [""], 1.0)
    await ledger.aclose()
    database = await runtime.open_database(tmp_path / "ledger.db", "UPDATE jobs SET durable = x'ff'")
    await database.aclose()
    other = await SqliteLedger.open(runtime, tmp_path / "ledger.db")
    with pytest.raises(ConfigError, match="restore the ledger"):
        await other.jobs()
    await other.aclose()
