"""The units and what writes them. What systemd makes of them, systemd-analyze is asked."""

from __future__ import annotations

import json
import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.front_door import call

from protocol.errors import CommandError, ConfigError
from runtime.places import PROGRAMS, Program
from upswarm import service
from upswarm.service import Manager, install_unit, own_command, status_of, uninstall_unit, unit_name, unit_text

Capture = pytest.CaptureFixture[str]
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE_MAX = 2.5

SYSTEM = [(program, False) for program in PROGRAMS]
UNITS = [*SYSTEM, ("daemon", True)]


class FakeSystemd:
    """Remembers what it was told."""

    def __init__(self, folder: Path, *, user: bool = True) -> None:
        self.told: list[tuple[str, ...]] = []
        self.manager = Manager(user, folder / "units", self._control)
        self.answer = ""

    def _control(self, *words: str) -> str:
        self.told.append(words)
        return self.answer


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    monkeypatch.setattr(service, "SYSUSERS", tmp_path / "sysusers.d" / "upswarm.conf")
    monkeypatch.setattr(service, "STATE", tmp_path / "state")
    monkeypatch.setattr(service, "HIDDEN", (tmp_path / "hidden",))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run")
    return FakeSystemd(tmp_path)


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize(("program", "user"), UNITS)
def test_a_unit_waits_for_ready_and_is_watched(program: Program, user: bool) -> None:
    text = unit_text(program, user=user, command=["/opt/up swarm/50%/upswarm"])
    assert values(text, "Type") == ["notify"] and values(text, "WatchdogSec") == ["60"]
    assert values(text, "ExecStart") == [f'"/opt/up swarm/50%%/upswarm" {program}']
    assert values(text, "TimeoutStopSec") == ["10"] and values(text, "RestartPreventExitStatus") == ["2"]
    assert "@EXEC@" not in text and "@WRITES@" not in text


@pytest.mark.parametrize(("program", "user"), SYSTEM)
def test_the_system_units_differ_in_program_and_home_only(program: Program, user: bool) -> None:
    def plain(name: Program) -> str:
        text = unit_text(name, user=user, command=["upswarm"]).replace(name, "PROGRAM")
        return re.sub(r"^(Description|ProtectHome)=.*$", "", text, flags=re.MULTILINE)

    assert plain(program) == plain("tracker")


def test_further_folders_are_written_where_the_unit_says_so() -> None:
    text = unit_text("storage", user=False, command=["upswarm"], writes=[Path("/srv/a b"), Path("/mnt")])
    assert values(text, "ReadWritePaths") == ['"/srv/a b"', "/mnt"]
    with pytest.raises(ConfigError, match="cannot stand"):
        unit_text("storage", user=False, command=["upswarm"], writes=[Path("/srv/a\nUser=root")])


def test_a_tracker_is_no_users_service() -> None:
    with pytest.raises(ConfigError, match="--user is for the daemon"):
        unit_text("tracker", user=True, command=["upswarm"])


@pytest.mark.parametrize(("program", "user"), UNITS)
def test_systemd_finds_no_fault_and_little_exposure(tmp_path: Path, program: Program, user: bool) -> None:
    assert ANALYZE is not None, "systemd-analyze is missing; scripts/install-test-packages brings it"
    path = tmp_path / unit_name(program)
    path.write_text(unit_text(program, user=user, command=["/bin/true"], writes=[Path("/srv")]))
    verified = subprocess.run(
        [ANALYZE, "verify", "--man=no", "--recursive-errors=no", str(path)], capture_output=True, text=True, timeout=60
    )
    assert verified.returncode == 0 and verified.stderr == "", verified.stderr
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", str(path)], capture_output=True, text=True, timeout=60
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    # A user's manager may not make the namespaces that most of the score is about.
    assert float(found[1]) < (6.5 if user else EXPOSURE_MAX), done.stdout


def test_installing_writes_enables_and_says_what_is_missing(fake: FakeSystemd) -> None:
    answer = install_unit(fake.manager, "daemon")
    path = fake.manager.folder / "upswarm-daemon.service"
    assert values(path.read_text(), "ExecStart") == [f"{own_command(user=True)[0]} daemon"]
    assert (answer["enabled"], answer["started"]) == (True, False)
    assert "upswarm join -" in str(answer["next"]) and "systemctl --user start" in str(answer["next"])
    assert fake.told == [("daemon-reload",), ("enable", "upswarm-daemon.service")]


def test_a_member_is_started_at_once(fake: FakeSystemd, tmp_path: Path) -> None:
    identity = tmp_path / "s" / "upswarm" / "daemon" / "identity"
    identity.mkdir(parents=True)
    (identity / "certificate.pem").touch()
    assert install_unit(fake.manager, "daemon")["started"] is True
    assert fake.told[-1] == ("enable", "--now", "upswarm-daemon.service")


def test_the_system_gets_an_account_first(tmp_path: Path, fake: FakeSystemd) -> None:
    system = FakeSystemd(tmp_path, user=False)
    assert install_unit(system.manager, "tracker")["started"] is True, "a tracker makes its own swarm"
    assert (tmp_path / "sysusers.d" / "upswarm.conf").read_text().splitlines()[-1].startswith("u upswarm ")
    assert [words[0] for words in system.told] == ["sysusers", "daemon-reload", "enable"]


def test_a_command_in_a_home_is_no_service_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.sys, "executable", "/home/anna/.local/venv/bin/python")
    with pytest.raises(ConfigError, match="--user"):
        own_command(user=False)
    assert own_command(user=True) == ["/home/anna/.local/venv/bin/python", "-m", "upswarm"]


def test_status_tells_what_systemd_says(fake: FakeSystemd) -> None:
    fake.answer = (
        "ActiveState=active\nSubState=running\nMainPID=17\nNRestarts=2\nStatusText=listens on a=b\n"
        "UnitFileState=enabled\n"
    )
    status = status_of(fake.manager, "daemon")
    assert (status["state"], status["process"], status["restarts"], status["says"]) == (
        "active",
        17,
        2,
        "listens on a=b",
    )
    assert status["path"] is None and status["enabled"] is True


def test_uninstalling_removes_the_unit_and_nothing_else(fake: FakeSystemd) -> None:
    install_unit(fake.manager, "daemon")
    assert uninstall_unit(fake.manager, "daemon")["removed"] is True
    assert list(fake.manager.folder.iterdir()) == []
    assert fake.told[-2:] == [("disable", "--now", "upswarm-daemon.service"), ("daemon-reload",)]
    with pytest.raises(CommandError, match="no such unit"):
        uninstall_unit(fake.manager, "daemon")


def test_without_systemd_the_words_are_clear(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    done = call(capsys, "service", "install", "--user", "daemon")
    assert done.code == 1 and "no systemd of this user runs here" in done.err


def test_a_unit_can_be_written_for_a_packager(capsys: Capture, tmp_path: Path) -> None:
    done = call(capsys, "service", "install", "storage", "--into", tmp_path / "u", "--writes", "/srv/upswarm", "--json")
    path = tmp_path / "u" / "upswarm-storage.service"
    assert done.code == 0 and json.loads(done.out)["path"] == str(path)
    assert values(path.read_text(), "ReadWritePaths") == ["/srv/upswarm"]


def test_what_systemctl_refuses_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_systemctl = tmp_path / "systemctl"
    fake_systemctl.write_text('#!/bin/sh\necho "Failed to $*" >&2\nexit 1\n')
    fake_systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(CommandError, match="Failed to --user daemon-reload"):
        service._control(True, ["daemon-reload"])


def test_the_job_for_launchd_is_a_property_list() -> None:
    job = plistlib.loads((Path(service.__file__).parent / "units" / "org.upswarm.daemon.plist").read_bytes())
    assert job["ProgramArguments"][1:] == ["daemon"] and job["ExitTimeOut"] == 10
