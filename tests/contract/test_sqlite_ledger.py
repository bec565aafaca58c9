"""The ledger in SQLite keeps the contract; what a method returned from survives, what it failed in never happened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from contract.keeping_contract import KeepingContract
from contract.ledger_contract import ANNA, A, LedgerContract

from protocol.bitmap import Bitmap
from protocol.errors import ConfigError, StorageFull
from protocol.messages import JobState
from runtime.seam import Runtime
from storage.ledger.base import Acknowledgement, Ledger
from storage.ledger.sqlite import SqliteLedger


@pytest.fixture
async def ledger(runtime: Runtime, tmp_path: Path) -> Any:
    ledger = await SqliteLedger.open(runtime, tmp_path / "ledger.db")
    yield ledger
    await ledger.aclose()


class TestSqliteLedger(LedgerContract, KeepingContract):
    """All of it."""


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
