"""The wire over real sockets: versions and features that do not exist yet, and messages nobody knows yet."""

from __future__ import annotations

import ssl

import msgpack
import trio
from support.crew import Crew
from support.processes import wait_until
from support.strangers import (
    hello,
    is_hung_up,
    keyring_of,
    link_to,
    next_message,
    receive_message,
    tls_socket,
)

from protocol import messages as m
from protocol.codec import encode
from protocol.frames import frame
from protocol.limits import PROTOCOL_VERSION


def newcomer(crew: Crew, name: str):
    """Credentials of a member that is no daemon."""
    return keyring_of(crew.swarm.join(crew.swarm.add("daemon", name, [])).identity).credentials


def hear_pong(tls: ssl.SSLSocket) -> m.Message | None:
    """Say Ping and return what answers it; other messages are skipped."""
    tls.sendall(frame(encode(m.Ping(number=41))))
    answer = receive_message(tls)
    while answer is not None and not isinstance(answer, m.Pong):
        answer = receive_message(tls)
    return answer


def test_a_higher_version_and_unknown_features_are_spoken_with(crew: Crew) -> None:
    credentials = newcomer(crew, "from-the-future")
    greeting = hello("future", version=PROTOCOL_VERSION + 1, features=("teleport/9", "quantum"))
    for program in (crew.tracker, crew.storage, crew.daemons[0]):
        with tls_socket(program.address, credentials) as tls:
            theirs = receive_message(tls)
            assert isinstance(theirs, m.Hello) and theirs.version == PROTOCOL_VERSION
            assert not set(theirs.features) & set(greeting.features)
            tls.sendall(frame(encode(greeting)))
            assert hear_pong(tls) == m.Pong(number=41)


def test_an_unknown_message_that_is_not_critical_is_ignored(crew: Crew) -> None:
    credentials = newcomer(crew, "talkative")
    for program in (crew.tracker, crew.storage, crew.daemons[0]):
        with tls_socket(program.address, credentials) as tls:
            assert isinstance(receive_message(tls), m.Hello)
            tls.sendall(frame(encode(hello())))
            tls.sendall(frame(msgpack.packb([200, "news", b"from", [7, None]])))
            assert hear_pong(tls) == m.Pong(number=41)


def test_an_unknown_message_that_is_critical_ends_the_link_with_a_reason(crew: Crew) -> None:
    credentials = newcomer(crew, "pushy")
    for program in (crew.tracker, crew.storage, crew.daemons[0]):
        before = len(program.logged("peer broke a rule"))
        with tls_socket(program.address, credentials) as tls:
            assert isinstance(receive_message(tls), m.Hello)
            tls.sendall(frame(encode(hello())))
            tls.sendall(frame(msgpack.packb([99, 1])))
            said: list[m.Message | None] = []
            while not said or said[-1] is not None:
                said.append(receive_message(tls))
            goodbyes = [one for one in said if isinstance(one, m.Goodbye)]
            assert goodbyes and goodbyes[0].code == "protocol-error" and "99" in goodbyes[0].reason
        program.wait_logged("peer broke a rule", more_than=before)


def test_a_message_before_hello_is_refused(crew: Crew) -> None:
    credentials = newcomer(crew, "hasty")
    for program in (crew.tracker, crew.storage, crew.daemons[0]):
        before = len(program.logged("link refused"))
        with tls_socket(program.address, credentials) as tls:
            tls.sendall(frame(encode(m.Ping(number=1))))
            assert is_hung_up(tls)
        program.wait_logged("link refused", more_than=before)


def test_what_a_member_says_in_a_later_version_of_a_message_is_read_as_far_as_it_is_known(crew: Crew) -> None:
    credentials = newcomer(crew, "longer")

    async def ask() -> m.Message:
        async with link_to(credentials, crew.tracker.address) as link:
            link.post(m.ListNodes(request=5, after=None))
            return await next_message(link, m.NodesAnswer)

    answer = trio.run(ask)
    assert isinstance(answer, m.NodesAnswer)
    assert crew.storage.node in {record.node for record in answer.nodes}
    wait_until(lambda: crew.tracker.call("status"), "the tracker is well")
