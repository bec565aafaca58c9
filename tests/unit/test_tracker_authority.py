"""Certificates are what identity.py and OpenSSL's strict mode demand, and the authority's key is kept as a secret."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.runtimes import TestClock, memory_runtime
from support.swarm import SwarmCa

from protocol.errors import ConfigError, NotTrusted
from protocol.ids import Role
from protocol.limits import REVOCATIONS_BYTES_MAX
from runtime.identity import Credentials, identity_uri, judge, read_revocations, serial_of
from tracker.authority import (
    CERTIFICATE_DAYS,
    CERTIFICATE_FILE,
    KEY_FILE,
    Authority,
    create_authority,
    needs_renewal,
    open_authority,
    open_identity,
)
from tracker.membership import REVOKED_MAX

DAY = 86400.0


def test_a_certificate_names_swarm_role_and_node() -> None:
    ca = SwarmCa()
    credentials = ca.credentials("ada", Role.STORAGE)
    leaf = x509.load_der_x509_certificate(credentials.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    expected = identity_uri(ca.authority.swarm, Role.STORAGE, ca.node("ada"))
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [expected]
    assert leaf.serial_number == serial_of(ca.node("ada"))
    peer = judge(credentials.certificate, (ca.authority.der,), frozenset())
    assert (peer.node, peer.role, peer.swarm) == (ca.node("ada"), Role.STORAGE, ca.authority.swarm)


def test_openssl_accepts_every_role_in_its_strict_mode(tmp_path: Path) -> None:
    ca = SwarmCa()
    for role in Role:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.check_hostname = False
        context.load_verify_locations(cadata=ca.authority.der)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        credentials = ca.credentials("ada", role)
        pem = x509.load_der_x509_certificate(credentials.certificate).public_bytes(Encoding.PEM)
        file = tmp_path / role
        file.write_bytes(credentials.private_pem() + pem)
        server.load_cert_chain(file)
        handshake(context, server)


def handshake(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.getpeercert(binary_form=True)


def test_a_fresh_certificate_is_valid_for_clocks_that_are_an_hour_behind() -> None:
    leaf = x509.load_der_x509_certificate(SwarmCa(now=1_800_000_000).credentials("ada").certificate)
    assert leaf.not_valid_before_utc.timestamp() == 1_800_000_000 - 3600
    assert leaf.not_valid_after_utc.timestamp() == 1_800_000_000 + CERTIFICATE_DAYS * DAY


def test_a_certificate_is_renewed_at_half_of_its_time_or_when_the_clock_was_wrong() -> None:
    now = 1_800_000_000.0
    certificate = SwarmCa(now=now).credentials("ada").certificate
    assert not needs_renewal(certificate, now)
    assert not needs_renewal(certificate, now + (CERTIFICATE_DAYS / 2 - 1) * DAY)
    assert needs_renewal(certificate, now + (CERTIFICATE_DAYS / 2 + 1) * DAY)
    assert needs_renewal(certificate, now - DAY)


def test_a_revocation_list_names_nodes_and_its_number() -> None:
    ca = SwarmCa()
    number, serials = read_revocations(ca.revocations(7, ["ada", "bob", "ada"]), (ca.authority.der,))
    assert number == 7 and serials == {serial_of(ca.node("ada")), serial_of(ca.node("bob"))}
    with pytest.raises(NotTrusted):
        read_revocations(SwarmCa("another").revocations(), (ca.authority.der,))
    with pytest.raises(NotTrusted):
        ca.credentials("ada", revoked=["ada"]).judge(ca.credentials("ada").certificate)


def test_the_longest_revocation_list_fits_a_message() -> None:
    ca = SwarmCa()
    few, more = (len(ca.revocations(2**40, [f"n{number}" for number in range(count)])) for count in (100, 300))
    entry_bytes = (more - few) / 200
    assert few + (REVOKED_MAX + 1 - 100) * entry_bytes <= REVOCATIONS_BYTES_MAX


async def opened(folder: Path) -> Authority:
    return await open_authority(memory_runtime(name=str(folder)), folder)


async def test_the_authority_is_created_once_and_its_key_is_for_its_owner_only(tmp_path: Path) -> None:
    first = await opened(tmp_path / "authority")
    again = await open_authority(memory_runtime(seed=1), tmp_path / "authority")
    assert again.der == first.der and again.swarm == first.swarm
    assert (tmp_path / "authority" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (await opened(tmp_path / "other")).swarm != first.swarm


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
async def test_an_authority_whose_key_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    await opened(tmp_path)
    os.chmod(tmp_path / KEY_FILE, mode)
    with pytest.raises(ConfigError, match="chmod 0600"):
        await opened(tmp_path)


async def test_an_authority_that_lost_its_key_is_not_replaced_by_another(tmp_path: Path) -> None:
    await opened(tmp_path)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(ConfigError, match="backup"):
        await opened(tmp_path)
    assert not (tmp_path / KEY_FILE).exists()


async def test_an_authority_killed_between_key_and_certificate_goes_on_with_its_key(tmp_path: Path) -> None:
    first = await opened(tmp_path)
    (tmp_path / CERTIFICATE_FILE).unlink()
    assert (await open_authority(memory_runtime(seed=9), tmp_path)).swarm == first.swarm


async def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    await opened(tmp_path / "one")
    await opened(tmp_path / "two")
    os.replace(tmp_path / "two" / KEY_FILE, tmp_path / "one" / KEY_FILE)
    with pytest.raises(ConfigError, match="not the certificate"):
        await opened(tmp_path / "one")
    (tmp_path / "one" / CERTIFICATE_FILE).write_text("nothing")
    with pytest.raises(ConfigError, match="not a certificate"):
        await opened(tmp_path / "one")


async def test_the_trackers_own_certificate_is_renewed_with_the_same_key(tmp_path: Path) -> None:
    runtime = memory_runtime()
    now = runtime.clock.wall()
    authority = create_authority(bytes(32), now)
    crl = authority.sign_revocations([], 1, now)

    async def open_it() -> Credentials:
        return await open_identity(runtime, authority, tmp_path, crl)

    first = await open_it()
    assert first.role is Role.TRACKER
    assert (await open_it()).certificate == first.certificate
    assert isinstance(runtime.clock, TestClock)
    runtime.clock.skew_seconds = 60 * DAY
    renewed = await open_it()
    assert renewed.certificate != first.certificate and renewed.node == first.node
    assert (await open_it()).certificate == renewed.certificate


async def test_an_identity_of_an_older_swarm_gets_a_certificate_of_this_one(tmp_path: Path) -> None:
    runtime = memory_runtime()
    now = runtime.clock.wall()
    for seed in (bytes(32), bytes([1]) * 32):
        authority = create_authority(seed, now)
        credentials = await open_identity(runtime, authority, tmp_path, authority.sign_revocations([], 1, now))
        assert credentials.swarm == authority.swarm
