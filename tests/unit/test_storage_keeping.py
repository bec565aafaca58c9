"""What a storage node does to keep: removal, terms, quotas, reading again, mending; and crashes in the middle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from support.storage_node import Site, Uploader, manifest_of, some_bytes
from trio.testing import MockClock

from protocol import messages as m
from protocol.errors import ChunkMissing, CommandError, NotFound, StorageUnavailable
from protocol.ids import Tag
from protocol.limits import MIB
from runtime.seam import Clock, Runtime
from storage.commands import methods_of
from storage.keeping.schedule import DAY_SECONDS

DATA, OTHER = some_bytes(3 * MIB + 17), some_bytes(1000, 2)
LOOKS_SECONDS = 65.0
TAG, OTHER_TAG = manifest_of(DATA).tag, manifest_of(OTHER).tag


def site_of(tmp_path: Path, **settings: Any) -> SiteInTime:
    site = SiteInTime(tmp_path)
    site.settings |= settings
    return site


class Calendar:
    """A clock whose wall can be moved on; what sleeps does not notice."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self._inner: Clock | None = None

    def wrap(self, runtime: Runtime) -> Runtime:
        self._inner = runtime.clock
        return replace(runtime, clock=self)

    def monotonic(self) -> float:
        assert self._inner is not None
        return self._inner.monotonic()

    def wall(self) -> float:
        assert self._inner is not None
        return self._inner.wall() + self.ahead_seconds


class SiteInTime(Site):
    """Where a storage node lives that looks at ``calendar``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calendar = Calendar()
        self.wrap = self.calendar.wrap


async def pass_time(site: SiteInTime, seconds: float) -> None:
    """So much later; whoever looks at the calendar now and then has looked."""
    site.calendar.ahead_seconds += seconds - LOOKS_SECONDS
    await trio.sleep(LOOKS_SECONDS)


def object_of(site: Site, tag: Tag) -> Path:
    return site.data / "objects" / str(tag)[:2] / str(tag)


def rot(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))


async def wait_until(condition: Any) -> None:
    with trio.fail_after(600):
        while not condition():
            await trio.sleep(0.5)


# --- removal ---


async def test_what_is_removed_is_gone_from_shelf_ledger_and_disk(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        assert (await anna.put(link, DATA, "a")).proven and (await anna.put(link, OTHER, "b")).proven
        removed = await storage.keeper.remove(TAG, None)
        assert removed.tags == [TAG] and TAG not in storage.shelf.stored and not object_of(site, TAG).exists()
        assert [holding.tag for holding in storage.shelf.book] == [OTHER_TAG]
        with pytest.raises(NotFound):
            await storage.keeper.remove(TAG, None)
        # It can be put again like anything new.
        assert (await anna.put(link, DATA, "a")).proven
    async with site.storage() as storage:
        assert set(storage.shelf.stored) == {TAG, OTHER_TAG}


async def test_a_name_goes_with_its_versions_but_a_file_stays_as_long_as_it_has_another(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "report")
        await anna.put(link, OTHER, "report")
        await anna.put(link, b"third", "elsewhere")
        third = manifest_of(b"third").tag
        answer = await anna.propose(link, third, 5, "report")
        assert isinstance(answer, m.DeskAnswer)
        await anna.prove(link, answer, b"third")
        removed = await storage.keeper.remove("report", None)
        assert set(removed.tags) == {TAG, OTHER_TAG} and removed.kept == [third]
        assert storage.shelf.stored[third].names == ("elsewhere",)
        with pytest.raises(NotFound):
            await storage.keeper.remove("report", None)


async def test_a_member_removes_only_what_it_put_itself(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna, site.uploader("ben") as ben:
        await anna.put(await anna.dial(), DATA, "hers")
        with pytest.raises(CommandError, match="put by others"):
            await storage.keeper.remove("hers", ben.node)
        with pytest.raises(CommandError, match="put by others"):
            await storage.keeper.remove(TAG, ben.node)
        link = await ben.dial()
        answer = await ben.propose(link, TAG, len(DATA), "his")
        assert isinstance(answer, m.DeskAnswer)
        await ben.prove(link, answer, DATA)
        # Anna's word takes her name; the file is his too.
        removed = await storage.keeper.remove(TAG, anna.node)
        assert (removed.tags, removed.kept) == ([], [TAG]) and storage.shelf.stored[TAG].names == ("his",)
        assert (await storage.keeper.remove("his", ben.node)).tags == [TAG]


async def test_a_job_is_cancelled_not_removed(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        await anna.begin_put(await anna.dial(), DATA, "x", chunks=[0])
        await anna.wait_stored(TAG, 1)
        with pytest.raises(NotFound, match="cancel the upload"):
            await storage.keeper.remove(TAG, None)


class Killed(Exception):
    """As if the process had ended here."""


async def _die(*_: object) -> None:
    raise Killed


async def test_a_kill_between_ledger_and_backend_leaves_nothing(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        await anna.put(await anna.dial(), DATA, "x")
        monkeypatch.setattr(storage._backend, "delete", _die)
        with pytest.raises(Killed):
            await storage.keeper.remove(TAG, None)
        assert object_of(site, TAG).exists()
    async with site.storage() as storage:
        await wait_until(lambda: not object_of(site, TAG).exists())
        assert await storage._ledger.doomed() == []


# --- terms ---


async def test_a_name_ends_when_its_time_is_over(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path, expires_seconds=3600.0)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "default")
        await anna.put(link, OTHER, "longer")
        await storage.keeper.keep(OTHER_TAG, "longer", anna.node, 3 * 3600.0)
        await pass_time(site, 3500)
        assert set(storage.shelf.stored) == {TAG, OTHER_TAG}
        await pass_time(site, 200)
        assert set(storage.shelf.stored) == {OTHER_TAG} and not object_of(site, TAG).exists()
        await storage.keeper.keep(OTHER_TAG, "longer", None, None)
        await pass_time(site, 100 * 3600)
        assert set(storage.shelf.stored) == {OTHER_TAG}
        await storage.keeper.keep(OTHER_TAG, "longer", None, 60.0)
        await pass_time(site, 120)
        assert storage.shelf.stored == {} and storage.keeper.counts.files_removed == 2


async def test_earlier_versions_are_collected_and_nothing_is_unless_told(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for unnamed in (None, 3600.0):
        site = site_of(tmp_path / str(unnamed), unnamed_seconds=unnamed)
        async with site.storage() as storage, site.uploader() as anna:
            link = await anna.dial()
            await anna.put(link, DATA, "report")
            await anna.put(link, OTHER, "report")
            await pass_time(site, 1800)
            # By its tag it is still there.
            assert TAG in storage.shelf.stored
            await pass_time(site, 7200)
            assert set(storage.shelf.stored) == ({TAG, OTHER_TAG} if unnamed is None else {OTHER_TAG})


async def test_only_its_putter_and_the_operator_set_a_term(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna, site.uploader("ben") as ben:
        await anna.put(await anna.dial(), DATA, "hers")
        with pytest.raises(NotFound):
            await storage.keeper.keep(TAG, "hers", ben.node, 1.0)
        await pass_time(site, 1000)
        assert TAG in storage.shelf.stored


# --- quotas ---


async def put_refused(anna: Uploader, link: Any, data: bytes, name: str) -> m.Failure:
    manifest = anna.has(data)
    answer = await anna.propose(link, manifest.tag, manifest.size_bytes, name)
    assert isinstance(answer, m.Failure), answer
    return answer


async def test_who_has_too_much_hears_so(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path, quota_node_bytes=4 * MIB, quota_prefixes=("small/=100kB",))
    async with site.storage() as storage, site.uploader() as anna, site.uploader("ben") as ben:
        link = await anna.dial()
        assert (await anna.put(link, DATA, "a")).proven
        refused = await put_refused(anna, link, some_bytes(MIB, 5), "b")
        assert refused.code == "quota" and str(4 * MIB) in refused.reason
        # What it has counts once; others have a quota of their own.
        assert isinstance(await anna.propose(link, TAG, len(DATA), "again"), m.DeskAnswer)
        his = await ben.dial()
        assert (await ben.put(his, some_bytes(MIB, 5), "b")).proven
        assert (await put_refused(ben, his, some_bytes(200_000, 6), "small/x")).code == "quota"
        assert (await ben.put(his, some_bytes(90_000, 6), "small/x")).proven
        assert (await put_refused(ben, his, some_bytes(90_000, 7), "small/y")).code == "quota"
        # What is removed makes room.
        await storage.keeper.remove("a", anna.node)
        assert (await anna.put(link, some_bytes(2 * MIB, 8), "c")).proven


async def test_a_quota_holds_for_what_comes_by_http_too(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path, quota_prefixes=("=1000",), http="127.0.0.1:0", http_uploads=True)
    async with site.storage() as storage:
        transport = httpx2.ASGITransport(storage.door("token token token"))
        headers = {"authorization": "Bearer token token token", "tus-resumable": "1.0.0", "upload-length": "1001"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
            answer = await client.post("/tus/")
            assert answer.status_code == 507 and answer.text.startswith("quota: ")


async def test_room_is_told_less_the_reserve_and_what_was_promised(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path, reserve_bytes=MIB)
    async with site.storage() as storage, site.uploader() as anna:

        async def eleven() -> int:
            return 11 * MIB

        monkeypatch.setattr(storage._backend, "room_bytes", eleven)
        link = await anna.dial()
        assert isinstance(await anna.propose(link, TAG, len(DATA), "x"), m.DeskAnswer)
        await trio.sleep(10)
        # What the next heartbeat says; a tracker sends nobody here who does not fit.
        assert storage.tracker_link._status().room_bytes == 10 * MIB - len(DATA)
        assert (await put_refused(anna, link, some_bytes(8 * MIB, 9), "y")).code == "no-space"


# --- reading again, and mending ---


async def test_rot_is_found_fenced_off_and_mended_by_who_has_the_file(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "film")
        rot(object_of(site, TAG), 5, MIB + 3)
        anna.requests.clear()
        assert await storage.scrubber.scrub(TAG) == [0, 1]
        # The rotten chunks are served to nobody, the others are.
        held = storage.holdings.holding(TAG)
        assert held is not None and list(held.bitmap) == [2, 3] and TAG not in storage.shelf.stored
        assert list(storage.shelf.live[TAG].job.durable) == [2, 3]
        # As the tracker would order her to.
        anna.engine.offer(link, TAG)
        await wait_until(lambda: TAG in storage.shelf.stored)
        assert {chunk for _, chunk, _ in anna.requests} == {0, 1}
        assert object_of(site, TAG).read_bytes() == DATA and storage.shelf.stored[TAG].names == ("film",)
        assert await storage.scrubber.scrub(TAG) == []
        counts = storage.scrubber.statistics()
        assert (counts.rotten_chunks, counts.files_mended) == (2, 1)


async def test_what_is_being_mended_outlives_restarts_patience_and_those_who_give_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    site = site_of(tmp_path, idle_seconds=3600.0, rest_seconds=3600.0)
    async with site.storage() as storage, site.uploader() as anna:
        await anna.put(await anna.dial(), DATA, "film")
        rot(object_of(site, TAG), MIB + 3)
        assert await storage.scrubber.scrub(TAG) == [1]
    async with site.storage() as storage:
        async with site.uploader("ben") as ben:
            link = await ben.dial()
            await ben.begin_put(link, DATA, "his", chunks=[])
            link.post(m.Withdraw(tag=TAG))
            await trio.sleep(60)
        await pass_time(site, 100 * 3600)
        assert list(storage.shelf.live[TAG].job.durable) == [0, 2, 3]
        async with site.uploader() as anna:
            link = await anna.dial()
            anna.has(DATA)
            anna.engine.offer(link, TAG)
            await wait_until(lambda: TAG in storage.shelf.stored)
        assert storage.shelf.stored[TAG].names == ("film",) and object_of(site, TAG).read_bytes() == DATA


async def test_an_object_that_disappeared_is_fetched_whole(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "film")
        object_of(site, TAG).unlink()
        assert await storage.scrubber.scrub(TAG) == [0, 1, 2, 3]
        anna.engine.offer(link, TAG)
        await wait_until(lambda: TAG in storage.shelf.stored)
        assert object_of(site, TAG).read_bytes() == DATA


async def test_an_object_that_cannot_be_opened_now_is_not_taken_for_lost(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        await anna.put(await anna.dial(), DATA, "film")

        async def too_many(_tag: Tag) -> Any:
            raise ChunkMissing("too many open files")

        with monkeypatch.context() as away, pytest.raises(StorageUnavailable):
            away.setattr(storage._backend, "open", too_many)
            await storage.scrubber.scrub(TAG)
        assert await storage.scrubber.scrub(TAG) == [] and storage.shelf.stored[TAG].names == ("film",)


async def test_a_file_that_is_being_mended_can_be_removed(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "film")
        rot(object_of(site, TAG), 5)
        await storage.scrubber.scrub(TAG)
        assert (await storage.keeper.remove(TAG, None)).tags == [TAG]
        assert TAG not in storage.shelf.live and not (site.data / "spool" / str(TAG)).exists()
        assert (await anna.put(link, DATA, "film")).proven


@pytest.mark.parametrize("step", ["take_back", "go_on"])
async def test_a_kill_in_the_middle_keeps_the_good_chunks(autojump_clock: MockClock, tmp_path: Path, step: str) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        await anna.put(await anna.dial(), DATA, "film")
        rot(object_of(site, TAG), MIB + 3)
        setattr(storage._backend if step == "take_back" else storage.intake, step, _die)
        with pytest.raises(Killed):
            await storage.scrubber.scrub(TAG)
    async with site.storage() as storage, site.uploader() as anna:
        assert list(storage.shelf.live[TAG].job.durable) == [0, 2, 3]
        link = await anna.dial()
        anna.has(DATA)
        anna.engine.offer(link, TAG)
        await wait_until(lambda: TAG in storage.shelf.stored)
        assert object_of(site, TAG).read_bytes() == DATA and storage.shelf.stored[TAG].names == ("film",)


async def test_everything_is_read_again_within_35_days_and_not_before_25(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "film")
        await anna.put(link, OTHER, "other")
    rot(object_of(site, TAG), 5)
    async with site.storage() as storage:
        await pass_time(site, 24 * DAY_SECONDS)
        assert storage.scrubber.statistics().chunks == 0
    # The dates outlast a restart.
    async with site.storage() as storage:
        await pass_time(site, 11.1 * DAY_SECONDS)
        assert storage.scrubber.statistics().chunks == 5
        assert list(storage.shelf.live[TAG].job.durable) == [1, 2, 3] and OTHER_TAG in storage.shelf.stored


async def test_reading_goes_on_where_it_was_and_keeps_its_pace(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path, scrub_bytes_per_second=MIB / 1000)
    async with site.storage() as storage, site.uploader() as anna:
        await anna.put(await anna.dial(), DATA, "film")
        await wait_until(lambda: storage.scrubber.statistics().next_at is not None)
        next_at = storage.scrubber.statistics().next_at
        assert next_at is not None
        await pass_time(site, next_at - storage._runtime.clock.wall() + LOOKS_SECONDS)
        await trio.sleep(1500)
        assert storage.scrubber.statistics().chunks in (1, 2)
    async with site.storage() as storage:
        await trio.sleep(1100)
        assert storage.scrubber.statistics().chunks <= 2
        await trio.sleep(3000)
        seen = storage.scrubber.statistics()
        assert seen.files == 1 and seen.chunks <= 3 and seen.due == 0


async def test_scrub_now_reads_everything_and_the_state_is_told(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path, scrub_bytes_per_second=None)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "film")
        await anna.put(link, OTHER, "other")
        methods = methods_of(storage)
        assert (await methods["scrub"]({}, None))["due"] == 0
        assert (await methods["scrub"]({"now": True}, None))["begun"] == 2
        await wait_until(lambda: storage.scrubber.statistics().files == 2)
        assert await methods["scrub"]({"what": "film"}, None) == {"tag": str(TAG), "chunks": 4, "rotten": []}
        status = await methods["status"]({}, None)
        assert status["scrub"]["bytes"] == 2 * len(DATA) + len(OTHER) and status["scrub"]["rotten_chunks"] == 0
        assert status["keeping"]["files_removed"] == 0


async def test_the_control_socket_removes_and_keeps(autojump_clock: MockClock, tmp_path: Path) -> None:
    site = site_of(tmp_path)
    async with site.storage() as storage, site.uploader() as anna:
        link = await anna.dial()
        await anna.put(link, DATA, "film")
        methods = methods_of(storage)
        assert (await methods["keep"]({"what": "film", "seconds": 50}, None))["tag"] == str(TAG)
        assert await methods["rm"]({"what": str(TAG)}, None) == {"removed": [str(TAG)], "kept": []}
        for method, params in (
            ("rm", {}),
            ("keep", {"what": str(TAG), "seconds": 1}),
            ("keep", {"what": "x", "seconds": -1}),
        ):
            with pytest.raises(CommandError):
                await methods[method](params, None)
        with pytest.raises(NotFound):
            await methods["scrub"]({"what": "film"}, None)


async def test_an_object_that_a_killed_process_left_rotten_keeps_its_good_chunks(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Renamed and not written down, and then rotten: what is right of it need not come again.
    site = site_of(tmp_path)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with site.storage() as storage, site.uploader() as anna:
            monkeypatch.setattr(storage._ledger, "store", _die)
            await anna.begin_put(await anna.dial(), DATA, "film")
            await trio.sleep(600)
    assert caught.group_contains(Killed)
    rot(object_of(site, TAG), 5)
    async with site.storage() as storage:
        assert list(storage.shelf.live[TAG].job.durable) == [1, 2, 3]
