"""Which backend a storage node uses, made from its settings. Also sees to it that a data folder stays with its backend.

The ledger of a data folder speaks of the objects of one backend. With another one it would find none of them and give
all of them up as lost; so the folder remembers where its objects are (``DATA/backend``; absent: in the folder itself).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from protocol.errors import ConfigError
from protocol.ids import Tag
from runtime.seam import Runtime, Web
from storage.backends.base import Backend
from storage.backends.credentials import keys_of_file
from storage.backends.directory import DirectoryBackend
from storage.backends.retrying import RetryingBackend
from storage.backends.s3 import S3Backend
from storage.backends.s3client import S3Settings
from storage.backends.sigv4 import S3Keys
from storage.config import StorageConfig

OpenWeb = Callable[[], AbstractAsyncContextManager[Web]]

_DIRECTORY = "directory"


@asynccontextmanager
async def chosen_backend(
    config: StorageConfig,
    runtime: Runtime,
    owner: str,
    spool_folder: Path,
    open_web: OpenWeb | None,
    keep: Mapping[Tag, str] | None,
    name_of: Callable[[Tag], str | None],
) -> AsyncIterator[Backend]:
    """Make the backend, ready to use, while the block lasts. ``open_web``: how to reach HTTP servers; S3 needs it.
    ``owner`` and ``keep``: whose the bucket's prefix is, and which uploads in parts are not aborted (s3.py).
    ``name_of``: what a file is called; None where that is not known (yet).

    Raises:
        ConfigError: a setting is wrong, or the data folder's objects are elsewhere.
    """
    folder = config.data_folder
    if config.backend == "directory":
        backend: Backend = DirectoryBackend(runtime, folder / "objects", spool_folder)
        await backend.prepare()
        yield backend
        return
    assert open_web is not None
    settings = await s3_settings(config, runtime)
    async with open_web() as web:
        backend = RetryingBackend(
            runtime,
            S3Backend(
                runtime,
                web,
                settings,
                spool_folder,
                owner=owner,
                keep=keep,
                parts_at_once=config.s3_parts_at_once,
                read_back=config.s3_verify == "read",
                key=config.s3_key,
                name_of=name_of,
            ),
        )
        await backend.prepare()
        yield backend


async def keep_to_backend(config: StorageConfig, runtime: Runtime) -> None:
    """See to it that the data folder's objects are where the settings say. To be called before its ledger is opened.

    Raises:
        ConfigError: they are elsewhere.
    """
    place = _DIRECTORY
    if config.backend == "s3":
        place = f"s3 {_endpoint(config)} {config.s3_bucket}/{config.s3_prefix}"
    await runtime.run_sync(_keep_to, runtime, config.data_folder, place)


def _endpoint(config: StorageConfig) -> str:
    return (config.s3_endpoint or f"https://s3.{config.s3_region}.amazonaws.com").rstrip("/")


async def s3_settings(config: StorageConfig, runtime: Runtime) -> S3Settings:
    """Return where the objects are, and the keys.

    Raises:
        ConfigError: there are no keys, or they cannot be read.
    """
    if config.s3_credentials is not None:
        keys = await keys_of_file(runtime, config.s3_credentials)
    else:
        keys = S3Keys(config.s3_access_key, config.s3_secret_key.reveal(), config.s3_session_token.reveal())
    addressing = config.s3_addressing
    if addressing == "auto":
        # AWS wants the bucket in the name; most other stores have no wildcard certificate for that.
        addressing = "path" if config.s3_endpoint else "virtual"
    return S3Settings(
        endpoint=_endpoint(config),
        bucket=config.s3_bucket,
        prefix=config.s3_prefix,
        region=config.s3_region,
        addressing=addressing,
        keys=keys,
    )


def _keep_to(runtime: Runtime, folder: Path, wanted: str) -> None:
    path = folder / "backend"
    try:
        known = runtime.disk.read_small(path).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        known = _DIRECTORY if _is_there(runtime, folder / "ledger.db") else ""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if known and known != wanted:
        raise ConfigError(
            f"{folder}: its files are in {known!r}, not in {wanted!r}; set [storage] backend back, or give another"
            f" --data. If the files were moved, write {wanted!r} into {path}"
        )
    if not known and wanted != _DIRECTORY:
        runtime.disk.write_small(path, wanted.encode() + b"\n")


def _is_there(runtime: Runtime, path: Path) -> bool:
    try:
        runtime.disk.status(path)
    except FileNotFoundError:
        return False
    return True
