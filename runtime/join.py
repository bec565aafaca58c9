"""How a machine becomes a member: it stands at the tracker's join door with an invite, and leaves with a certificate.

The joiner speaks only after it knows whom it speaks to: the authority that the door shows must be the one in the
invite, and the certificate of the handshake must be issued by it to a tracker. The key is written before anything is
said, and used again by the next try, so that a join which crashed anywhere can be repeated with the same invite: to the
tracker it is the same node.

Who may join is decided by the tracker (tracker/membership.py). Specification: docs/protocol.md#join.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import messages as m
from protocol.connection import Connection
from protocol.errors import CommandError, LinkLost, NotTrusted, RemoteProtocolError
from protocol.ids import NodeAddress, Role, parse_address
from protocol.invite import Invite, join_proof_text
from protocol.limits import ADDRESSES_MAX
from runtime.identity import Credentials, Peer, judge, raw_public_key
from runtime.keyring import Keyring, is_joined, load_or_create_key, save_keyring
from runtime.links import shorten
from runtime.seam import Runtime, SecureStream

log = structlog.get_logger()

# Everything at one address: connecting, the handshake, two short messages, and the tracker's disk.
JOIN_SECONDS_MAX = 30.0
_EXIT_CODES = {"unavailable": 5}
_UNSPECIFIED = ("", "0.0.0.0", "::", "*")


async def join_swarm(runtime: Runtime, invite: Invite, folder: Path, name: str) -> Keyring:
    """Join the swarm of ``invite`` and return the new identity, kept in ``folder``. ``name`` is for people.

    Raises:
        CommandError: this machine is a member already, or the tracker refused (its code and reason).
        NotTrusted: who answers is not the tracker of the invite.
        LinkLost: nobody answers; try again with the same invite.
        ConfigError: the folder holds a key that cannot be used.
        StorageFull, StorageBroken: the identity could not be kept; try again with the same invite.
    """
    if await is_joined(runtime, folder):
        raise CommandError("already-joined", f"{folder} holds an identity already: run upswarm leave first", 6)
    key = await load_or_create_key(runtime, folder)
    failure: LinkLost | NotTrusted = LinkLost("the invite names no address")
    for address in invite.addresses:
        try:
            keyring = await _join_at(runtime, address, invite, folder, name, key)
        except (LinkLost, NotTrusted) as error:
            log.info("no join there", address=address, reason=str(error))
            # What a wrong tracker says is worth more to the user than that another address is silent.
            if not isinstance(failure, NotTrusted):
                failure = error
            continue
        await save_keyring(runtime, keyring)
        log.info("joined", swarm=keyring.credentials.swarm, node=keyring.credentials.node)
        return keyring
    raise failure


async def _join_at(
    runtime: Runtime, address: str, invite: Invite, folder: Path, name: str, key: Ed25519PrivateKey
) -> Keyring:
    host, port = parse_address(address)
    try:
        with trio.fail_after(JOIN_SECONDS_MAX):
            stream = await runtime.security.dial_door(await runtime.network.dial(host, port))
            try:
                authority, tracker, joined = await _speak(stream, invite, name, key)
            finally:
                stream.close()
    except trio.TooSlowError as error:
        raise LinkLost(f"{address}: took longer than {JOIN_SECONDS_MAX:.0f} s") from error
    except RemoteProtocolError as error:
        raise LinkLost(f"{address}: {error}") from error
    credentials = Credentials.of(key, joined.certificate, (authority,), joined.revocations)
    if credentials.role is not invite.role:
        raise NotTrusted(f"{address}: a certificate of a {credentials.role}, the invite was for a {invite.role}")
    return Keyring(folder, credentials, _reachable(tracker, address, joined.tracker), shorten(name))


async def _speak(
    stream: SecureStream, invite: Invite, name: str, key: Ed25519PrivateKey
) -> tuple[bytes, Peer, m.Joined]:
    connection = Connection(None, None)
    door = await _receive(stream, connection)
    if not isinstance(door, m.DoorOpen):
        raise RemoteProtocolError(f"{type(door).__name__} where DoorOpen was expected")
    tracker = _judge_door(stream, invite, door)
    public_key = raw_public_key(key.public_key())
    proof = key.sign(join_proof_text(door.nonce, invite.token))
    await stream.send_all(
        connection.send(m.Join(token=invite.token, public_key=public_key, proof=proof, name=shorten(name)))
    )
    answer = await _receive(stream, connection)
    if isinstance(answer, m.Failure):
        raise CommandError(answer.code, answer.reason, _EXIT_CODES.get(answer.code, 6))
    if not isinstance(answer, m.Joined):
        raise RemoteProtocolError(f"{type(answer).__name__} where Joined was expected")
    if answer.tracker.node != tracker.node:
        raise RemoteProtocolError("it names another tracker than itself")
    return door.authority, tracker, answer


def _judge_door(stream: SecureStream, invite: Invite, door: m.DoorOpen) -> Peer:
    if hashlib.sha256(door.authority).digest() != invite.authority:
        raise NotTrusted(f"{stream.remote}: the tracker of another swarm than the invite's answers there")
    if stream.certificate is None:
        raise NotTrusted(f"{stream.remote}: shows no certificate")
    # The handshake proved the key of this certificate; the authority, which the invite names, says whose it is.
    peer = judge(stream.certificate, (door.authority,), frozenset())
    if peer.role is not Role.TRACKER:
        raise NotTrusted(f"{stream.remote}: a {peer.role} answers where a tracker was expected")
    return peer


async def _receive(stream: SecureStream, connection: Connection) -> m.Message:
    while True:
        message = connection.next_message()
        if isinstance(message, m.Goodbye):
            raise LinkLost(f"{stream.remote} refused: {message.code}: {message.reason}")
        if message is not None:
            return message
        count = await stream.receive_into(connection.wanted())
        if count == 0:
            raise LinkLost(f"{stream.remote} hung up")
        connection.filled(count)


def _reachable(tracker: Peer, address: str, told: NodeAddress) -> NodeAddress:
    # The address that worked comes first; what the tracker knows of itself may be worth nothing from here ("0.0.0.0").
    others = [text for text in told.addresses if text != address and parse_address(text)[0] not in _UNSPECIFIED]
    return NodeAddress(tracker.node, Role.TRACKER, (address, *others)[:ADDRESSES_MAX])
