from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from runtime.config import load_config, parse_duration_seconds, parse_rate, parse_size_bytes


class Way(enum.StrEnum):
    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True)
class Settings:
    data: Path
    listen: str = "0.0.0.0:4100"
    lend: bool = False
    cache_bytes: int = 1024
    up_bytes_per_second: float | None = None
    interval_seconds: float = 5.0
    addresses: tuple[str, ...] = ()
    links: int = 10
    way: Way = Way.FAST
    folder: Path = Path("/")

    def __post_init__(self) -> None:
        if self.links < 1:
            raise ValueError("links must be at least 1")


def load(tmp_path: Path, text: str = "", environment: dict[str, str] | None = None, **flags: Any) -> Settings:
    file = tmp_path / "upswarm.toml"
    if text:
        file.write_text(text)
    return load_config(
        Settings, "daemon", file=file, environment=environment or {}, flags=flags, fixed={"data": tmp_path}
    )


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert load(tmp_path) == Settings(data=tmp_path)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = '[daemon]\nlisten = "file:1"\ninterval_seconds = "2min"\nlinks = 3\n'
    environment = {"UPSWARM_DAEMON_LISTEN": "env:1", "UPSWARM_DAEMON_LINKS": "4", "UPSWARM_HOME": "/else", "PATH": "/"}
    settings = load(tmp_path, text, environment, listen="flag:1", lend=None)
    assert (settings.listen, settings.links, settings.interval_seconds) == ("flag:1", 4, 120.0)


def test_units_are_read_by_the_fields_name(tmp_path: Path) -> None:
    text = """[daemon]
    cache_bytes = "20MiB"
    up_bytes_per_second = "20mbit"
    interval_seconds = 1
    addresses = ["a:1", "b:2"]
    lend = true
    way = "slow"
    """
    settings = load(tmp_path, text)
    assert (settings.cache_bytes, settings.up_bytes_per_second) == (20 << 20, 2.5e6)
    assert (settings.interval_seconds, settings.addresses, settings.lend) == (1.0, ("a:1", "b:2"), True)
    assert settings.way is Way.SLOW


def test_texts_of_flags_and_environment_become_what_the_field_is(tmp_path: Path) -> None:
    environment = {"UPSWARM_DAEMON_LEND": "yes", "UPSWARM_DAEMON_ADDRESSES": "a:1, b:2"}
    settings = load(tmp_path, "", environment, up_bytes_per_second="off", cache_bytes="1k")
    assert settings.lend is True and settings.addresses == ("a:1", "b:2")
    assert settings.up_bytes_per_second is None and settings.cache_bytes == 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[daemon]\nlisen = 'x'\n", ["upswarm.toml", "lisen", "did you mean listen?"]),
        ("[deamon]\n", ["upswarm.toml", "[deamon]", "did you mean daemon?"]),
        ("[daemon]\nlisten = 3\n", ["[daemon] listen", "a text was expected"]),
        ("[daemon]\nlend = 'yes'\n", ["[daemon] lend", "true or false"]),
        ("[daemon]\nlinks = 'many'\n", ["[daemon] links", "a number was expected"]),
        ("[daemon]\nlinks = 1.5\n", ["whole number"]),
        ("[daemon]\nlinks = true\n", ["a number was expected"]),
        ("[daemon]\nlinks = 0\n", ["links must be at least 1"]),
        ("[daemon]\ncache_bytes = '5 parsecs'\n", ["cache_bytes", "parsecs"]),
        ("[daemon]\nup_bytes_per_second = '5 parsecs'\n", ["up_bytes_per_second", "mbit"]),
        ("[daemon]\nup_bytes_per_second = '0mbit'\n", ["pause"]),
        ("[daemon]\ninterval_seconds = '5 moons'\n", ["interval_seconds", "moons"]),
        ("[daemon]\naddresses = 'a:1'\n", ["a list was expected"]),
        ("[daemon]\nway = 'sideways'\n", ["fast, slow"]),
        ("[daemon]\ndata = '/x'\n", ["unknown setting"]),
        ("[daemon]\nfolder = '~nobody-of-that-name/x'\n", ["[daemon] folder", "no such user"]),
        ("daemon = 3\n", ["must be a section"]),
        ("[daemon\n", ["upswarm.toml"]),
    ],
)
def test_what_is_wrong_is_refused_with_file_key_and_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_variable_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"UPSWARM_DAEMON_LISEN.*did you mean listen"):
        load(tmp_path, "", {"UPSWARM_DAEMON_LISEN": "x"})


def test_a_wrong_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--up-bytes-per-second"):
        load(tmp_path, up_bytes_per_second="fast")


def test_another_programs_section_is_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, "[tracker]\nanything = 1\n") == Settings(data=tmp_path)


def test_a_setting_without_default_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data is needed: give --data"):
        load_config(Settings, "storage", file=tmp_path / "no.toml", environment={}, flags={})


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "upswarm.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "upswarm.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"upswarm\.toml"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("4096", 4096), ("1.5k", 1500), ("20MiB", 20 << 20), ("3 GB", 3 * 10**9), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20mbit", 2.5e6),
        ("8kbit", 1000),
        ("8bit", 1),
        ("2M", 2e6),
        ("500KiB/s", 512000),
        ("1000", 1000),
        ("1gbps", 125e6),
    ],
)
def test_rates_are_bits_with_bit_and_bytes_without(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("15min", 900), ("24h", 86400), ("7d", 604800), ("250ms", 0.25)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_seconds(text) == seconds


@given(st.text(max_size=40))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_size_bytes, parse_rate, parse_duration_seconds):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
