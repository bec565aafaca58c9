"""The join door: where a node without a certificate stands, shows an invite and its key, and becomes a member.

One question, one answer, within a deadline; then the door shuts. Who stands here can say Join and nothing else
(protocol/states.py), in a frame of at most 8 KiB. Whether an invite is good is decided in membership.py; the runtime
counts strangers per address (runtime/links.py). Specification: docs/protocol.md#join.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import LinkLost, RemoteProtocolError, StorageFull
from protocol.ids import NodeAddress, Role
from protocol.invite import join_proof_text
from protocol.limits import HELLO_SECONDS_MAX
from runtime.seam import Runtime, SecureStream
from tracker.membership import Refused
from tracker.registrar import Registrar

log = structlog.get_logger()

NONCE_BYTES = 32
# The answer is small; who does not take it in this time is gone.
ANSWER_SECONDS_MAX = 10.0


def is_proven(join: m.Join, nonce: bytes) -> bool:
    """Whether the joiner has the private key of the public one it shows."""
    try:
        key = Ed25519PublicKey.from_public_bytes(join.public_key)
        key.verify(join.proof, join_proof_text(nonce, join.token))
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass
class DoorCounts:
    """How often the door opened, since the start."""

    joined: int = 0
    refused: int = 0


class Door:
    """The door of one tracker; ``serve`` is the ``ServeDoor`` of runtime/links.py. ``own_address`` says where the
    tracker may be dialled when it is called."""

    def __init__(self, runtime: Runtime, registrar: Registrar, own_address: Callable[[], NodeAddress]) -> None:
        self._runtime = runtime
        self._registrar = registrar
        self._own_address = own_address
        self.counts = DoorCounts()

    async def serve(self, stream: SecureStream) -> None:
        """Let in whoever stands there, or say why not. Never raises for their faults."""
        connection = Connection(Role.TRACKER, None)
        try:
            with trio.fail_after(HELLO_SECONDS_MAX):
                join = await self._ask(stream, connection)
            answer = await self._decide(join, stream.remote)
            with trio.fail_after(ANSWER_SECONDS_MAX):
                await stream.send_all(connection.send(answer))
        except (LinkLost, RemoteProtocolError, trio.TooSlowError) as error:
            self.counts.refused += 1
            log.warning("door shut", remote=stream.remote, reason=str(error) or "too slow")

    async def _ask(self, stream: SecureStream, connection: Connection) -> tuple[m.Join, bytes]:
        nonce = self._runtime.token_bytes(NONCE_BYTES)
        await stream.send_all(connection.send(m.DoorOpen(authority=self._registrar.authority.der, nonce=nonce)))
        while (message := connection.next_message()) is None:
            count = await stream.receive_into(connection.wanted())
            if count == 0:
                raise LinkLost("they went away")
            connection.filled(count)
        if isinstance(message, m.Goodbye):
            raise LinkLost(f"they went away: {message.reason}")
        assert isinstance(message, m.Join)
        return message, nonce

    async def _decide(self, asked: tuple[m.Join, bytes], remote: str) -> m.Joined | m.Failure:
        join, nonce = asked
        try:
            if not is_proven(join, nonce):
                raise Refused("the proof does not fit the key: it must sign this door's nonce and the invite's token")
            member, certificate = await self._registrar.admit(join.token, join.public_key, join.name)
        except Refused as error:
            self.counts.refused += 1
            log.warning("join refused", remote=remote, reason=error.sentence)
            return m.Failure(request=0, code=error.code, reason=error.sentence)
        except StorageFull as error:
            log.error("register cannot grow", reason=str(error))
            return m.Failure(request=0, code="unavailable", reason="the tracker's disk is full; try again later")
        self.counts.joined += 1
        log.info("node joined", node=member.node, role=member.role, name=member.name, remote=remote)
        return m.Joined(
            certificate=certificate,
            revocations=self._registrar.revocations,
            tracker=self._own_address(),
        )
