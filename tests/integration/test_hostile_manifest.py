"""A manifest with the right digests and a wrong size, over the wire: transfers end well, nobody honest is struck."""

from __future__ import annotations

import trio
from support.crew import Crew, put, share
from support.files import MIB, same_bytes
from support.processes import Swarm, wait_until
from support.strangers import FalseHoldings, FalsePeer, holding_of, keyring_of, link_to, manifest_of, next_message

from protocol import messages as m
from protocol.ids import NodeAddress, Role, parse_node_id
from runtime.keyring import Keyring


def liar_of(crew: Crew) -> Keyring:
    return keyring_of(crew.swarm.join(crew.swarm.add("daemon", "liar", [])).identity)


def test_a_job_opened_with_a_wrong_size_does_not_keep_the_file_out(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1)
    (honest,) = crew.daemons
    file = crew.file("film.bin", 6 * MIB + 100)
    keyring, right = liar_of(crew), manifest_of(file)
    wrong = right.of_size(right.size_bytes + 4321)
    results: list[dict] = []

    async def play() -> None:
        async with trio.open_nursery() as nursery, link_to(keyring.credentials, crew.storage.address) as link:
            link.post(m.Propose(request=1, tag=wrong.tag, size_bytes=wrong.size_bytes, name="mine.bin"))
            answer = await next_message(link, m.DeskAnswer)
            assert isinstance(answer, m.DeskAnswer) and answer.state is m.DeskState.NEW
            link.post(m.ManifestIs(tag=wrong.tag, size_bytes=wrong.size_bytes, digests=wrong.joined_digests()))
            liar = FalsePeer(keyring, FalseHoldings(wrong), holding_of(wrong, "mine.bin"))
            await nursery.start(liar.run)
            storage = NodeAddress(parse_node_id(crew.storage.node), Role.STORAGE, (crew.storage.address,))
            await liar.offer_to(storage, wrong.tag)
            await trio.to_thread.run_sync(crew.storage.wait_logged, "job open")
            results.append(await trio.to_thread.run_sync(put, honest, file))
            nursery.cancel_scope.cancel()

    trio.run(play)
    (result,) = results
    assert result["state"] == "stored" and same_bytes(crew.object_of(result["tag"]), file)
    assert result["size"] == right.size_bytes
    assert crew.storage.logged("size disputed") and crew.storage.logged("size refuted")
    assert {line["node"] for line in crew.storage.logged("struck")} <= {keyring.credentials.node}


def test_a_download_begun_with_a_wrong_size_ends_with_the_right_one(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2)
    holder, getter = crew.daemons
    file = crew.file("film.bin", 5 * MIB + 77)
    keyring, right = liar_of(crew), manifest_of(file)
    wrong = right.of_size(5 * MIB + 1)
    target = crew.folder / "film.copy"

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            liar = FalsePeer(keyring, FalseHoldings(wrong), holding_of(wrong, "film.bin"))
            await nursery.start(liar.run)
            getting = await trio.to_thread.run_sync(lambda: getter.begin("get", str(right.tag), "-o", target, "--json"))
            # Nobody but the liar can have told it what the file is.
            await trio.to_thread.run_sync(wait_until, lambda: liar.holdings.blocks_served > 0, "it has the liar's word")
            await trio.to_thread.run_sync(share, holder, file)
            done = await trio.to_thread.run_sync(getting.wait)
            assert done.exit_code == 0 and done.json["size"] == right.size_bytes, done
            nursery.cancel_scope.cancel()

    trio.run(play)
    assert same_bytes(target, file)
    assert getter.logged("size refuted")
    assert {line["node"] for line in getter.logged("struck")} <= {keyring.credentials.node}


def test_a_right_size_that_somebody_disputes_is_proven_and_stays(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="2M")
    (honest,) = crew.daemons
    file = crew.file("film.bin", 8 * MIB + 5)
    keyring, right = liar_of(crew), manifest_of(file)
    wrong = right.of_size(right.size_bytes + 1)

    async def play() -> None:
        putting = honest.begin("put", file, "--json")
        await trio.to_thread.run_sync(crew.storage.wait_logged, "job open")
        async with link_to(keyring.credentials, crew.storage.address) as link:
            link.post(m.Propose(request=1, tag=wrong.tag, size_bytes=wrong.size_bytes, name="mine.bin"))
            failure = await next_message(link, m.Failure, m.DeskAnswer)
            # Busy while nothing is proven; by chance the last chunk is there already.
            assert isinstance(failure, m.Failure) and failure.code in ("busy", "refused"), failure
            done = await trio.to_thread.run_sync(putting.wait)
            assert done.exit_code == 0 and done.json["state"] == "stored", done
            # Now that it is proven the answer is another.
            link.post(m.Propose(request=2, tag=wrong.tag, size_bytes=wrong.size_bytes, name="mine.bin"))
            failure = await next_message(link, m.Failure, m.DeskAnswer)
            assert isinstance(failure, m.Failure) and failure.code == "refused", failure

    trio.run(play)
    assert not crew.storage.logged("size refuted")
    assert not crew.storage.logged("struck")
