"""The index that goes on alone keeps the contract, with a shared one and without; and it says which of both it is."""

from __future__ import annotations

from typing import Any

import pytest
from contract.index_contract import (
    OTHER,
    PATIENCE,
    PEER,
    STORE,
    TAG,
    IndexContract,
    MakeIndex,
    beat,
    holding,
    profile,
    said,
    update,
)

from protocol.errors import StorageUnavailable
from protocol.ids import Role
from tracker.index.base import Patience
from tracker.index.memory import MemoryIndex
from tracker.index.steady import SteadyIndex


class Shared(MemoryIndex):
    """One that may be away, as a whole."""

    away = False

    async def agree_on_time(self, _now: float) -> None:
        if self.away:
            raise StorageUnavailable("away")

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith(("_", "away", "agree")) and object.__getattribute__(self, "away"):

            async def refuse(*_args: Any, **_options: Any) -> None:
                raise StorageUnavailable("away")

            return refuse
        return object.__getattribute__(self, name)


class TestSteadyIndexWithoutAnother(IndexContract):
    """Nobody ever agreed with it on the time: it is alone."""

    @pytest.fixture
    def make(self) -> MakeIndex:
        def make(patience: Patience) -> SteadyIndex:
            return SteadyIndex(Shared(patience), MemoryIndex(patience))

        return make


class TestSteadyIndexThatShares(IndexContract):
    """All is told to both, and the shared one answers."""

    @pytest.fixture
    def make(self) -> MakeIndex:
        def make(patience: Patience) -> SteadyIndex:
            index = SteadyIndex(Shared(patience), MemoryIndex(patience))
            index._in_time = True
            return index

        return make


async def test_alone_it_knows_its_own_nodes_and_tells_the_shared_one_when_that_is_back() -> None:
    shared = Shared(PATIENCE)
    index = SteadyIndex(shared, MemoryIndex(PATIENCE))
    await index.agree_on_time(0)
    await shared.arrived(profile(STORE, Role.STORAGE), 0)  # linked to another tracker
    await shared.job(STORE, update(OTHER), 0)
    await index.arrived(profile(PEER), 0)
    await index.take(PEER, said(holding()), 0)
    assert len(await index.nodes(0)) == 2 and index.away is None

    shared.away = True
    assert [view.node for view in await index.nodes(1)] == [PEER]
    assert index.away == "away" and (await index.tag(TAG, 1)) is not None
    assert await index.jobs(1) == ()
    await index.arrived(profile(STORE, Role.STORAGE), 2)
    assert await index.job(STORE, update(), 2), "its nodes are ordered to help"
    assert await index.open_tags_of(PEER, 2) == (TAG,)
    await index.agree_on_time(3)
    assert index.away == "away"

    empty = Shared(PATIENCE)
    index._shared = empty  # it comes back without anything
    assert await index.beat(profile(STORE, Role.STORAGE), beat(), 4), "alone, its inventory is wanted as ever"
    await index.agree_on_time(4)
    assert index.away is None and await empty.nodes(4) == ()
    for who, role in ((PEER, Role.PEER), (STORE, Role.STORAGE)):
        assert await index.beat(profile(who, role), beat(), 5), "and now by the shared one"
    await index.take(PEER, said(holding()), 5)
    assert await empty.holders(TAG, 5) != ()


async def test_open_jobs_are_told_to_a_shared_index_that_kept_its_nodes() -> None:
    shared = Shared(PATIENCE)
    index = SteadyIndex(shared, MemoryIndex(PATIENCE))
    await index.agree_on_time(0)
    await index.arrived(profile(STORE, Role.STORAGE), 0)
    shared.away = True
    assert await index.job(STORE, update(stored=3), 1)
    shared.away = False
    await index.agree_on_time(2)
    (job,) = await shared.jobs(2)
    assert (job.tag, job.storage, job.chunks_stored) == (TAG, STORE, 3)
