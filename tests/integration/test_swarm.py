"""Who is let in, and who is not: join, nodes, revoke, and every kind of stranger, on real processes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.crew import Crew, wait_connected
from support.processes import Program, Swarm, wait_until
from support.strangers import hello, keyring_of, knock, link_to, next_message
from support.swarm import SwarmCa

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import LinkLost, NotTrusted, RemoteProtocolError
from protocol.ids import NodeAddress, NodeId, Role, Tag
from protocol.limits import ALPN_JOIN
from runtime.heartbeat import BEAT_SECONDS
from runtime.identity import Credentials, read_private_key
from runtime.link import Link, running
from runtime.real import real_runtime
from runtime.tls import Expected


def members(crew: Crew) -> list[Program]:
    """The three kinds of listeners."""
    return [crew.tracker, crew.storage, crew.daemons[0]]


def nodes_of(program: Program) -> dict[str, dict]:
    """What ``nodes`` says, by node id."""
    return {row["node"]: row for row in program.call("nodes")["nodes"]}


def test_the_tracker_makes_its_swarm_at_its_first_start_and_keeps_it(swarm: Swarm) -> None:
    tracker = swarm.tracker()
    node = tracker.node
    keys = [path for path in tracker.state.rglob("*.pem") if b"PRIVATE KEY" in path.read_bytes()]
    assert keys and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
    tracker.restart()
    assert tracker.node == node


def test_nodes_lists_every_member_with_its_role(crew: Crew) -> None:
    expected = {crew.storage.node: "storage"} | {daemon.node: "peer" for daemon in crew.daemons}
    for program in (crew.tracker, crew.daemons[0]):
        # One shape, whoever is asked.
        rows = program.upswarm("nodes", "--json").json["nodes"]
        roles = {row["node"]: row["role"] for row in rows if row["role"] != "tracker"}
        assert expected.items() <= roles.items()


def test_an_invite_admits_once_and_not_after_its_time(crew: Crew) -> None:
    invite = crew.tracker.upswarm("invite").stdout.strip()
    joined = crew.swarm.upswarm("--home", crew.folder / "once", "join", invite, "--json")
    assert joined.exit_code == 0 and joined.json["role"] == "peer"
    again = crew.swarm.upswarm("--home", crew.folder / "twice", "join", invite)
    assert again.exit_code == 6 and "used" in again.stderr
    late = crew.tracker.call("invite", role="peer", uses=1, expires_seconds=1)["invite"]
    home = crew.folder / "late"
    wait_until(lambda: crew.swarm.upswarm("--home", home, "join", late).exit_code == 6 or home.exists(), "it expired")


def test_a_damaged_invite_is_a_usage_error(crew: Crew) -> None:
    invite = crew.tracker.upswarm("invite").stdout.strip()
    done = crew.swarm.upswarm("--home", crew.folder / "damaged", "join", invite[:-3])
    assert done.exit_code == 2 and invite[20:60] not in done.stderr


def test_a_node_of_another_swarm_is_refused_in_the_handshake(crew: Crew) -> None:
    for role in (Role.PEER, Role.STORAGE, Role.TRACKER):
        foreign = SwarmCa("another").credentials(f"a {role}", role)
        for member in members(crew):
            before = len(member.logged("stranger refused"))
            assert knock(member.address, foreign) == b""
            member.wait_logged("stranger refused", more_than=before)


def test_a_node_without_certificate_is_refused_in_the_handshake(crew: Crew) -> None:
    for member in members(crew):
        before = len(member.logged("stranger refused"))
        assert knock(member.address, None) == b""
        member.wait_logged("stranger refused", more_than=before)


def test_the_join_door_is_the_trackers_alone(crew: Crew) -> None:
    assert knock(crew.tracker.address, None, ALPN_JOIN) != b""
    for member in members(crew)[1:]:
        assert knock(member.address, None, ALPN_JOIN) == b""


def test_a_member_does_not_talk_to_a_tracker_of_another_swarm(crew: Crew) -> None:
    foreign = SwarmCa("another").credentials("a peer", Role.PEER)

    async def dial() -> None:
        async with link_to(foreign, crew.tracker.address):
            raise AssertionError("let in")

    # Refused on our side: their certificate is judged before ours leaves.
    with pytest.raises(NotTrusted):
        trio.run(dial)


def test_a_member_that_no_door_admitted_but_the_authority_signed_is_what_its_certificate_says(crew: Crew) -> None:
    peer = crew.swarm.join(crew.swarm.add("daemon", "plain-peer", []))
    credentials = keyring_of(peer.identity).credentials

    async def claim() -> None:
        async with link_to(credentials, crew.tracker.address) as link:
            await next_message(link, m.Revocations)
            # Our own table forbids it: a hostile node would not ask it.
            link._connection._may_send |= {m.JobUpdate}
            link.post(
                m.JobUpdate(
                    tag=Tag(bytes(32), 1),
                    size_bytes=1,
                    name="false",
                    state=m.JobState.OPEN,
                    reason="",
                    chunks_stored=0,
                    safe=False,
                    uploaders=(),
                    pushed=(),
                )
            )
            with pytest.raises((AssertionError, LinkLost, RemoteProtocolError)):
                await next_message(link, m.WhereAnswer)

    trio.run(claim)
    crew.tracker.wait_logged("peer broke a rule", reason="JobUpdate")
    assert crew.daemons[0].call("nodes")
    with pytest.raises(Exception, match=r"(?i)no|not|nobody"):
        crew.daemons[0].call("show", tag=f"{'00' * 32}-1")


def test_a_peer_that_claims_to_be_storage_is_refused_in_the_handshake(swarm: Swarm) -> None:
    """A false tracker with the true one's key orders a daemon to a false storage node."""
    crew = Crew.of(swarm, daemons=1)
    daemon = crew.daemons[0]
    false_storage = keyring_of(swarm.join(swarm.add("daemon", "false-storage", [])).identity).credentials
    shared = crew.file("f", 3_000_000)
    tag = daemon.call("share", paths=[str(shared)], seconds=30)
    assert tag
    crew.tracker.kill()
    credentials = tracker_credentials(crew.tracker, false_storage)
    handshakes: list[str] = []
    shaken = trio.Event()

    async def play() -> None:
        runtime = real_runtime()
        host, port = crew.tracker.address.rsplit(":", 1)
        listener = await runtime.network.listen(host, int(port))
        trap = await runtime.network.listen("127.0.0.1", 0)

        async def pretend() -> None:
            while True:
                try:
                    await runtime.security.accept(await trap.accept(), false_storage, door=False)
                    handshakes.append("finished")
                except (NotTrusted, LinkLost) as error:
                    handshakes.append(str(error))
                shaken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pretend)
            with trio.fail_after(60):
                stream, peer = await runtime.security.accept(await listener.accept(), credentials, door=False)
                while peer.node != daemon.node:
                    stream.close()
                    stream, peer = await runtime.security.accept(await listener.accept(), credentials, door=False)
                link = Link(stream, peer, Connection(Role.TRACKER, peer.role), dialled=False)
                await link.open(hello("false tracker"))
                async with running(link):
                    beat = await next_message(link, m.Heartbeat)
                    link.post(m.HeartbeatAnswer(number=beat.number, interval_milliseconds=500, inventory_wanted=True))
                    inventory = await next_message(link, m.Inventory)
                    target = NodeAddress(false_storage.node, Role.STORAGE, (trap.address,))
                    link.post(m.Order(tag=inventory.held[0].tag, target=target, lifetime_seconds=60))
                    await shaken.wait()
            nursery.cancel_scope.cancel()
        listener.close()
        trap.close()

    trio.run(play)
    assert "finished" not in handshakes
    wait_until(
        lambda: any("storage was expected" in str(line) for line in daemon.log()), "the daemon says why it refused"
    )


def tracker_credentials(tracker: Program, like: Credentials) -> Credentials:
    """The tracker's own key and certificate, from its folder."""
    keys, certificates = [], []
    for path in sorted(Path(tracker.state).rglob("*.pem")):
        data = path.read_bytes()
        if b"PRIVATE KEY" in data:
            keys.append(read_private_key(data, str(path)))
        if b"BEGIN CERTIFICATE" in data:
            certificates.extend(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(data))
    for key in keys:
        for certificate in certificates:
            try:
                credentials = Credentials.of(key, certificate, like.authorities, like.revocations)
            except NotTrusted:
                continue
            if credentials.role is Role.TRACKER:
                return credentials
    raise AssertionError("no tracker credentials found")


def test_a_revoked_node_is_shut_out_within_a_heartbeat_and_not_let_in_again(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=2)
    villain, other = crew.daemons
    credentials = keyring_of(villain.identity).credentials

    async def watch() -> float:
        async with link_to(credentials, crew.storage.address) as link:
            begin = trio.current_time()
            await trio.to_thread.run_sync(lambda: crew.tracker.upswarm("revoke", villain.node[:10]))
            with trio.fail_after(30):
                async for _ in link.messages():
                    pass
            return trio.current_time() - begin

    # The command itself takes a moment of it.
    assert trio.run(watch) < BEAT_SECONDS + 2
    villain.wait_logged("tracker not connected", reason="revoked")
    rows = nodes_of(crew.tracker)
    assert rows[villain.node]["state"] == "revoked"
    for member in (crew.tracker, crew.storage, other):
        wait_until(lambda member=member: knock(member.address, credentials) == b"", f"{member} refuses it", 15)
        member.wait_logged("stranger refused", reason="revoked")
    # The others go on.
    assert NodeId(other.node) in nodes_of(crew.tracker)
    wait_connected(other)
    assert other.call("status")


def test_an_unknown_node_cannot_be_revoked(crew: Crew) -> None:
    assert crew.tracker.upswarm("revoke", "aaaaaaaaaa", check=False).exit_code == 4


def test_a_node_behind_the_address_of_another_is_noticed_before_our_certificate_leaves(crew: Crew) -> None:
    credentials = keyring_of(crew.daemons[0].identity).credentials

    async def dial() -> None:
        runtime = real_runtime()
        host, port = crew.daemons[1].address.rsplit(":", 1)
        raw = await runtime.network.dial(host, int(port))
        await runtime.security.dial(raw, credentials, Expected(role=Role.STORAGE, node=NodeId(crew.storage.node)))

    with pytest.raises(NotTrusted, match="was expected"):
        trio.run(dial)
