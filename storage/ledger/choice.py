"""Which ledger a storage node uses, made from its settings; and its password, which is never shown."""

from __future__ import annotations

from protocol.errors import ConfigError
from protocol.ids import NodeId
from runtime.seam import Runtime
from storage.backends.credentials import SYSTEMD_CREDENTIALS
from storage.config import StorageConfig
from storage.ledger.base import Ledger
from storage.ledger.postgres import OpenShared, PostgresLedger
from storage.ledger.sqlite import SqliteLedger


async def chosen_ledger(
    config: StorageConfig, runtime: Runtime, node: NodeId, open_shared: OpenShared | None
) -> tuple[Ledger, str]:
    """Open it; return it and a word that stays its own. ``open_shared``: how to reach one that others use, too.

    Raises:
        ConfigError: a setting is wrong, or the ledger cannot be used.
    """
    if not config.shared:
        return await SqliteLedger.open(runtime, config.data_folder / "ledger.db"), node
    assert open_shared is not None
    password = await _password(config, runtime)
    ledger = await PostgresLedger.open(open_shared, config.ledger, password, node, config.lease_seconds)
    return ledger, f"ledger {ledger.id}"


async def _password(config: StorageConfig, runtime: Runtime) -> str:
    path = config.ledger_password_file
    if path is None:
        return config.ledger_password.reveal()

    def read() -> bytes:
        # systemd guards its folder itself.
        return (
            runtime.disk.read_small(path, 1 << 16)
            if path.is_relative_to(SYSTEMD_CREDENTIALS)
            else runtime.disk.read_secret(path)
        )

    try:
        return (await runtime.run_sync(read)).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"[storage] ledger_password_file: {path}: cannot be read ({reason})") from error
