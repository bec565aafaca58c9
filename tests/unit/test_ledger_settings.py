"""Settings of a shared ledger: what cannot work is said at the start, and no password is ever shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from protocol.errors import ConfigError
from protocol.ids import NodeId
from runtime.config import Secret
from runtime.places import Places
from runtime.seam import Database, Runtime
from storage.config import StorageConfig
from storage.ledger.choice import chosen_ledger

WORD = "a word that nobody may print"
LEDGER = "postgresql://upswarm@db.example.org/upswarm"


def config(folder: Path, **settings: Any) -> StorageConfig:
    s3: dict[str, Any] = {
        "backend": "s3",
        "s3_endpoint": "http://s3.test:9000",
        "s3_bucket": "bucket",
        "s3_access_key": "AKID",
        "s3_secret_key": Secret("word"),
    }
    return StorageConfig(places=Places.of(folder, "storage"), **{**s3, **settings})


def test_sqlite_is_what_holds_without_a_word(tmp_path: Path) -> None:
    assert not config(tmp_path).shared
    assert config(tmp_path, ledger=LEDGER).shared


@pytest.mark.parametrize("ledger", ["mysql://db/upswarm", "postgresql://db", "postgres", "", "/var/lib/ledger.db"])
def test_an_address_that_is_none_is_told(tmp_path: Path, ledger: str) -> None:
    with pytest.raises(ConfigError, match=r"\[storage\] ledger: right would be"):
        config(tmp_path, ledger=ledger)


@pytest.mark.parametrize("ledger", [f"postgresql://upswarm:{WORD}@db/upswarm", f"{LEDGER}?password={WORD}"])
def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path, ledger: str) -> None:
    with pytest.raises(ConfigError, match="ledger_password_file") as caught:
        config(tmp_path, ledger=ledger)
    assert WORD not in str(caught.value)


@pytest.mark.parametrize("settings", [{"ledger": LEDGER}, {"direct": True}])
def test_sharing_and_direct_mode_need_a_bucket(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match='backend = "s3"'):
        config(tmp_path, backend="directory", **settings)


@pytest.mark.parametrize("seconds", [0.0, 1.9, 3601.0])
def test_a_lease_has_bounds(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ConfigError, match="lease_seconds"):
        config(tmp_path, lease_seconds=seconds)


def test_one_password_is_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ledger_password"):
        config(tmp_path, ledger=LEDGER, ledger_password=Secret(WORD), ledger_password_file=tmp_path / "word")


async def never_asked(_address: str, _password: str, _schema: str) -> NoReturn:
    pytest.fail("asked")


async def asked_with(settings: StorageConfig, runtime: Runtime) -> list[str]:
    """The password that the database is opened with."""
    heard: list[str] = []

    async def open_shared(address: str, password: str, _schema: str) -> Database:
        heard.append(password)
        raise ConfigError(f"nobody at {address}")

    with pytest.raises(ConfigError, match="nobody at") as caught:
        await chosen_ledger(settings, runtime, NodeId("node"), open_shared)
    assert WORD not in str(caught.value)
    return heard


async def test_the_password_comes_from_its_file_or_the_environment(tmp_path: Path, runtime: Runtime) -> None:
    path = tmp_path / "word"
    path.touch(mode=0o600)
    path.write_text(f"{WORD}\n")
    assert await asked_with(config(tmp_path, ledger=LEDGER, ledger_password_file=path), runtime) == [WORD]
    assert await asked_with(config(tmp_path, ledger=LEDGER, ledger_password=Secret(WORD)), runtime) == [WORD]
    assert await asked_with(config(tmp_path, ledger=LEDGER), runtime) == [""]


async def test_a_password_that_others_may_read_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    path = tmp_path / "word"
    path.write_text(WORD)
    path.chmod(0o644)
    for wrong in (path, tmp_path / "absent"):
        settings = config(tmp_path, ledger=LEDGER, ledger_password_file=wrong)
        with pytest.raises(ConfigError) as caught:
            await chosen_ledger(settings, runtime, NodeId("node"), never_asked)
        assert WORD not in str(caught.value) and str(wrong) in str(caught.value)
