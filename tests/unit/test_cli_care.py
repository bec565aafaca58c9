from __future__ import annotations

import datetime
import json
import re
import socket
from pathlib import Path

import pytest
from support.front_door import call, running

from upswarm import doctor
from upswarm.doctor import check_certificate, check_packages, check_python, check_tracker, examine, redacted

Capture = pytest.CaptureFixture[str]


def test_version_names_ours_and_the_protocols(capsys: Capture) -> None:
    assert re.fullmatch(r"upswarm \S+, protocol 1, Python 3\.\S+\n", call(capsys, "version").out)
    assert call(capsys, "--version").out == call(capsys, "version").out
    assert json.loads(call(capsys, "version", "--json").out)["protocol"] == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_printed_for_each_shell(capsys: Capture, shell: str) -> None:
    ended = call(capsys, "completion", shell)
    assert ended.code == 0 and "_UPSWARM_COMPLETE" in ended.out


def test_an_import_name_that_another_distribution_owns_is_found() -> None:
    owners = {"upswarm": ["upswarm", "upswarm"], "daemon": ["upswarm", "python-daemon"]}
    finding = check_packages(owners)
    assert not finding.ok and "python-daemon" in finding.says and "'daemon'" in finding.says
    assert check_packages({"upswarm": ["upswarm", "upswarm"]}).ok


def test_an_old_python_is_found() -> None:
    assert check_python((3, 11, 0)).ok and not check_python((3, 10, 9)).ok


def test_without_a_daemon_the_doctor_still_answers(capsys: Capture, tmp_path: Path) -> None:
    ended = call(capsys, "doctor", "--json", "--home", tmp_path)
    checks = {one["check"]: one for one in json.loads(ended.out)["checks"]}
    assert ended.code == 1
    assert checks["python"]["ok"] and checks["home"]["ok"]
    assert not checks["daemon joined"]["ok"] and "upswarm join" in checks["daemon joined"]["says"]
    assert not checks["daemon"]["ok"] and "upswarm daemon" in checks["daemon"]["says"]


def test_what_the_daemon_says_of_itself_is_told(tmp_path: Path) -> None:
    with running(tmp_path, doctor={"checks": [{"check": "tracker link", "ok": False, "says": "no link"}]}):
        findings = {finding.check: finding for finding in examine(tmp_path)}
    assert findings["daemon"].ok
    assert findings["daemon: tracker link"] == doctor.Finding("daemon: tracker link", False, "no link")


def test_a_clock_before_our_time_is_found() -> None:
    assert "before this version" in doctor.check_clock(1e9, None).says and not doctor.check_clock(1e9, True).ok
    kept, free = doctor.check_clock(2e9, True), doctor.check_clock(2e9, False)
    assert kept.ok and kept.says == "2033-05-18 03:33:20 UTC, kept by another clock" and free.ok and "NTP" in free.says


def test_ports_are_tried_and_links_tell_who_reaches_whom(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        links = {"links": [{"dialled": True}, {"dialled": False}, {"dialled": False}], "lan": []}
        with running(tmp_path, doctor={"checks": []}, status={"listen": f"0.0.0.0:{port}"}, peers=links):
            found = {finding.check: finding for finding in examine(tmp_path)}
    assert found["daemon port"].ok and f"0.0.0.0:{port} answers" in found["daemon port"].says
    assert found["reaching others"].says == "links that we dialled: 1"
    assert found["being reached"].says == "links that others dialled: 2"
    closed, _, nobody = doctor.check_ports("daemon", f"127.0.0.1:{port}", [])
    assert not closed.ok and f"let TCP port {port} through" in nobody.says


def test_a_key_that_others_can_read_is_found(tmp_path: Path) -> None:
    identity = tmp_path / "daemon" / "identity"
    identity.mkdir(parents=True)
    (identity / "certificate.pem").write_text("x")
    (identity / "key.pem").write_text("x")
    (identity / "key.pem").chmod(0o644)
    findings = {finding.check: finding for finding in examine(tmp_path)}
    assert "chmod 600" in findings["daemon joined"].says
    assert "cannot be read" in findings["certificate"].says


def test_a_certificates_age_is_told_and_its_end_found(tmp_path: Path, swarm_ca: object) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding

    begin = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    key = Ed25519PrivateKey.generate()
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=30))
        .sign(key, None)
    )  # fmt: skip
    path = tmp_path / "c.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    days = datetime.timedelta(days=1)
    assert check_certificate(path, begin + 10 * days).says == "10 d 0 h old, valid for another 20 d 0 h"
    assert "clock" in check_certificate(path, begin - days).says
    assert not check_certificate(path, begin + 31 * days).ok


def test_a_tracker_is_reachable_when_its_port_answers(tmp_path: Path) -> None:
    path = tmp_path / "tracker.json"
    assert list(check_tracker(path)) == []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        path.write_text(json.dumps({"node": "n", "addresses": ["nonsense", address]}))
        assert [finding.ok for finding in check_tracker(path)] == [True]
        others = [{"node": "o", "addresses": [address]}]
        path.write_text(json.dumps({"node": "n", "addresses": ["nonsense"], "others": others}))
        assert [finding.ok for finding in check_tracker(path)] == [True], "any of them will do"
    assert [finding.ok for finding in check_tracker(path)] == [False]
    path.write_text("{")
    assert [finding.ok for finding in check_tracker(path)] == [False]


def test_a_report_carries_no_secrets() -> None:
    told = redacted(
        {
            "secret_key": "abc",
            "database": "postgresql://user:pass@host/db",
            "nested": [{"token": "t"}, "see upswarm-invite-1-AAAA"],
            "path": str(Path.home() / "films"),
            "empty_password": "",
            "rate": 3,
        }
    )
    text = json.dumps(told)
    for secret in ("abc", "pass@", "user:", "AAAA", '"t"'):
        assert secret not in text
    assert told["path"] == "~/films" and told["rate"] == 3
