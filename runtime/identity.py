"""Who a node is: key, node id, certificate; and who another node is, judged from its certificate.

``judge`` is the one place that decides whether a certificate names a member we may talk to. It runs before the first
application byte on both sides (on the dialling side even before our own certificate leaves). OpenSSL has checked chain
and dates by then; ``judge`` checks the signature once more (it is cheap, and the plain transport of simulations has no
OpenSSL), then swarm, role, node id and revocation.

A certificate's serial number is made of the first 19 bytes of its node id, so that the revocation list (an ordinary
X.509 CRL, signed by the swarm's authority) names nodes, however often their certificates were renewed.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from protocol.errors import ConfigError, NotTrusted
from protocol.ids import NodeId, Role, node_id_from_bytes, node_id_of_key, node_id_to_bytes

_AUTHORITY_PURPOSE = b"upswarm authority 1"
_SERIAL_BYTES = 19  # RFC 5280 §4.1.2.2: at most 20 octets, positive

# All that cryptography raises for certificates and lists that are damaged, odd or of another kind.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, proven."""

    node: NodeId
    role: Role
    swarm: str


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Credentials:
    """A node's own identity, and whom it trusts. Replaced as a whole when anything of it changes."""

    key: Ed25519PrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)  # DER
    authorities: tuple[bytes, ...] = field(repr=False)  # DER, ours first
    revocations: bytes = field(repr=False)  # DER CRL
    peer: Peer  # ourselves, as others see us
    revocations_number: int
    revoked_serials: frozenset[int] = field(repr=False)

    @classmethod
    def of(
        cls, key: Ed25519PrivateKey, certificate: bytes, authorities: tuple[bytes, ...], revocations: bytes
    ) -> Credentials:
        """Return credentials whose parts fit each other.

        Raises:
            NotTrusted: they do not; the sentence says which.
        """
        peer = judge(certificate, authorities, frozenset())
        if peer.node != node_id_of_key(raw_public_key(key.public_key())):
            raise NotTrusted("the certificate belongs to another key")
        number, serials = read_revocations(revocations, authorities)
        return cls(key, certificate, authorities, revocations, peer, number, serials)

    @property
    def node(self) -> NodeId:
        """Our node id."""
        return self.peer.node

    @property
    def role(self) -> Role:
        """Our role."""
        return self.peer.role

    @property
    def swarm(self) -> str:
        """Our swarm's id."""
        return self.peer.swarm

    def with_revocations(self, revocations: bytes) -> Credentials:
        """Return these with a newer list; itself when the list is not newer.

        Raises:
            NotTrusted: no authority of ours signed it.
        """
        number, serials = read_revocations(revocations, self.authorities)
        if number <= self.revocations_number:
            return self
        return replace(self, revocations=revocations, revocations_number=number, revoked_serials=serials)

    def with_authorities(self, authorities: tuple[bytes, ...], proof: bytes, revocations: bytes) -> Credentials:
        """Return these trusting ``authorities`` (DER) instead; itself when it does already. One that is new must be of
        our swarm, and vouched for (``proof``) by one that we trust now.

        Raises:
            NotTrusted: nobody we trust vouches for one, or our own certificate would be nobody's.
        """
        for authority in authorities:
            if authority not in self.authorities:
                self._check_vouched(authority, proof)
        if authorities == self.authorities:
            return self.with_revocations(revocations)
        number, _ = read_revocations(revocations, authorities)
        if number < self.revocations_number:
            raise NotTrusted(f"a list of revocations from before: {number}, {self.revocations_number} is known")
        return Credentials.of(self.key, self.certificate, authorities, revocations)

    def _check_vouched(self, authority: bytes, proof: bytes) -> None:
        try:
            swarm = swarm_of(x509.load_der_x509_certificate(authority))
        except _UNREADABLE as error:
            raise NotTrusted(f"an authority that is none: {error}") from error
        if swarm != self.swarm:
            raise NotTrusted(f"an authority of swarm {swarm[:8]}")
        for known in self.authorities:
            key = x509.load_der_x509_certificate(known).public_key()
            if isinstance(key, Ed25519PublicKey):
                with contextlib.suppress(InvalidSignature):
                    key.verify(proof, authority_proof_text(authority))
                    return
        raise NotTrusted("an authority that nobody we trust vouches for")

    @property
    def of_the_newest(self) -> bool:
        """Whether our certificate is of the last of our authorities."""
        try:
            judge(self.certificate, self.authorities[-1:], frozenset())
        except NotTrusted:
            return False
        return True

    def with_certificate(self, certificate: bytes) -> Credentials:
        """Return these with a renewed certificate.

        Raises:
            NotTrusted: it is not ours.
        """
        return Credentials.of(self.key, certificate, self.authorities, self.revocations)

    def is_revoked(self, node: NodeId) -> bool:
        """Whether ``node`` was shut out."""
        return serial_of(node) in self.revoked_serials

    def judge(self, certificate: bytes) -> Peer:
        """Return who presents ``certificate``; see the function of that name."""
        return judge(certificate, self.authorities, self.revoked_serials)

    def private_pem(self) -> bytes:
        """Return the private key as PEM. Goes to a 0600 file or to OpenSSL, nowhere else."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def raw_public_key(key: Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def serial_of(node: NodeId) -> int:
    """Return the serial number of all certificates of ``node``."""
    # The highest bit makes it positive and of constant length.
    return int.from_bytes(node_id_to_bytes(node)[:_SERIAL_BYTES], "big") | 1 << (8 * _SERIAL_BYTES - 1)


def swarm_of(authority: x509.Certificate) -> str:
    """Return the id of the swarm that ``authority`` is of: the one it names, else SHA-256 of its public key in base32.

    Who may name one is not judged here: we trust an authority because an invite or another authority said so.
    """
    key = authority.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise NotTrusted("the authority's key is not Ed25519")
    try:
        names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        named = next((urlsplit(uri).netloc for uri in uris if uri == authority_uri(urlsplit(uri).netloc)), None)
    except _UNREADABLE:
        named = None
    return named or node_id_from_bytes(hashlib.sha256(raw_public_key(key)).digest())


def authority_uri(swarm: str) -> str:
    """Return the subject alternative name of an authority that is not its swarm's first."""
    return f"upswarm://{swarm}/authority"


def authority_proof_text(authority: bytes) -> bytes:
    """Return what an authority signs to vouch for the next one (DER)."""
    return _AUTHORITY_PURPOSE + hashlib.sha256(authority).digest()


def identity_uri(swarm: str, role: Role, node: NodeId) -> str:
    """Return the subject alternative name that carries a certificate's meaning."""
    return f"upswarm://{swarm}/{role.value}/{node}"


def judge(certificate: bytes, authorities: tuple[bytes, ...], revoked_serials: frozenset[int]) -> Peer:
    """Return who ``certificate`` (DER) says they are, if one of ``authorities`` (DER) says so too.

    Raises:
        NotTrusted: they are no member; the sentence says why, for our log.
    """
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        issuers = [x509.load_der_x509_certificate(authority) for authority in authorities]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        key = leaf.public_key()
    except _UNREADABLE as error:
        raise NotTrusted(f"a certificate that is none of ours: {error}") from error
    for issuer in issuers:
        try:
            leaf.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        break
    else:
        raise NotTrusted("a certificate of another swarm")
    if len(uris) != 1 or not isinstance(key, Ed25519PublicKey):
        raise NotTrusted("a certificate that does not name one node")
    try:
        parts = urlsplit(uris[0])
    except ValueError as error:
        raise NotTrusted(f"a certificate that does not name one node: {error}") from error
    role_text, _, node_text = parts.path.lstrip("/").partition("/")
    node = node_id_of_key(raw_public_key(key))
    if parts.scheme != "upswarm" or node_text != node or leaf.serial_number != serial_of(node):
        raise NotTrusted("a certificate whose name is not its key's")
    if parts.netloc != swarm_of(issuer):
        raise NotTrusted(f"a certificate of swarm {parts.netloc[:8]}")
    try:
        role = Role(role_text)
    except ValueError:
        raise NotTrusted(f"a certificate of unknown role {role_text[:20]!r}") from None
    if leaf.serial_number in revoked_serials:
        raise NotTrusted(f"node {node[:8]} was revoked")
    return Peer(node, role, parts.netloc)


def read_revocations(revocations: bytes, authorities: tuple[bytes, ...]) -> tuple[int, frozenset[int]]:
    """Return number and revoked serials of a list (DER CRL).

    Raises:
        NotTrusted: it is none, or none of ``authorities`` (DER) signed it.
    """
    try:
        crl = x509.load_der_x509_crl(revocations)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except _UNREADABLE as error:
        raise NotTrusted(f"not a revocation list: {error}") from error
    for authority in authorities:
        key = x509.load_der_x509_certificate(authority).public_key()
        if isinstance(key, Ed25519PublicKey) and crl.is_signature_valid(key):
            return number, frozenset(entry.serial_number for entry in crl)
    raise NotTrusted("a revocation list that our authority did not sign")


def read_private_key(pem: bytes, where: str) -> Ed25519PrivateKey:
    """Return the key of a PEM file.

    Raises:
        ConfigError: it holds none of ours.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: not a private key ({error})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{where}: an Ed25519 key was expected")
    return key
