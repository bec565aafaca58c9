"""A storage node's line is taken for wide; what leaves beside what comes shows whether it is."""

from __future__ import annotations

import pytest
from support.exchange_nodes import Node, some_bytes, swarm_of

from exchange.uplink import Purpose, Wanted
from protocol.limits import KIB, MIB


@pytest.mark.parametrize(("arriving", "waits"), [(0, False), (10 * MIB, True)])
async def test_what_another_one_had_waits_at_a_wide_line_that_hardly_outruns_what_comes(
    arriving: int, waits: bool
) -> None:
    data = some_bytes(1 * MIB)
    holder, first, second = Node(1, wide=True), Node(2), Node(3)
    tag = holder.shelf.put(data).tag
    async with swarm_of(holder, first, second) as connect:
        for getter in (first, second):
            await connect(getter, holder)
        engine = holder.engine
        sessions = [engine.sessions_with(getter.id)[0] for getter in (first, second)]
        for session in sessions:
            session.offer(tag)
        now = engine.now()
        for tenth in range(40):
            engine.uplink._line._flow.left(MIB, now - 4 + tenth / 10)
        engine.received(arriving)
        turns: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine.uplink, "add", lambda *_, again: turns.append(again) or True)
            for session in sessions:
                engine.enqueue(session, Wanted(tag, 0, 0, 64 * KIB), Purpose.OWN)
    assert turns == [False, waits]
