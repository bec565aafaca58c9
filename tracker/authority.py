"""The swarm's certificate authority: creates it, issues node certificates, signs who was shut out.

Decides what a certificate looks like (docs/protocol.md#certificates) and how long it holds; who gets one is decided in
membership.py, and what one is worth to others in runtime/identity.py. The building functions are pure: keys and the
wall clock's ``now`` come in, DER goes out. Only ``open_authority`` and ``open_identity`` touch the disk.

The authority's key never leaves its folder. Whoever copies it can make members; whoever loses it can never again
make one, which is why a certificate without its key is refused at start instead of being replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import ConfigError, NotTrusted
from protocol.ids import NodeId, Role, node_id_of_key
from runtime.identity import (
    Credentials,
    authority_uri,
    identity_uri,
    raw_public_key,
    read_private_key,
    serial_of,
    swarm_of,
)
from runtime.seam import Disk, Runtime

CERTIFICATE_DAYS = 90
# Nodes whose clock is behind ours must be able to use a fresh certificate at once.
BACKDATED = timedelta(hours=1)
# Renewed when so much is left: a tracker that was off for weeks still starts with a valid certificate.
RENEWED_BEFORE_END = timedelta(days=CERTIFICATE_DAYS / 2)
# Replacing it is work for everybody (rotation.py): it shall outlive the swarm.
_AUTHORITY_DAYS = 30 * 365
# A revoked certificate needs no mention once it has expired; clocks that are behind get a week more.
REVOKED_KEPT = timedelta(days=7)

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"


@dataclass(frozen=True, slots=True, eq=False)
class Authority:
    """The authority of one swarm: its key, and its certificate that everybody knows."""

    key: Ed25519PrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)

    @property
    def der(self) -> bytes:
        """Its certificate as it travels."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def swarm(self) -> str:
        """The swarm's id."""
        return swarm_of(self.certificate)

    @property
    def is_first(self) -> bool:
        """Whether its swarm began with it."""
        return self.swarm == node_id_of_key(raw_public_key(self.key.public_key()))

    @property
    def fingerprint(self) -> bytes:
        """What an invite names it by: SHA-256 of its certificate."""
        return hashlib.sha256(self.der).digest()

    def issue(self, public_key: bytes, role: Role, now: float) -> bytes:
        """Return a certificate (DER) for the node of this raw public key. ``now``: wall clock, seconds."""
        node = node_id_of_key(public_key)
        begin = _moment(now) - BACKDATED
        subject_key = Ed25519PublicKey.from_public_bytes(public_key)
        identity = x509.UniformResourceIdentifier(identity_uri(self.swarm, role, node))
        certificate = (
            _builder(subject_key, self.key.public_key(), begin, _moment(certificate_ends(now)), ca=False)
            .subject_name(_name(node))
            .issuer_name(self.certificate.subject)
            .serial_number(serial_of(node))
            .add_extension(x509.SubjectAlternativeName([identity]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .sign(self.key, None)
        )
        return certificate.public_bytes(Encoding.DER)

    def sign_revocations(self, revoked: Iterable[NodeId], number: int, now: float) -> bytes:
        """Return the list (DER CRL) of who was shut out. A higher ``number`` replaces a lower one."""
        begin = _moment(now) - BACKDATED
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(begin)
            .next_update(begin + timedelta(days=CERTIFICATE_DAYS))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(_authority_key_identifier(self.key.public_key()), critical=False)
        )
        for serial in sorted({serial_of(node) for node in revoked}):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, None).public_bytes(Encoding.DER)


def certificate_ends(now: float) -> float:
    """Return when a certificate issued at ``now`` expires; both wall clock, seconds."""
    return now + timedelta(days=CERTIFICATE_DAYS).total_seconds()


def create_authority(seed: bytes, now: float, *, swarm: str | None = None) -> Authority:
    """Return a new authority whose key is made of 32 random bytes. ``now``: wall clock, seconds. ``swarm``: the one it
    is to be the next authority of; None: of a new one, named by its key."""
    return _authority_of(Ed25519PrivateKey.from_private_bytes(seed), now, swarm)


def needs_renewal(certificate: bytes, now: float) -> bool:
    """Whether a certificate (DER) has less than half of its time left, or is from the future (our clock was wrong)."""
    leaf = x509.load_der_x509_certificate(certificate)
    return not leaf.not_valid_before_utc <= _moment(now) <= leaf.not_valid_after_utc - RENEWED_BEFORE_END


async def open_authority(runtime: Runtime, folder: Path) -> Authority:
    """Return the authority kept in ``folder``; the first time it is created there.

    Raises:
        ConfigError: its key is missing, readable by others, damaged, or not the certificate's.
    """
    return await runtime.run_sync(_open_authority, runtime.disk, folder, runtime.token_bytes(32), runtime.clock.wall())


async def open_identity(
    runtime: Runtime, authority: Authority, folder: Path, revocations: bytes, next_one: Authority | None = None
) -> Credentials:
    """Return the tracker's own credentials, kept in ``folder``; made the first time, renewed when they grow old. With
    ``next_one`` they trust certificates of both.

    Raises:
        ConfigError: the key is readable by others or damaged.
    """
    credentials = await runtime.run_sync(
        _open_identity, runtime.disk, authority, folder, revocations, runtime.token_bytes(32), runtime.clock.wall()
    )
    if next_one is None:
        return credentials
    authorities = (authority.der, next_one.der)
    return Credentials.of(credentials.key, credentials.certificate, authorities, revocations)


def _open_authority(disk: Disk, folder: Path, seed: bytes, now: float) -> Authority:
    key_file, certificate_file = folder / KEY_FILE, folder / CERTIFICATE_FILE
    key = read_key(disk, key_file)
    certificate = read_certificate(disk, certificate_file)
    if key is None and certificate is not None:
        raise ConfigError(
            f"{key_file}: the swarm's authority has lost its key; restore it from a backup, or move {folder} away "
            "to begin a new swarm, to which every node must be invited again"
        )
    if certificate is None:
        # The key is durable before the certificate is: killed in between, we go on with that key at the next start.
        # Nobody can have seen a certificate that was not written yet.
        if key is None:
            key = _make_key(disk, key_file, seed)
        authority = _authority_of(key, now)
        disk.write_small(certificate_file, authority.certificate.public_bytes(Encoding.PEM), mode=0o644)
        return authority
    assert key is not None
    if certificate.public_key() != key.public_key():
        raise ConfigError(f"{certificate_file}: is not the certificate of {key_file}; restore both from one backup")
    return Authority(key, certificate)


def _open_identity(
    disk: Disk, authority: Authority, folder: Path, revocations: bytes, seed: bytes, now: float
) -> Credentials:
    key = read_key(disk, folder / KEY_FILE) or _make_key(disk, folder / KEY_FILE, seed)
    certificate = read_certificate(disk, folder / CERTIFICATE_FILE)
    authorities = (authority.der,)
    if certificate is not None:
        der = certificate.public_bytes(Encoding.DER)
        try:
            credentials = Credentials.of(key, der, authorities, revocations)
        except NotTrusted:
            pass  # Of a key or an authority that was here before: a new one is ours to issue.
        else:
            if credentials.role is Role.TRACKER and not needs_renewal(der, now):
                return credentials
    der = authority.issue(raw_public_key(key.public_key()), Role.TRACKER, now)
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    disk.write_small(folder / CERTIFICATE_FILE, pem, mode=0o644)
    return Credentials.of(key, der, authorities, revocations)


def read_key(disk: Disk, path: Path) -> Ed25519PrivateKey | None:
    """Return the key in a file that nobody else may touch; None when there is none. Raises ``ConfigError``."""
    try:
        return read_private_key(disk.read_secret(path), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def _make_key(disk: Disk, path: Path, seed: bytes) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    disk.make_folder(path.parent)
    disk.write_small(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    return key


def read_certificate(disk: Disk, path: Path) -> x509.Certificate | None:
    """Return the certificate in a file; None when there is none. Raises ``ConfigError``."""
    try:
        return x509.load_pem_x509_certificate(disk.read_small(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a certificate ({error}); restore it from a backup") from error


def _authority_of(key: Ed25519PrivateKey, now: float, swarm: str | None = None) -> Authority:
    itself = node_id_of_key(raw_public_key(key.public_key()))
    name = _name(f"upswarm {itself}")
    begin = _moment(now) - BACKDATED
    builder = (
        _builder(key.public_key(), key.public_key(), begin, begin + timedelta(days=_AUTHORITY_DAYS), ca=True)
        .subject_name(name)
        .issuer_name(name)
        .serial_number(serial_of(itself))
    )
    if swarm is not None:
        identity = x509.UniformResourceIdentifier(authority_uri(swarm))
        builder = builder.add_extension(x509.SubjectAlternativeName([identity]), critical=False)
    return Authority(key, builder.sign(key, None))


def _builder(
    subject: Ed25519PublicKey, issuer: Ed25519PublicKey, begin: datetime, end: datetime, *, ca: bool
) -> x509.CertificateBuilder:
    """Begin a certificate with what RFC 5280 §4.2.1 asks of all, and VERIFY_X509_STRICT insists on."""
    return (
        x509.CertificateBuilder()
        .public_key(subject)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                key_cert_sign=ca,
                crl_sign=ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )


def _authority_key_identifier(key: Ed25519PublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
