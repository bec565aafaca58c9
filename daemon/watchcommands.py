"""Commands about watched folders: watch_add, watch_remove, watch_list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.parameters import absolute_path, only
from runtime.control import Handler, Notify

if TYPE_CHECKING:
    from daemon.app import Daemon


class WatchCommands:
    """See the module; ``methods`` is the table for the control socket."""

    def __init__(self, daemon: Daemon) -> None:
        self._watching = daemon.watching

    def methods(self) -> dict[str, Handler]:
        """Return handlers by method."""
        return {"watch_add": self.add, "watch_remove": self.remove, "watch_list": self.list_folders}

    async def add(self, params: dict[str, Any], notify: Notify) -> Any:
        """{path} → {folders}: it is watched from now on."""
        only(params, "path")
        await self._watching.add(absolute_path(params.get("path"), "path"))
        return await self.list_folders({}, notify)

    async def remove(self, params: dict[str, Any], notify: Notify) -> Any:
        """{path} → {folders}: it is watched no longer."""
        only(params, "path")
        await self._watching.remove(absolute_path(params.get("path"), "path"))
        return await self.list_folders({}, notify)

    async def list_folders(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → {folders}."""
        only(params)
        return {"folders": self._watching.to_json()}
