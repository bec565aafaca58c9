"""A liar is found, struck and shut out, and the transfer completes from the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio
from support.crew import Crew, get, put, share
from support.files import MIB, same_bytes, tag_by_hand
from support.processes import Swarm
from support.strangers import FalseHoldings, FalsePeer, holding_of, keyring_of, manifest_of

from exchange.strikes import STRIKES_MAX


def with_liar(crew: Crew, file: Path, work) -> FalsePeer:
    """Do ``work()`` while a member claims to hold ``file`` and serves other bytes."""
    keyring = keyring_of(crew.swarm.join(crew.swarm.add("daemon", "liar", [])).identity)
    manifest = manifest_of(file)
    peers: list[FalsePeer] = []

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            liar = FalsePeer(keyring, FalseHoldings(manifest), holding_of(manifest, "film.bin"))
            peers.append(liar)
            await nursery.start(liar.run)
            await trio.to_thread.run_sync(work)
            nursery.cancel_scope.cancel()

    trio.run(play)
    return peers[0]


def test_a_liar_among_the_helpers_is_shut_out_and_the_upload_completes(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=1, up_bytes_per_second="4M")
    (uploader,) = crew.daemons
    file = crew.file("film.bin", 20 * MIB)
    results: list[dict] = []
    liar = with_liar(crew, file, lambda: results.append(put(uploader, file)))
    (result,) = results
    assert liar.orders and liar.holdings.blocks_served > 0, "it was ordered, and lied"
    assert result["state"] == "stored" and same_bytes(crew.object_of(result["tag"]), file)
    assert set(result["pushed"]) == {uploader.node}, "wrong bytes are nobody's contribution"
    struck = crew.storage.logged("struck")
    # Chunks that were on their way when it was shut out may bring it further strikes.
    assert [line["shut_out"] for line in struck[:STRIKES_MAX]] == [False] * (STRIKES_MAX - 1) + [True]
    assert {line["node"] for line in struck} == {swarm_node(liar)}, "nobody is struck for another's lie"


def swarm_node(liar: FalsePeer) -> str:
    """Node id of the liar."""
    return liar._links.credentials.node


def test_a_liar_among_the_holders_is_shut_out_and_the_download_completes(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2, up_bytes_per_second="6M")
    holder, getter = crew.daemons
    file = crew.file("film.bin", 20 * MIB)
    share(holder, file)
    target = crew.folder / "film.copy"
    results: list[dict] = []
    liar = with_liar(crew, file, lambda: results.append(get(getter, tag_by_hand(file), target)))
    assert liar.holdings.blocks_served > 0 and same_bytes(target, file)
    assert set(results[0]["from"]) == {holder.node}
    assert getter.logged("struck", node=swarm_node(liar))
    assert not getter.logged("struck", node=holder.node)


def test_a_file_altered_in_place_with_its_times_set_back_is_never_served_as_the_old_one(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=3)
    honest, altered, getter = crew.daemons
    file = crew.file("clip.bin", 12 * MIB)
    copy = crew.folder / "files" / "clip.copy"
    copy.write_bytes(file.read_bytes())
    tag = tag_by_hand(file)
    share(honest, file)
    share(altered, copy)
    before = copy.stat()
    with copy.open("r+b") as writing:
        for chunk in range(12):
            writing.seek(chunk * MIB + 5)
            writing.write(b"lies")
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert copy.stat().st_size == before.st_size and copy.stat().st_mtime_ns == before.st_mtime_ns
    begin = time.monotonic()
    result = get(getter, tag, crew.folder / "clip.got")
    assert same_bytes(crew.folder / "clip.got", file) and set(result["from"]) == {honest.node}
    assert time.monotonic() - begin < 30
