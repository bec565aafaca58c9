"""What every ledger knows of keeping (storage/ledger/base.py): terms, what goes, who uses how much, scrubs, mending."""

from __future__ import annotations

from contract.ledger_contract import ANNA, BEN, A, B, store

from protocol.bitmap import Bitmap
from protocol.limits import MIB
from protocol.messages import JobState
from storage.ledger.base import Acknowledgement, Ledger, Scrub


async def rows(ledger: Ledger) -> list[tuple[str, bytes, int | None]]:
    return [(one.name, one.tag.root, one.until) for one in await ledger.bindings()]


class KeepingContract:
    """Inherited by the tests of each ledger, which have a fixture ``ledger``."""

    async def test_of_two_puts_of_one_name_in_one_second_the_later_one_is_dated_later(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "report", 100.2)
        changed = await store(ledger, B, ANNA, "report", 100.9)
        assert {file.tag: file.since for file in changed} == {A.tag: 100, B.tag: 101}
        changed = await ledger.add_name(A.tag, BEN, "report", 100.95)
        assert {file.tag: file.since for file in changed} == {A.tag: 102, B.tag: 100}
        # A clock that jumps back does not date it back.
        (file,) = await ledger.add_name(A.tag, BEN, "report", 50.0)
        assert file.since == 102

    async def test_a_term_is_of_the_newest_file_of_a_name_and_ends_when_it_is_put_again(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "report", 1.0)
        assert await ledger.set_term(A.tag, "report", ANNA, 500)
        assert await rows(ledger) == [("report", A.tag.root, 500)]
        assert not await ledger.set_term(A.tag, "report", BEN, 600), "it is not his"
        assert not await ledger.set_term(B.tag, "report", None, 600), "it is another file"
        assert not await ledger.set_term(A.tag, "other", None, 600)
        assert await ledger.set_term(A.tag, "report", None, None), "whoever looks after the node may"
        assert await rows(ledger) == [("report", A.tag.root, -1)]
        await ledger.add_name(A.tag, BEN, "report", 2.0)
        assert await rows(ledger) == [("report", A.tag.root, None)]
        await store(ledger, B, ANNA, "report", 3.0)
        assert not await ledger.set_term(A.tag, "report", None, 600), "it has a newer file"

    async def test_what_no_name_is_left_for_is_doomed_until_it_is_cleared(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "one", 1.0)
        await ledger.add_name(A.tag, ANNA, "two", 1.0)
        await store(ledger, B, ANNA, "three", 1.0)
        first, second, third = (one.position for one in await ledger.bindings())
        collected = await ledger.collect([first, third], [A.tag, B.tag])
        assert collected.doomed == [B.tag] and [file.names for file in collected.changed] == [("two",)]
        assert [(file.tag, file.names) for file in await ledger.stored()] == [(A.tag, ("two",))]
        assert await ledger.manifest(B.tag) is None and await ledger.doomed() == [B.tag]
        # Put again it must not be deleted under somebody's hands, as long as that lasts.
        await ledger.open_job(B, BEN, ["x"], 2.0)
        assert await ledger.doomed() == []
        await ledger.end_job(B.tag, JobState.CANCELLED, "", 2.0)
        await ledger.forget_job(B.tag)
        assert await ledger.doomed() == [B.tag]
        await ledger.cleared(B.tag)
        assert await ledger.doomed() == []
        assert (await ledger.collect([second], [A.tag, B.tag])).doomed == [A.tag]
        assert await ledger.stored() == [] and await ledger.jobs() == []
        # Stored again it is there like any other.
        await store(ledger, A, ANNA, "one", 2.0)
        assert await ledger.doomed() == [] and len(await ledger.stored()) == 1

    async def test_without_its_newest_file_a_name_is_the_one_s_before(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "x", 1.0)
        await store(ledger, B, BEN, "x", 2.0)
        collected = await ledger.collect([(await ledger.bindings())[-1].position], [B.tag])
        assert collected.doomed == [B.tag]
        assert [(file.tag, file.names) for file in collected.changed] == [(A.tag, ("x",))]

    async def test_what_is_removed_loses_all_its_names(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "one", 1.0)
        await ledger.add_name(A.tag, BEN, "two", 1.0)
        await store(ledger, B, ANNA, "two", 1.0)
        assert await ledger.remove(A.tag)
        assert await rows(ledger) == [("two", B.tag.root, None)]
        assert await ledger.versions("one") == [] and await ledger.doomed() == [A.tag]
        assert not await ledger.remove(A.tag)

    async def test_an_open_job_is_not_removed(self, ledger: Ledger) -> None:
        await ledger.open_job(A, ANNA, ["x"], 1.0)
        assert not await ledger.remove(A.tag)
        assert (await ledger.collect([], [A.tag])).doomed == []
        assert len(await ledger.jobs()) == 1 and await ledger.doomed() == []

    async def test_room_counts_once_for_who_put_it_and_for_where_its_names_begin(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "films/a", 1.0)
        await ledger.add_name(A.tag, ANNA, "films/b", 1.0)
        await ledger.add_name(A.tag, BEN, "else", 1.0)
        await ledger.open_job(B, BEN, ["films/c", "filmsüß"], 1.0)
        assert await ledger.used_bytes(node=ANNA) == 3 * MIB
        assert await ledger.used_bytes(node=BEN) == 6 * MIB
        assert await ledger.used_bytes(prefix="films/") == 6 * MIB
        assert await ledger.used_bytes(prefix="filmsü") == 3 * MIB
        assert await ledger.used_bytes(prefix="") == 6 * MIB
        assert await ledger.used_bytes(prefix="films%") == 0
        assert await ledger.used_bytes(node=BEN, without=A.tag) == 3 * MIB
        assert await ledger.used_bytes(prefix="", without=B.tag) == 3 * MIB
        await ledger.end_job(B.tag, JobState.CANCELLED, "", 2.0)
        assert await ledger.used_bytes(node=BEN) == 3 * MIB

    async def test_scrubs_are_remembered_of_what_is_stored_and_begin_anew_when_it_is_stored_again(
        self, ledger: Ledger
    ) -> None:
        await store(ledger, A, ANNA, "a", 1.0)
        await ledger.set_scrub(A.tag, Scrub(chunk=2, due_at=1000))
        await ledger.set_scrub(A.tag, Scrub(chunk=0, due_at=2000))
        await ledger.set_scrub(B.tag, Scrub(chunk=0, due_at=1))
        assert await ledger.scrubs() == {A.tag: Scrub(chunk=0, due_at=2000)}
        await ledger.reopen(A.tag, Bitmap.of(3, [0, 1]), BEN, 5.0)
        await ledger.store(A.tag, [], 6.0)
        assert await ledger.scrubs() == {}

    async def test_a_rotten_file_is_an_open_job_that_keeps_its_names_until_it_is_stored_again(
        self, ledger: Ledger
    ) -> None:
        await store(ledger, A, ANNA, "a", 1.0)
        assert await ledger.reopen(A.tag, Bitmap.of(3, [0, 2]), BEN, 5.0)
        assert not await ledger.reopen(A.tag, Bitmap.of(3, [0]), BEN, 5.0), "it is no stored file any more"
        (kept,) = await ledger.jobs()
        assert (kept.job.state, list(kept.job.durable), kept.moved_at) == (JobState.OPEN, [0, 2], 5)
        assert BEN in kept.job.uploaders
        assert await ledger.mending() == {A.tag} and await ledger.stored() == []
        await ledger.acknowledge([Acknowledgement(tag=A.tag, durable=Bitmap.full(3))], 6.0)
        (file,) = await ledger.store(A.tag, [], 7.0)
        assert file.names == ("a",) and await ledger.mending() == set()

    async def test_what_is_being_mended_can_be_removed(self, ledger: Ledger) -> None:
        await store(ledger, A, ANNA, "a", 1.0)
        await ledger.reopen(A.tag, Bitmap(3), BEN, 5.0)
        assert await ledger.remove(A.tag)
        assert await ledger.jobs() == [] and await ledger.mending() == set() and await ledger.bindings() == []
