"""A tracker that wants to turn its swarm on a victim: ten thousand peers, and what each can be made to send there."""

from __future__ import annotations

import contextlib
import ssl

from support.swarm import SwarmCa

from daemon.orders import STRANGE_SECONDS, STRANGE_TRIES_MAX, KnockBudget
from protocol.ids import node_id_from_bytes
from protocol.limits import ALPN

PEERS = 10_000
# An order each second for ten minutes, each time for another storage node that is said to be at the victim's address.
ORDERS = int(STRANGE_SECONDS)
VICTIM = "203.0.113.7:443"
CLIENT_HELLO_BYTES_MAX = 2048


def client_hello_bytes() -> int:
    """Return how long the first flight is that a node of ours sends: all that a stranger ever gets of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=SwarmCa().authority.der)
    context.set_alpn_protocols([ALPN])
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return len(outgoing.read())


def test_ten_thousand_peers_knock_at_a_victim_twice_each() -> None:
    names = [node_id_from_bytes(number.to_bytes(32, "big")) for number in range(50)]
    knocks = 0
    for peer in range(PEERS):
        budget = KnockBudget(0.0)
        mine = 0
        # Whoever is told the same again and again need not be simulated each second: the pauses only grow.
        for second in range(peer % 7, ORDERS, 7):
            now = float(second)
            node = names[(peer + second) % len(names)]
            if budget.wait_seconds(now) == 0.0 and budget.may_dial(node, VICTIM, now):
                budget.take(now)
                budget.tried(node, VICTIM, now)
                budget.strange(node, VICTIM, now)
                mine += 1
        assert mine <= STRANGE_TRIES_MAX
        knocks += mine
    assert knocks <= PEERS * STRANGE_TRIES_MAX
    assert client_hello_bytes() <= CLIENT_HELLO_BYTES_MAX
