"""Commands for programs that use a swarm as they use files: read a range, wait for a job that somebody else began."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from daemon.parameters import only, tag_or_name, text
from daemon.putrecord import Put
from daemon.reading import READ_BYTES_MAX
from daemon.transfercommands import Notices, find_job
from protocol.errors import CommandError
from runtime.control import Handler, Notify

if TYPE_CHECKING:
    from daemon.app import Daemon


class ReadCommands:
    """See the module; ``methods`` is the table for the control socket."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def methods(self) -> dict[str, Handler]:
        """Return handlers by method."""
        return {"read": self.read, "wait": self.wait}

    async def read(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{what, offset, length} → {tag, name, size, offset, data}: ``data`` in base64, shorter at the file's end."""
        only(params, "what", "offset", "length")
        what, name = tag_or_name(text(params, "what"))
        offset, length = _count(params, "offset"), _count(params, "length")
        if length > READ_BYTES_MAX:
            raise CommandError("usage", f"length: at most {READ_BYTES_MAX} bytes at a time", 2)
        reading = self._daemon.reading
        manifest, known = await reading.manifest(what)
        data = await reading.read(manifest, offset, length)
        return {
            "tag": str(manifest.tag),
            "name": name or known,
            "size": manifest.size_bytes,
            "offset": offset,
            "data": base64.b64encode(data).decode("ascii"),
        }

    async def wait(self, params: dict[str, Any], notify: Notify) -> Any:
        """{id} → progress, then what the put or get has become."""
        only(params, "id")
        job = find_job(self._daemon, text(params, "id"))
        if isinstance(job, Put):
            await self._daemon.puts.wait(job, "stored", Notices(notify))
        else:
            await self._daemon.gets.wait(job, Notices(notify))
        return job.result()


def _count(params: dict[str, Any], key: str) -> int:
    value = params.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise CommandError("usage", f"{key}: a whole number from 0 on was expected", 2)
    return value
