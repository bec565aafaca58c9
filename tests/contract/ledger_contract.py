"""What every ledger keeps (storage/ledger/base.py). A subclass says how to make one."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from protocol.bitmap import Bitmap
from protocol.ids import NodeId, node_id_from_bytes
from protocol.limits import MIB, NAMES_PER_TAG_MAX
from protocol.manifest import Layout, Manifest
from protocol.messages import JobState
from storage.ledger.base import Acknowledgement, KeptUpload, Ledger

ANNA, BEN = (node_id_from_bytes(hashlib.sha256(name).digest()) for name in (b"anna", b"ben"))


def manifest(seed: str, size: int = 3 * MIB) -> Manifest:
    layout = Layout.of_size(size)
    return Manifest.of_digests(
        size, [hashlib.sha256(f"{seed} {chunk}".encode()).digest() for chunk in range(layout.chunks)]
    )


A, B = manifest("a"), manifest("b")


async def store(ledger: Ledger, what: Manifest, node: NodeId, name: str, now: float) -> list[Any]:
    await ledger.open_job(what, node, [name], now)
    return await ledger.store(what.tag, [(node, name)], now)


class LedgerContract:
    """Inherited by the tests of each ledger, which have a fixture ``ledger``."""

    async def test_a_job_comes_back_as_it_was_written(self, ledger: Ledger) -> None:
        await ledger.open_job(A, ANNA, ["one"], 10.0)
        await ledger.claim(A.tag, BEN, "two")
        await ledger.claim(A.tag, ANNA, "three")
        await ledger.acknowledge(
            [Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [0, 2]), pushed={ANNA: 5, BEN: 7})], 12.5
        )
        (kept,) = await ledger.jobs()
        assert kept.moved_at == 12
        assert kept.job.manifest == A
        assert kept.job.state is JobState.OPEN
        assert list(kept.job.durable) == [0, 2]
        assert list(kept.job.uploaders.items()) == [(ANNA, ("one", "three")), (BEN, ("two",))]
        assert kept.job.pushed == {ANNA: 5, BEN: 7}

    async def test_one_transaction_acknowledges_chunks_of_many_jobs(self, ledger: Ledger) -> None:
        jobs = [manifest(str(number)) for number in range(50)]
        for job in jobs:
            await ledger.open_job(job, ANNA, [""], 1.0)
        await ledger.acknowledge([Acknowledgement(tag=job.tag, durable=Bitmap.of(3, [1])) for job in jobs], 2.0)
        assert [list(kept.job.durable) for kept in await ledger.jobs()] == [[1]] * 50

    async def test_a_cancelled_job_keeps_its_chunks_and_opens_again_without_its_old_claims(
        self, ledger: Ledger
    ) -> None:
        await ledger.open_job(A, ANNA, ["old"], 1.0)
        await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [1]))], 2.0)
        await ledger.end_job(A.tag, JobState.CANCELLED, "withdrawn", 3.0)
        (kept,) = await ledger.jobs()
        assert (kept.job.state, kept.job.reason, list(kept.job.durable)) == (JobState.CANCELLED, "withdrawn", [1])
        await ledger.open_job(A, BEN, ["new"], 4.0)
        (kept,) = await ledger.jobs()
        assert (kept.job.state, kept.job.reason, list(kept.job.durable)) == (JobState.OPEN, "", [1])
        assert kept.job.uploaders == {BEN: ("new",)}

    async def test_a_late_acknowledgement_does_not_touch_a_job_that_has_ended(self, ledger: Ledger) -> None:
        await ledger.open_job(A, ANNA, [""], 1.0)
        await ledger.end_job(A.tag, JobState.CANCELLED, "", 2.0)
        await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.full(3))], 3.0)
        (kept,) = await ledger.jobs()
        assert not kept.job.durable

    async def test_what_is_stored_is_no_job_and_cannot_be_opened_again(self, ledger: Ledger) -> None:
        (file,) = await store(ledger, A, ANNA, "name", 5.0)
        await ledger.open_job(A, BEN, ["other"], 6.0)
        assert await ledger.jobs() == []
        assert await ledger.stored() == [file]
        assert (file.tag, file.size_bytes, file.names, file.since) == (A.tag, 3 * MIB, ("name",), 5)
        assert await ledger.manifest(A.tag) == A

    async def test_the_newest_file_of_a_name_counts_and_earlier_ones_are_kept(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "report", 100.0)
        # The clock has jumped back; what is newer is newer all the same.
        changed = await store(ledger, B, BEN, "report", 50.0)
        assert {file.tag: file.names for file in changed} == {A.tag: (), B.tag: ("report",)}
        assert [version.tag for version in await ledger.versions("report")] == [B.tag, A.tag]
        changed = await ledger.add_name(A.tag, BEN, "report", 60.0)
        assert {file.tag: file.names for file in changed} == {A.tag: ("report",), B.tag: ()}
        assert [version.tag for version in await ledger.versions("report")] == [A.tag, B.tag, A.tag]

    async def test_the_same_file_put_again_under_its_name_is_only_newer(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "report", 100.0)
        (file,) = await ledger.add_name(A.tag, BEN, "report", 200.0)
        assert (file.names, file.since) == (("report",), 200)
        (version,) = await ledger.versions("report")
        assert (version.node, version.stored_at) == (BEN, 200)

    async def test_a_file_without_a_name_is_stored_all_the_same(self, ledger: Ledger) -> None:
        (file,) = await store(ledger, A, ANNA, "", 1.0)
        assert file.names == ()

    async def test_only_so_many_names_are_told_as_an_inventory_may_carry(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "n0", 0.0)
        for number in range(1, 7):
            (file,) = await ledger.add_name(A.tag, ANNA, f"n{number}", float(number))
        assert file.names == ("n6", "n5", "n4", "n3")
        assert len(file.names) == NAMES_PER_TAG_MAX

    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "a\0b", "'; DROP TABLE files; --", "\x1b[2J", "ü" * 512, "con", " "]
    )
    async def test_any_name_is_only_data(self, ledger: Ledger, name: str) -> None:
        await store(ledger, A, ANNA, "other", 1.0)
        await store(ledger, B, ANNA, name, 1.0)
        assert [file.names for file in await ledger.stored() if file.tag == B.tag] == [(name,)]
        assert [version.tag for version in await ledger.versions(name)] == [B.tag]

    async def test_what_was_lost_is_a_failed_job_without_chunks_until_it_is_put_again(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "name", 1.0)
        await ledger.lose(A.tag, "gone", 2.0)
        assert await ledger.stored() == []
        (kept,) = await ledger.jobs()
        assert (kept.job.state, kept.job.reason, len(kept.job.durable)) == (JobState.FAILED, "gone", 0)
        (file,) = await store(ledger, A, BEN, "name", 3.0)
        assert file.names == ("name",)

    async def test_a_forgotten_job_leaves_nothing_and_a_stored_one_cannot_be_forgotten(self, ledger: Ledger) -> None:
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

    async def test_an_upload_is_remembered_until_it_is_dropped_or_its_job_is_stored(self, ledger: Ledger) -> None:
        await ledger.open_job(A, ANNA, [""], 1.0)
        await ledger.set_upload(A.tag, "first")
        await ledger.acknowledge(
            [Acknowledgement(tag=A.tag, durable=Bitmap.of(3, [0, 1]), apart=Bitmap.of(3, [1]))], 2.0
        )
        (kept,) = await ledger.jobs()
        assert kept.upload == KeptUpload("first", Bitmap.of(3, [1]))
        assert await ledger.uploads() == {A.tag: "first"}
        # Acknowledging by the other way leaves it as it is; another upload has nothing yet.
        await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.full(3))], 3.0)
        assert (await ledger.jobs())[0].upload == KeptUpload("first", Bitmap.of(3, [1]))
        await ledger.set_upload(A.tag, "second")
        assert (await ledger.jobs())[0].upload == KeptUpload("second", Bitmap(3))
        await ledger.drop_upload(A.tag)
        assert (await ledger.jobs())[0].upload is None
        await ledger.set_upload(A.tag, "third")
        await ledger.store(A.tag, [], 4.0)
        assert await ledger.uploads() == {}

    async def test_an_upload_goes_with_its_job_and_stays_while_it_rests(self, ledger: Ledger) -> None:
        await ledger.open_job(A, ANNA, [""], 1.0)
        await ledger.set_upload(A.tag, "one")
        await ledger.end_job(A.tag, JobState.CANCELLED, "", 2.0)
        assert await ledger.uploads() == {A.tag: "one"}
        await ledger.forget_job(A.tag)
        assert await ledger.uploads() == {}
