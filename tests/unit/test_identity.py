"""Who is a member: certificates and revocation lists that are right, odd, forged or damaged."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support.swarm import SwarmCa

from protocol.errors import ConfigError, NotTrusted
from protocol.ids import Role
from runtime.identity import (
    Credentials,
    Peer,
    identity_uri,
    judge,
    raw_public_key,
    read_private_key,
    read_revocations,
    serial_of,
    swarm_of,
)

# Damaged certificates with negative serial numbers: today a warning of cryptography's, one day a ValueError.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a:Warning")

CA = SwarmCa()
AUTHORITIES = (CA.authority.der,)
KEY = CA.key("node")
NODE = CA.node("node")
URI = identity_uri(CA.authority.swarm, Role.PEER, NODE)
GOOD = CA.credentials("node").certificate


def certificate(
    *uris: str,
    key=None,
    serial: int | None = None,
    signer=None,
    names: list[x509.GeneralName] | None = None,
    san: bool = True,
) -> bytes:
    """A certificate of our authority that says whatever is asked for."""
    now = datetime.now(UTC)
    key = key or KEY
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(CA.authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(serial if serial is not None else serial_of(NODE))
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if san:
        every = names if names is not None else [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(every), critical=False)
    return builder.sign(signer or CA.authority.key, None).public_bytes(Encoding.DER)


def test_a_member_is_known_by_node_role_and_swarm() -> None:
    for role in Role:
        own = CA.credentials("node", role)
        assert judge(own.certificate, AUTHORITIES, frozenset()) == Peer(NODE, role, CA.authority.swarm) == own.peer
    assert judge(certificate(URI), AUTHORITIES, frozenset()).role is Role.PEER
    other = SwarmCa("second")
    both = (other.authority.der, CA.authority.der)
    assert judge(GOOD, both, frozenset()).swarm == CA.authority.swarm, "each of several authorities may vouch"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (certificate(URI, signer=SwarmCa("second").authority.key), "another swarm"),
        (certificate(), "name one node"),
        (certificate(URI, URI), "name one node"),
        (certificate(names=[x509.DNSName("node.example")]), "name one node"),
        (certificate(san=False), "none of ours"),
        (certificate(URI.replace("upswarm:", "https:")), "not its key's"),
        (certificate(identity_uri(CA.authority.swarm, Role.PEER, CA.node("other"))), "not its key's"),
        (certificate(URI, serial=5), "not its key's"),
        (certificate(URI, key=Ed25519PrivateKey.generate()), "not its key's"),
        (certificate(URI, key=ec.generate_private_key(ec.SECP256R1())), "name one node"),
        (certificate(identity_uri(SwarmCa("second").authority.swarm, Role.PEER, NODE)), "of swarm"),
        (certificate(URI.replace("/peer/", "/king/")), "unknown role"),
        (certificate("upswarm://[bad/peer/x"), "one node"),
        (CA.authority.der, "none of ours"),
        (b"", "none of ours"),
        (b"\x30\x82", "none of ours"),
    ],
)
def test_whoever_is_no_member_is_told_apart_with_a_reason(made: bytes, reason: str) -> None:
    with pytest.raises(NotTrusted, match=reason):
        judge(made, AUTHORITIES, frozenset())


def test_an_authority_with_another_kind_of_key_names_no_swarm() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([])
    odd = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(NotTrusted, match="Ed25519"):
        swarm_of(odd)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_no_changed_byte_of_a_certificate_makes_somebody_else(index: int, change: int) -> None:
    forged = bytearray(GOOD)
    forged[index] ^= change
    with suppress(NotTrusted):
        # The count of unused bits behind the signature is the one byte that nothing covers; it says nothing either.
        assert judge(bytes(forged), AUTHORITIES, frozenset()) == Peer(NODE, Role.PEER, CA.authority.swarm)


@given(st.binary(max_size=300))
def test_garbage_is_not_trusted_and_nothing_else(garbage: bytes) -> None:
    with pytest.raises(NotTrusted):
        judge(garbage, AUTHORITIES, frozenset())
    with pytest.raises(NotTrusted):
        read_revocations(garbage, AUTHORITIES)


# --- revocation ---

LIST = CA.revocations(7, ["mallory", "eve"])


def test_a_revoked_node_stays_out_with_every_certificate_it_gets() -> None:
    number, serials = read_revocations(LIST, AUTHORITIES)
    assert number == 7 and serials == {serial_of(CA.node("mallory")), serial_of(CA.node("eve"))}
    for issued in (None, CA.now + 1000):
        renewed = CA.credentials("mallory", issued=issued).certificate
        with pytest.raises(NotTrusted, match="revoked"):
            judge(renewed, AUTHORITIES, serials)
    own = CA.credentials("node").with_revocations(LIST)
    assert own.is_revoked(CA.node("eve")) and not own.is_revoked(NODE)
    with pytest.raises(NotTrusted, match="revoked"):
        own.judge(CA.credentials("eve").certificate)


def test_an_older_list_never_replaces_a_newer_one() -> None:
    own = CA.credentials("node").with_revocations(LIST)
    assert own.with_revocations(CA.revocations(6)) is own
    assert own.with_revocations(LIST) is own
    newer = own.with_revocations(CA.revocations(8, ["mallory"]))
    assert newer.revocations_number == 8 and not newer.is_revoked(CA.node("eve"))


@given(st.integers(0, len(LIST) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_no_changed_byte_of_a_list_revokes_somebody_else(index: int, change: int) -> None:
    forged = bytearray(LIST)
    forged[index] ^= change
    with suppress(NotTrusted):
        assert read_revocations(bytes(forged), AUTHORITIES) == read_revocations(LIST, AUTHORITIES)


def test_the_list_of_another_swarm_is_none() -> None:
    with pytest.raises(NotTrusted, match="did not sign"):
        read_revocations(SwarmCa("second").revocations(9), AUTHORITIES)
    with pytest.raises(NotTrusted):
        CA.credentials("node").with_revocations(SwarmCa("second").revocations(9))


# --- credentials ---


def test_credentials_hold_together_or_are_refused() -> None:
    other = SwarmCa("second")
    with pytest.raises(NotTrusted, match="another key"):
        Credentials.of(CA.key("other"), GOOD, AUTHORITIES, LIST)
    with pytest.raises(NotTrusted, match="another swarm"):
        Credentials.of(KEY, GOOD, (other.authority.der,), LIST)
    with pytest.raises(NotTrusted, match="did not sign"):
        Credentials.of(KEY, GOOD, AUTHORITIES, other.revocations())
    own = CA.credentials("node", Role.STORAGE)
    assert (own.node, own.role, own.swarm) == (NODE, Role.STORAGE, CA.authority.swarm)
    renewed = CA.credentials("node", Role.STORAGE, issued=CA.now + 5).certificate
    assert own.with_certificate(renewed).certificate == renewed
    with pytest.raises(NotTrusted):
        own.with_certificate(CA.credentials("other").certificate)


def test_secrets_are_not_in_what_is_printed() -> None:
    own = CA.credentials("node")
    shown = repr(own)
    assert "Ed25519" not in shown and "certificate" not in shown and "PRIVATE" not in shown
    assert own.private_pem() not in shown.encode()
    assert read_private_key(own.private_pem(), "here").private_bytes_raw() == KEY.private_bytes_raw()


def test_a_key_file_that_holds_none_of_ours_is_the_operators_to_mend() -> None:
    rsa_like = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ConfigError, match="here: an Ed25519 key was expected"):
        read_private_key(rsa_like, "here")
    for garbage in (b"", b"-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----\n", b"\x00"):
        with pytest.raises(ConfigError, match="here: not a private key"):
            read_private_key(garbage, "here")


def test_serial_numbers_name_nodes() -> None:
    assert serial_of(NODE) == serial_of(NODE) != serial_of(CA.node("other"))
    assert serial_of(NODE).bit_length() == 19 * 8
    assert raw_public_key(KEY.public_key()) == KEY.public_key().public_bytes_raw()
