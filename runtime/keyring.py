"""The identity folder of a node: its key, its certificate, whom it trusts, and where its tracker was.

    key.pem           0600, the private key; never leaves this machine, is refused when others can read it
    certificate.pem   ours; there last, so that its presence says "joined"
    authority.pem     the swarm's authorities, ours first
    revocations.der   who was shut out, signed by an authority
    tracker.json      {"node": id, "addresses": ["host:port", ...], "others": [as many of these, when there are more]}
    name.txt          what this node was called when it joined; for people

Every file is replaced as a whole and durably: after a crash it is the old one or the new one. Who may be a member is
not decided here but in identity.py; how one becomes a member is in join.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.errors import ConfigError, NotTrusted
from protocol.ids import NodeAddress, Role, parse_address, parse_node_id
from protocol.limits import ADDRESSES_MAX, REVOCATIONS_BYTES_MAX, TRACKERS_MAX
from runtime.identity import Credentials, read_private_key
from runtime.links import shorten
from runtime.seam import Disk, Runtime

KEY = "key.pem"
CERTIFICATE = "certificate.pem"
AUTHORITY = "authority.pem"
REVOCATIONS = "revocations.der"
TRACKER = "tracker.json"
NAME = "name.txt"

_PEM_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Keyring:
    """Who a node is, whom it trusts, where its trackers answer, and what people call it (may be empty)."""

    folder: Path
    credentials: Credentials
    tracker: NodeAddress
    name: str = ""
    others: tuple[NodeAddress, ...] = ()  # further trackers

    @property
    def trackers(self) -> tuple[NodeAddress, ...]:
        """All of them."""
        return (self.tracker, *self.others)


async def load_keyring(runtime: Runtime, folder: Path) -> Keyring:
    """Return what the identity folder holds.

    Raises:
        ConfigError: there is no identity, or a file of it cannot be used; the sentence names the file.
    """
    return await runtime.run_sync(_load, runtime.disk, folder)


async def save_keyring(runtime: Runtime, keyring: Keyring) -> None:
    """Write all files of ``keyring``; durable when it returns. The certificate comes last.

    Raises:
        StorageFull, StorageBroken: what was there before still is, or the folder counts as not joined.
    """

    def save() -> None:
        disk, credentials = runtime.disk, keyring.credentials
        disk.make_folder(keyring.folder)
        disk.write_small(keyring.folder / KEY, credentials.private_pem(), mode=0o600)
        disk.write_small(keyring.folder / AUTHORITY, b"".join(map(_pem, credentials.authorities)), mode=0o644)
        disk.write_small(keyring.folder / REVOCATIONS, credentials.revocations, mode=0o644)
        disk.write_small(keyring.folder / TRACKER, _trackers_json(keyring.trackers), mode=0o644)
        disk.write_small(keyring.folder / NAME, keyring.name.encode("utf-8"), mode=0o644)
        disk.write_small(keyring.folder / CERTIFICATE, _pem(credentials.certificate), mode=0o644)

    await runtime.run_sync(save)


async def remove_keyring(runtime: Runtime, folder: Path) -> None:
    """Leave the swarm: remove every file of the identity. The certificate goes first and the key last, so that a crash
    in between leaves a folder that counts as not joined. Nothing there is fine.
    """

    def remove() -> None:
        for name in (CERTIFICATE, NAME, TRACKER, REVOCATIONS, AUTHORITY, KEY):
            runtime.disk.remove(folder / name)
        try:
            runtime.disk.sync_folder(folder)
        except FileNotFoundError:
            return

    if await runtime.run_sync(_exists, runtime.disk, folder):
        await runtime.run_sync(remove)


async def is_joined(runtime: Runtime, folder: Path) -> bool:
    """Whether the folder holds a certificate."""
    return await runtime.run_sync(_exists, runtime.disk, folder / CERTIFICATE)


async def load_or_create_key(runtime: Runtime, folder: Path) -> Ed25519PrivateKey:
    """Return the folder's key; a new one, durable already, when it has none. A join that crashed begins again with it.

    Raises:
        ConfigError: there is one that cannot be used.
        StorageFull, StorageBroken: a new one could not be written.
    """

    def load_or_create() -> Ed25519PrivateKey:
        try:
            return _load_key(runtime.disk, folder)
        except FileNotFoundError:
            key = Ed25519PrivateKey.from_private_bytes(runtime.token_bytes(32))
            runtime.disk.make_folder(folder)
            runtime.disk.write_small(folder / KEY, _private_pem(key), mode=0o600)
            return key

    return await runtime.run_sync(load_or_create)


class KeyringKeeper:
    """Keeps the folder up with what the tracker tells: renewed certificates, newer revocations, other addresses.

    Calls may overlap; each writes what is newest then, so that an older state never replaces a newer one.
    """

    def __init__(self, runtime: Runtime, keyring: Keyring) -> None:
        self.keyring = keyring
        self._runtime = runtime
        self._turn = trio.Lock()
        self._written = keyring

    async def keep_credentials(self, credentials: Credentials) -> None:
        """Make ``credentials`` durable. Raises ``StorageFull`` or ``StorageBroken``."""
        self.keyring = replace(self.keyring, credentials=credentials)
        await self._write()

    async def keep_trackers(self, trackers: tuple[NodeAddress, ...]) -> None:
        """Make the trackers, and where they may be dialled, durable. Raises as above."""
        self.keyring = replace(self.keyring, tracker=trackers[0], others=trackers[1:])
        await self._write()

    async def _write(self) -> None:
        async with self._turn:
            keyring, before = self.keyring, self._written
            changed: list[tuple[str, bytes]] = []
            if keyring.credentials.revocations != before.credentials.revocations:
                changed.append((REVOCATIONS, keyring.credentials.revocations))
            # In this order: what is newer is trusted by what is written before it, wherever we are killed.
            if keyring.credentials.authorities != before.credentials.authorities:
                changed.append((AUTHORITY, b"".join(map(_pem, keyring.credentials.authorities))))
            if keyring.credentials.certificate != before.credentials.certificate:
                changed.append((CERTIFICATE, _pem(keyring.credentials.certificate)))
            if keyring.trackers != before.trackers:
                changed.append((TRACKER, _trackers_json(keyring.trackers)))

            def write() -> None:
                for name, data in changed:
                    self._runtime.disk.write_small(keyring.folder / name, data, mode=0o644)

            if changed:
                await self._runtime.run_sync(write)
            self._written = keyring


# --- files ---


def _load(disk: Disk, folder: Path) -> Keyring:
    if not _exists(disk, folder / CERTIFICATE):
        raise ConfigError(f"{folder}: this node is in no swarm yet, not joined: run upswarm join INVITE")
    try:
        key = _load_key(disk, folder)
        certificates = _certificates(disk.read_small(folder / CERTIFICATE, _PEM_BYTES_MAX), folder / CERTIFICATE)
        authorities = _certificates(disk.read_small(folder / AUTHORITY, _PEM_BYTES_MAX), folder / AUTHORITY)
        revocations = disk.read_small(folder / REVOCATIONS, REVOCATIONS_BYTES_MAX)
        trackers = _read_trackers(disk.read_small(folder / TRACKER, _PEM_BYTES_MAX), folder / TRACKER)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: {error.strerror or error}; restore it, or run upswarm leave and join again"
        ) from error
    try:
        credentials = Credentials.of(key, certificates[0], authorities, revocations)
    except NotTrusted as error:
        raise ConfigError(f"{folder}: its files do not fit each other: {error}; restore them, or join again") from error
    return Keyring(folder, credentials, trackers[0], _read_name(disk, folder / NAME), trackers[1:])


def _load_key(disk: Disk, folder: Path) -> Ed25519PrivateKey:
    return read_private_key(disk.read_secret(folder / KEY), str(folder / KEY))


def _exists(disk: Disk, path: Path) -> bool:
    try:
        disk.status(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    return True


def _certificates(pem: bytes, where: Path) -> tuple[bytes, ...]:
    try:
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise ConfigError(f"{where}: not a certificate in PEM ({error}); restore it, or join again") from error


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_name(disk: Disk, path: Path) -> str:
    try:
        return shorten(disk.read_small(path, _PEM_BYTES_MAX).decode("utf-8", "replace").strip())
    except OSError:
        return ""  # Only for people: whoever joined before names were kept, or lost this file, is none the worse.


def _trackers_json(trackers: tuple[NodeAddress, ...]) -> bytes:
    written = [{"node": tracker.node, "addresses": list(tracker.addresses)} for tracker in trackers]
    # The first one stands where a node of an older version looks for the only one.
    others = {"others": written[1:]} if written[1:] else {}
    return json.dumps(written[0] | others, indent=2).encode("utf-8") + b"\n"


def _read_trackers(data: bytes, where: Path) -> tuple[NodeAddress, ...]:
    try:
        raw = json.loads(data)
        first = _read_tracker(raw)
        others = raw.get("others", [])
        if not isinstance(others, list):
            raise ValueError("others: a list was expected")
        return (first, *map(_read_tracker, others[: TRACKERS_MAX - 1]))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f'{where}: {error}; {{"node": "ID", "addresses": ["HOST:PORT"]}} would be right, or join again'
        ) from error


def _read_tracker(raw: object) -> NodeAddress:
    if not isinstance(raw, dict) or not isinstance(raw.get("addresses"), list):
        raise ValueError("an object was expected")
    addresses = tuple(str(text) for text in raw["addresses"][:ADDRESSES_MAX])
    for text in addresses:
        parse_address(text)
    return NodeAddress(parse_node_id(str(raw.get("node"))), Role.TRACKER, addresses)
