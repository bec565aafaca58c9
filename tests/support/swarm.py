"""A throwaway swarm: an authority and credentials of any role, all made from one seed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.ids import NodeId, Role, node_id_of_key
from runtime.identity import Credentials, raw_public_key
from tracker.authority import create_authority


class SwarmCa:
    """An authority. The same seed makes the same swarm, the same name in it the same key."""

    def __init__(self, seed: str = "swarm", now: float | None = None) -> None:
        self.seed = seed
        self.now = time.time() if now is None else now
        self.authority = create_authority(hashlib.sha256(f"authority {seed}".encode()).digest(), self.now)

    def key(self, name: str) -> Ed25519PrivateKey:
        """The private key of the node called ``name``."""
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest())

    def node(self, name: str) -> NodeId:
        """Its node id."""
        return node_id_of_key(raw_public_key(self.key(name).public_key()))

    def revocations(self, number: int = 1, revoked: Iterable[str] = ()) -> bytes:
        """A revocation list (DER) of the nodes of these names."""
        return self.authority.sign_revocations([self.node(name) for name in revoked], number, self.now)

    def credentials(
        self,
        name: str,
        role: Role = Role.PEER,
        *,
        number: int = 1,
        revoked: Iterable[str] = (),
        issued: float | None = None,
    ) -> Credentials:
        """Credentials of the node called ``name``, who knows of these revoked ones. ``issued``: wall clock."""
        key = self.key(name)
        certificate = self.authority.issue(
            raw_public_key(key.public_key()), role, self.now if issued is None else issued
        )
        return Credentials.of(key, certificate, (self.authority.der,), self.revocations(number, revoked))
