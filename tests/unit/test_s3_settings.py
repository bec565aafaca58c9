"""Settings of the S3 backend: what is wrong is told with what would be right, and keys are never shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from protocol.errors import ConfigError
from runtime.config import NO_SECRET, Secret, load_config
from runtime.places import Places
from runtime.seam import Runtime, Web
from storage.backends import credentials
from storage.backends.choice import s3_settings
from storage.backends.credentials import keys_of_file
from storage.backends.s3client import S3Client
from storage.backends.sigv4 import S3Keys
from storage.config import StorageConfig

GOOD: dict[str, Any] = {
    "backend": "s3",
    "s3_bucket": "films",
    "s3_access_key": "AKID",
    "s3_secret_key": Secret("do not print me"),
}


def config(folder: Path, **settings: Any) -> StorageConfig:
    return StorageConfig(places=Places.of(folder, "storage"), **{**GOOD, **settings})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"s3_bucket": ""}, "s3_bucket: ''; right would be the name of a bucket"),
        ({"s3_bucket": "Films!"}, "s3_bucket"),
        ({"s3_prefix": "node-1"}, "'/' at its end"),
        ({"s3_prefix": "/node-1/"}, "s3_prefix"),
        ({"s3_prefix": "a b/"}, "s3_prefix"),
        ({"s3_prefix": "films/../"}, "s3_prefix"),
        ({"s3_region": "Frankfurt, Germany"}, "s3_region"),
        ({"s3_endpoint": "s3.example.org"}, "right would be https://s3.example.org"),
        ({"s3_endpoint": "https://s3.example.org/films"}, "without a path"),
        ({"s3_endpoint": "https://user:pass@s3.example.org"}, "s3_endpoint"),
        ({"s3_endpoint": "ftp://s3.example.org"}, "s3_endpoint"),
        ({"s3_endpoint": "http://s3:port"}, "s3_endpoint"),
        ({"s3_parts_at_once": 0}, "s3_parts_at_once"),
        ({"s3_access_key": ""}, "name a file with the keys"),
        ({"s3_secret_key": NO_SECRET}, "name a file with the keys"),
        ({"s3_credentials": Path("keys")}, "give the one or the others"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=r"\[storage\] s3_") as told:
        config(tmp_path, **settings)
    assert says in str(told.value)


def test_settings_of_s3_do_not_matter_while_files_stay_in_a_folder(tmp_path: Path) -> None:
    StorageConfig(places=Places.of(tmp_path, "storage"), s3_endpoint="nonsense")


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://films.s3.us-east-1.amazonaws.com/key"),
        ({"s3_region": "eu-central-1"}, "https://films.s3.eu-central-1.amazonaws.com/key"),
        ({"s3_addressing": "path"}, "https://s3.us-east-1.amazonaws.com/films/key"),
        ({"s3_endpoint": "http://127.0.0.1:8333"}, "http://127.0.0.1:8333/films/key"),
        ({"s3_endpoint": "https://s3.example.org/"}, "https://s3.example.org/films/key"),
        ({"s3_endpoint": "https://s3.example.org", "s3_addressing": "virtual"}, "https://films.s3.example.org/key"),
    ],
)
async def test_where_requests_go(runtime: Runtime, tmp_path: Path, settings: dict[str, Any], url: str) -> None:
    client = S3Client(runtime.clock, cast(Web, None), await s3_settings(config(tmp_path, **settings), runtime))
    assert client.target("key").url == url


# --- secrets ---


def loaded(tmp_path: Path, text: str, environment: dict[str, str]) -> StorageConfig:
    file = tmp_path / "upswarm.toml"
    file.write_text(text)
    return load_config(
        StorageConfig,
        "storage",
        file=file,
        environment=environment,
        flags={},
        fixed={"places": Places.of(tmp_path, "storage")},
    )


def test_keys_come_from_the_environment(tmp_path: Path) -> None:
    environment = {"UPSWARM_STORAGE_S3_ACCESS_KEY": "AKID", "UPSWARM_STORAGE_S3_SECRET_KEY": "do not print me"}
    settings = loaded(tmp_path, '[storage]\nbackend = "s3"\ns3_bucket = "films"\n', environment)
    assert settings.s3_secret_key.reveal() == "do not print me"
    assert settings.s3_secret_key == Secret("do not print me") != Secret("other")


def test_a_secret_in_the_config_file_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3_secret_key: a secret has no place in this file") as told:
        loaded(tmp_path, '[storage]\ns3_secret_key = "do not print me"\n', {})
    assert "do not print" not in repr(told.value)


def test_settings_that_are_shown_show_no_secret(tmp_path: Path) -> None:
    settings = config(tmp_path, s3_session_token=Secret("nor me"))
    shown = f"{settings} {settings!r} {dataclasses.asdict(settings)}"
    assert "do not print" not in shown and "nor me" not in shown and "***" in shown


# --- the file of keys ---


def keys_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_keys_come_from_a_file_as_amazons_tools_read_it(runtime: Runtime, tmp_path: Path) -> None:
    path = keys_file(
        tmp_path, "# mine\n[films]\naws_access_key_id=AKID\naws_secret_access_key = a%b/c+d=\naws_session_token = t\n"
    )
    assert await keys_of_file(runtime, path) == S3Keys("AKID", "a%b/c+d=", "t")
    settings = config(tmp_path, s3_credentials=path, s3_access_key="", s3_secret_key=NO_SECRET)
    assert (await s3_settings(settings, runtime)).keys.access_key == "AKID"


@pytest.mark.parametrize(
    "text",
    ["", "do not print me", "[default]\naws_access_key_id = AKID\n", "[default]\ndo not print me\n", "[a\n", "\0"],
)
async def test_a_file_without_keys_says_what_is_expected_and_nothing_of_its_content(
    runtime: Runtime, tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigError, match="aws_secret_access_key") as told:
        await keys_of_file(runtime, keys_file(tmp_path, text))
    assert "do not print" not in repr(told.value) and told.value.__cause__ is None


async def test_a_file_that_others_may_read_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chmod 0600"):
        await keys_of_file(runtime, keys_file(tmp_path, "[default]\n", 0o640))


async def test_a_file_that_is_not_there_is_named(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s3_credentials: .*/absent: cannot be read"):
        await keys_of_file(runtime, tmp_path / "absent")


async def test_systemd_guards_its_credentials_itself(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files there may have mode 0440, with an access list that shows as group rights."""
    path = keys_file(tmp_path, "[default]\naws_access_key_id = AKID\naws_secret_access_key = secret\n", 0o440)
    monkeypatch.setattr(credentials, "SYSTEMD_CREDENTIALS", tmp_path)
    assert (await keys_of_file(runtime, path)).access_key == "AKID"
