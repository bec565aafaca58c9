"""Twelve hundred challenges over a real link, answered by who has not the bytes: none is granted, none says how near.

Three kinds of prover, each with all digests: one without a byte, one with nine tenths of the bytes, one with a proof
that somebody made who has them all. What a member learns is what it may know by design: that the tag is stored.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import trio
from support.crew import Crew, ledger_rows, put
from support.files import MIB
from support.strangers import keyring_of, link_to, manifest_of, next_message

from exchange.possession import proof_digest
from protocol import messages as m
from protocol.ids import NodeId
from protocol.manifest import Manifest
from runtime.identity import Credentials

EACH = 400
# As far apart as two ways of being wrong may be in time: both cost the same reads, whatever was answered.
TIMES_APART_MAX = 2.0


async def answers_of(
    credentials: Credentials, address: str, manifest: Manifest, ways: dict[str, Callable[[m.DeskAnswer], bytes]]
) -> dict[str, list[tuple[str, str, float]]]:
    """Ask for ``EACH`` challenges for each way to answer, in turn; return code, reason and seconds of what was said."""
    told: dict[str, list[tuple[str, str, float]]] = {way: [] for way in ways}
    async with link_to(credentials, address) as link:
        for number, way in enumerate([*ways] * EACH):
            link.post(m.Propose(request=2 * number, tag=manifest.tag, size_bytes=manifest.size_bytes, name="mine.bin"))
            answer = await next_message(link, m.DeskAnswer)
            assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.STORED
            digest = ways[way](answer)
            began = time.perf_counter()
            link.post(m.Proof(request=2 * number + 1, tag=manifest.tag, digest=digest))
            said = await next_message(link, m.Failure, m.JobClosed)
            seconds = time.perf_counter() - began
            assert isinstance(said, m.Failure), "granted"
            told[way].append((said.code, said.reason, seconds))
    return told


def test_no_answer_without_the_bytes_is_granted_and_all_are_told_the_same(crew: Crew) -> None:
    file = crew.file("wanted.bin", 3 * MIB + 77, seed=21)
    put(crew.daemons[0], file)
    manifest, data = manifest_of(file), file.read_bytes()
    # Every tenth KiB is missing.
    most = bytearray(data)
    for start in range(0, len(most), 10 * 1024):
        most[start : start + 1024] = bytes(len(most[start : start + 1024]))
    owner = NodeId(crew.daemons[0].node)
    thief = keyring_of(crew.swarm.join(crew.swarm.add("daemon", "thief", [])).identity).credentials

    def over(bytes_: bytes | bytearray, node: NodeId) -> Callable[[m.DeskAnswer], bytes]:
        return lambda asked: proof_digest(
            asked.nonce, node, manifest.tag, [bytes_[one.offset : one.offset + one.length] for one in asked.ranges]
        )

    joined = manifest.joined_digests()
    digests_only = (joined * (len(data) // len(joined) + 1))[: len(data)]
    ways = {
        "digests only": over(digests_only, thief.node),
        "nine tenths of the bytes": over(most, thief.node),
        "somebody else's proof": over(data, owner),
    }
    told = trio.run(answers_of, thief, crew.storage.address, manifest, ways)
    assert {(code, reason) for answers in told.values() for code, reason, _ in answers} == {
        ("refused", "your answer does not show that you have this file; propose again")
    }
    medians = {way: statistics.median(seconds for _, _, seconds in answers) for way, answers in told.items()}
    print({way: f"{1000 * seconds:.2f} ms" for way, seconds in medians.items()})
    assert max(medians.values()) <= TIMES_APART_MAX * min(medians.values()), medians
    for table in ("files", "claims"):
        assert ledger_rows(crew.storage, f"SELECT * FROM {table} WHERE node = ?", thief.node) == []
