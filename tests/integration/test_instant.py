"""Instant upload: what is stored is not sent again, and who has only digests is granted nothing."""

from __future__ import annotations

import trio
from support.crew import Crew, ledger_rows, put
from support.files import MIB, tag_by_hand
from support.processes import Program, wait_until
from support.strangers import keyring_of, link_to, manifest_of, next_message

from exchange.possession import proof_digest
from protocol import messages as m
from protocol.ids import Role


def traffic_bytes(program: Program) -> int:
    """All bytes of chunks that a daemon has sent, or a storage node received."""
    return program.sent_bytes if program.kind == "daemon" else program.counter("received_bytes")


def test_the_second_put_of_a_stored_file_moves_no_chunk_bytes(crew: Crew) -> None:
    first, second = crew.daemons
    file = crew.file("twice.bin", 20 * MIB)
    copy = crew.folder / "files" / "another name.bin"
    copy.write_bytes(file.read_bytes())
    assert put(first, file)["instant"] is False
    before = traffic_bytes(crew.storage)
    sent_before = traffic_bytes(second)
    result = put(second, copy)
    assert result["instant"] is True and result["state"] == "stored" and result["pushed"] in ({}, {second.node: 0})
    assert traffic_bytes(crew.storage) == before and traffic_bytes(second) == sent_before
    names = {name for (name,) in ledger_rows(crew.storage, "SELECT name FROM files WHERE node = ?", second.node)}
    assert "another name.bin" in names
    again = put(first, file)
    assert again["state"] == "stored" and traffic_bytes(crew.storage) == before


def test_who_has_only_digests_gets_nothing_and_leaves_no_trace(crew: Crew) -> None:
    file = crew.file("secret.bin", 10 * MIB, seed=4)
    put(crew.daemons[0], file)
    manifest = manifest_of(file)
    assert str(manifest.tag) == tag_by_hand(file)
    thief = keyring_of(crew.swarm.join(crew.swarm.add("daemon", "thief", [])).identity).credentials

    async def claim() -> None:
        async with link_to(thief, crew.storage.address, role=Role.STORAGE) as link:
            # Knows tag, size and all digests; has not one byte of the file.
            link.post(m.Propose(request=1, tag=manifest.tag, size_bytes=manifest.size_bytes, name="mine.bin"))
            answer = await next_message(link, m.DeskAnswer)
            assert answer.state is m.DeskState.STORED
            assert len(answer.nonce) == 32 and len(answer.ranges) == 512
            zeros = [bytes(part.length) for part in answer.ranges]
            digest = proof_digest(answer.nonce, thief.node, manifest.tag, zeros)
            link.post(m.Proof(request=2, tag=manifest.tag, digest=digest))
            failure = await next_message(link, m.Failure, m.JobClosed)
            assert isinstance(failure, m.Failure) and failure.code == "refused", failure
            # A challenge counts once: not even the right bytes help now.
            right = read_ranges(file, answer.ranges)
            proof = proof_digest(answer.nonce, thief.node, manifest.tag, right)
            link.post(m.Proof(request=3, tag=manifest.tag, digest=proof))
            assert isinstance(await next_message(link, m.Failure, m.JobClosed), m.Failure)

    trio.run(claim)
    assert ledger_rows(crew.storage, "SELECT * FROM files WHERE node = ?", thief.node) == []
    assert ledger_rows(crew.storage, "SELECT * FROM claims WHERE node = ?", thief.node) == []


def read_ranges(file, ranges) -> list[bytes]:
    """The true bytes of ``ranges``."""
    pieces = []
    with file.open("rb") as reader:
        for part in ranges:
            reader.seek(part.offset)
            pieces.append(reader.read(part.length))
    return pieces


def test_the_proof_of_another_node_is_worth_nothing(crew: Crew) -> None:
    file = crew.file("bound.bin", 2 * MIB, seed=6)
    put(crew.daemons[0], file)
    manifest = manifest_of(file)
    accomplice = keyring_of(crew.swarm.join(crew.swarm.add("daemon", "accomplice", [])).identity).credentials

    async def claim() -> None:
        async with link_to(accomplice, crew.storage.address) as link:
            for request, prover in ((1, crew.daemons[0].node), (3, accomplice.node)):
                link.post(m.Propose(request=request, tag=manifest.tag, size_bytes=manifest.size_bytes, name="mine.bin"))
                answer = await next_message(link, m.DeskAnswer)
                digest = proof_digest(answer.nonce, prover, manifest.tag, read_ranges(file, answer.ranges))
                link.post(m.Proof(request=request + 1, tag=manifest.tag, digest=digest))
                answered = await next_message(link, m.Failure, m.JobClosed)
                assert isinstance(answered, m.JobClosed if prover == accomplice.node else m.Failure)

    trio.run(claim)
    wait_until(
        lambda: ledger_rows(crew.storage, "SELECT name FROM files WHERE node = ?", accomplice.node) == [("mine.bin",)],
        "the one who proved it has it",
    )
