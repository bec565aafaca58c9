"""Two links, or a link and a raw wire, without handshakes: for tests of what is said on a link."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from protocol import messages as m
from protocol.connection import Connection
from protocol.ids import NodeId, Role, Tag, node_id_from_bytes
from protocol.limits import ALPN
from runtime.identity import Peer
from runtime.link import Link, running
from support.memory_network import MemoryHub, MemoryStream
from support.plain_security import PlainStream

SWARM = "swarm"


def node(name: str) -> NodeId:
    """A node id that belongs to nobody."""
    return node_id_from_bytes(hashlib.sha256(name.encode()).digest())


def some_tag(name: str = "file", chunks: int = 8) -> Tag:
    """A tag of nothing."""
    return Tag(hashlib.sha256(name.encode()).digest(), chunks)


def some_hello(name: str = "someone", *, version: int = 1, features: tuple[str, ...] = ()) -> m.Hello:
    """What somebody says first."""
    return m.Hello(version=version, features=features, name=name, agent="test", addresses=())


async def stream_pair(seed: int = 0, *, splits: bool = True) -> tuple[MemoryStream, MemoryStream]:
    """Both ends of a connection; the dialling one first."""
    network = MemoryHub(seed, splits=splits).host("127.0.0.1")
    listener = await network.listen("127.0.0.1", 4100)
    dialled = await network.dial("127.0.0.1", 4100)
    accepted = await listener.accept()
    listener.close()
    assert isinstance(dialled, MemoryStream) and isinstance(accepted, MemoryStream)
    return dialled, accepted


def link_over(stream: MemoryStream, ours: Role, theirs: Role, name: str, *, dialled: bool) -> Link:
    """A link that takes the other end to be ``theirs``."""
    peer = Peer(node(name), theirs, SWARM)
    return Link(PlainStream(stream, ALPN, None), peer, Connection(ours, theirs), dialled=dialled)


@asynccontextmanager
async def link_pair(
    ours: Role = Role.PEER, theirs: Role = Role.PEER, *, seed: int = 0, splits: bool = True
) -> AsyncIterator[tuple[Link, Link, MemoryStream]]:
    """Two running links that have said Hello, and the wire between them (its dialling end)."""
    dialled, accepted = await stream_pair(seed, splits=splits)
    one = link_over(dialled, ours, theirs, "accepted", dialled=True)
    other = link_over(accepted, theirs, ours, "dialled", dialled=False)
    async with trio.open_nursery() as hellos:
        hellos.start_soon(one.open, some_hello("one"))
        hellos.start_soon(other.open, some_hello("other"))
    async with running(one), running(other):
        yield one, other, dialled
