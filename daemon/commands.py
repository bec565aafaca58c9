"""The control socket's table: every method of the daemon and who answers it. Specification: docs/commands.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.carecommands import CareCommands
from daemon.readcommands import ReadCommands
from daemon.transfercommands import TransferCommands
from daemon.viewcommands import ViewCommands
from daemon.watchcommands import WatchCommands
from runtime.control import Handler

if TYPE_CHECKING:
    from daemon.app import Daemon


def methods_of(daemon: Daemon) -> dict[str, Handler]:
    """Return handlers by method."""
    families = (
        TransferCommands(daemon),
        ViewCommands(daemon),
        ReadCommands(daemon),
        WatchCommands(daemon),
        CareCommands(daemon),
    )
    return {method: handler for family in families for method, handler in family.methods().items()}
