"""A storage node's id at somebody else's address: whoever is sent there knocks twice, and gives nothing away.

A member with a storage node's certificate says that it is to be reached at a victim's address, opens jobs for what the
helpers have, and claims to have room, so that uploads are sent there as well. The victim answers like any
server, and like a node of another swarm.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.crew import Crew, put, share
from support.false_storage import FalseStorage
from support.files import MIB
from support.processes import Swarm, wait_until
from support.strangers import keyring_of, manifest_of
from support.swarm import SwarmCa

from daemon.orders import STRANGE_TRIES_MAX
from protocol import messages as m
from protocol.ids import NodeId, Role
from tracker.matchmaking import lot

HELPERS = 2
CLIENT_HELLO_BYTES_MAX = 2048
# What may follow a ClientHello: a change of cipher and an alert. A certificate alone is ten times as long.
REST_BYTES_MAX = 64
ORDERS_MORE = 4
UPLOADER_KNOCKS_MAX = 12


class Trap:
    """Answers a TLS handshake as a storage node of another swarm, and keeps all it is sent. Every other connection it
    answers not at all."""

    def __init__(self) -> None:
        self.visits: list[tuple[bytes, bytes]] = []  # what came first, and all that came after
        self.finished = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_alpn_protocols(["upswarm/1"])
        other = SwarmCa("another").credentials("trap", Role.STORAGE)
        with tempfile.NamedTemporaryFile() as file:
            file.write(
                other.private_pem() + x509.load_der_x509_certificate(other.certificate).public_bytes(Encoding.PEM)
            )
            file.flush()
            self._context.load_cert_chain(file.name)
        self._server = socket.create_server(("127.0.0.1", 0))
        host, port = self._server.getsockname()
        self.address = f"{host}:{port}"

    @contextlib.contextmanager
    def open(self) -> Iterator[Trap]:
        """Answer while the block lasts."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown(socket.SHUT_RDWR)
            thread.join()
            self._server.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1.0)
                self._answer(connection, silent=len(self.visits) % 2 == 1)

    def _answer(self, connection: socket.socket, *, silent: bool) -> None:
        first = self._read(connection)
        after = b""
        if not silent:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
            incoming.write(first)
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            with contextlib.suppress(OSError):
                connection.sendall(outgoing.read())
        while piece := self._read(connection):
            after += piece
        if not silent:
            incoming.write(after)
            with contextlib.suppress(ssl.SSLError):
                tls.do_handshake()
                self.finished += 1
        self.visits.append((first, after))

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        try:
            return connection.recv(1 << 20)
        except OSError:
            return b""


def check_visits(trap: Trap) -> None:
    """Check that nobody gave away more than a ClientHello."""
    assert trap.finished == 0, "somebody took it for a node of ours"
    for first, after in trap.visits:
        assert first[:1] == b"\x16" and first[5:6] == b"\x01" and len(first) <= CLIENT_HELLO_BYTES_MAX, first
        assert len(after) <= REST_BYTES_MAX, after


def file_for(node: NodeId, crew: Crew) -> Path:
    """Make a file whose lot falls on ``node`` and not on the storage node."""
    for seed in itertools.count(9):
        file = crew.file("own.bin", 2 * MIB, seed)
        tag = manifest_of(file).tag
        if lot(tag, node) > lot(tag, NodeId(crew.storage.node)):
            return file
    raise AssertionError("unreachable")


def test_who_is_sent_to_a_trap_knocks_twice_and_gives_nothing_away(swarm: Swarm) -> None:
    crew = Crew.of(swarm, daemons=HELPERS + 1)
    uploader, *helpers = crew.daemons
    files = [crew.file(f"film-{number}.bin", MIB + number, number) for number in range(4)]
    for helper in helpers:
        share(helper, *files)
    keyring = keyring_of(swarm.join(swarm.add_storage("false")).identity)

    def refuse(propose: m.Propose) -> m.Failure:
        return m.Failure(request=propose.request, code="refused", reason="nobody comes here")

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            false = FalseStorage(keyring, "false", refuse, addresses=(trap.address,))
            await nursery.start(false.run)
            for file in files:
                manifest = manifest_of(file)
                false.tell(
                    m.JobUpdate(
                        tag=manifest.tag, size_bytes=manifest.size_bytes, name=file.name, state=m.JobState.OPEN,
                        reason="", chunks_stored=0, safe=False, uploaders=(uploader.node,), pushed=(),
                    )
                )  # fmt: skip
            most = HELPERS * STRANGE_TRIES_MAX
            await trio.to_thread.run_sync(wait_until, lambda: len(trap.visits) >= most, "they were sent there")
            # Ordered again with every beat, by all of those jobs: they do not come a third time.
            ordered = crew.tracker.counter("orders") + HELPERS * ORDERS_MORE
            await trio.to_thread.run_sync(
                wait_until, lambda: crew.tracker.counter("orders") >= ordered, "they are ordered again and again"
            )
            assert len(trap.visits) == most, trap.visits
            # An upload is sent there too: of two storage nodes with room for it the tracker draws one by its tag.
            own = file_for(false.node, crew)
            await trio.to_thread.run_sync(lambda: put(uploader, own, wait="no"))
            await trio.to_thread.run_sync(wait_until, lambda: len(trap.visits) > most, "the uploader came, too")
            assert len(trap.visits) <= most + UPLOADER_KNOCKS_MAX
            assert not false.proposals, "nobody found another way to it"
            nursery.cancel_scope.cancel()

    trap = Trap()
    with trap.open():
        trio.run(play)
        # The false node is gone, and the job goes where it can.
        wait_until(lambda: crew.storage.logged("stored"), "the upload ends at the honest storage node", 60)
    check_visits(trap)
    assert sum(daemon.sent_bytes for daemon in helpers) == 0
