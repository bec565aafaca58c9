from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.front_door import call

from protocol.errors import ConfigError
from upswarm import programs
from upswarm.console import Console
from upswarm.programs import load_program_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Start nothing; remember with which settings it would have been."""
    seen: list[Any] = []
    real = programs.importlib.import_module

    class App:
        @staticmethod
        def main(config: Any, read: Callable[[], Any]) -> int:
            assert read() == config, "SIGHUP reads what flags, environment and file say now"
            seen.append(config)
            return 0

    monkeypatch.setattr(programs.importlib, "import_module", lambda name: App if name.endswith(".app") else real(name))
    yield seen


def test_flags_of_the_tracker_reach_it(capsys: Capture, tmp_path: Path, started: list[Any]) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-mdns", "--log-level", "debug"]
    assert call(capsys, "tracker", "--home", tmp_path, *arguments, "--advertise", "a:1", "--advertise", "b:2").code == 0
    (config,) = started
    assert (config.listen, config.http, config.mdns, config.log_level) == ("127.0.0.1:0", "127.0.0.1:0", False, "debug")
    assert config.advertise == ("a:1", "b:2") and config.home == tmp_path


def test_flags_of_the_storage_node_reach_it(capsys: Capture, tmp_path: Path, started: list[Any]) -> None:
    assert call(capsys, "storage", "--home", tmp_path, "--listen", "127.0.0.1:0", "--data", tmp_path / "d").code == 0
    (config,) = started
    assert (config.data, config.mdns, config.places.state) == (tmp_path / "d", True, tmp_path / "storage")


def test_flags_of_the_daemon_reach_it(capsys: Capture, tmp_path: Path, started: list[Any]) -> None:
    arguments = ["--up", "20mbit", "--help-rate", "1M", "--lend", "--no-mdns", "--name", "laptop"]
    assert call(capsys, "daemon", "--home", tmp_path, *arguments).code == 0
    (config,) = started
    assert (config.up_bytes_per_second, config.help_bytes_per_second) == (2.5e6, 1e6)
    assert config.lend is True and config.mdns is False and config.name == "laptop"


def test_what_no_flag_says_the_environment_or_the_file_may_say(
    capsys: Capture, tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upswarm.toml").write_text('[daemon]\nlend = true\nmdns = false\nup_bytes_per_second = "8mbit"\n')
    monkeypatch.setenv("UPSWARM_DAEMON_UP_BYTES_PER_SECOND", "16mbit")
    assert call(capsys, "daemon", "--home", tmp_path).code == 0
    (config,) = started
    assert (config.lend, config.mdns, config.up_bytes_per_second) == (True, False, 2e6)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("tracker", ["--listen", "nowhere"]), ("storage", ["--listen", "x:99999999"]), ("daemon", ["--listen", "::1"])],
)
def test_an_impossible_setting_is_exit_code_2(
    capsys: Capture, tmp_path: Path, started: list[Any], program: str, arguments: list[str]
) -> None:
    ended = call(capsys, program, "--home", tmp_path, *arguments)
    assert ended.code == 2 and "listen" in ended.err and started == []


def test_config_show_prints_what_config_validate_accepts(capsys: Capture, tmp_path: Path) -> None:
    shown = call(capsys, "config", "show", "--home", tmp_path).out
    (tmp_path / "again.toml").write_text(shown)
    assert call(capsys, "config", "validate", tmp_path / "again.toml", "--home", tmp_path).code == 0
    settings = json.loads(call(capsys, "config", "show", "daemon", "--json", "--home", tmp_path).out)
    assert list(settings) == ["daemon"] and settings["daemon"]["mdns"] is True


def test_config_validate_names_what_is_wrong(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "upswarm.toml").write_text("[storage]\nlisen = 'x'\n")
    ended = call(capsys, "config", "validate", "--home", tmp_path)
    assert ended.code == 2 and "did you mean listen?" in ended.err
    assert call(capsys, "config", "validate", tmp_path / "absent", "--home", tmp_path).code == 4
    (tmp_path / "upswarm.toml").unlink()
    assert "absent" in call(capsys, "config", "validate", "--home", tmp_path).out


def test_a_report_carries_versions_checks_and_settings(capsys: Capture, tmp_path: Path) -> None:
    report = json.loads(call(capsys, "bugreport", "--json", "--home", tmp_path).out)
    assert report["version"]["upswarm"] and report["checks"] and report["config"]["storage"]["listen"]
    assert report["status"] == {"daemon": "does not run", "storage": "does not run", "tracker": "does not run"}


def test_a_home_too_long_for_a_socket_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter --home"):
        load_program_config(Console(home=tmp_path / ("x" * 100)), "daemon", {})


def test_a_program_reads_no_rich() -> None:
    code = (
        "import importlib, sys\n"
        "from upswarm.programs import read_structlog\n"
        "read_structlog()\n"
        "for program in ('tracker', 'storage', 'daemon'):\n"
        "    importlib.import_module(f'{program}.app')\n"
        "assert 'structlog' in sys.modules and not [name for name in sys.modules if name.partition('.')[0] == 'rich']\n"
        "import rich.console\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
