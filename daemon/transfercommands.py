"""Commands that move files or steer what moves: put, get, share, unshare, pause, resume, cancel, limit.

They begin a put or a get and watch it; the job lives in puts.py or gets.py and goes on when the caller hangs up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from daemon.getrecord import Get
from daemon.hashing import hash_file
from daemon.manyputs import ManyPuts
from daemon.parameters import (
    absolute_path,
    absolute_paths,
    only,
    optional_name,
    optional_seconds,
    optional_text,
    tag_or_name,
    text,
)
from daemon.putrecord import Put, error_json
from daemon.puts import Until
from daemon.settings import read_rate, read_switch, read_timetable
from daemon.timetable import Caps
from daemon.walking import Found, Skipped, find_files
from protocol.errors import CommandError, NotFound
from protocol.ids import Tag
from protocol.invite import Link as FileLink
from runtime.control import Handler, Notify

if TYPE_CHECKING:
    from daemon.app import Daemon

# A person sees five changes a second as motion; more is work for nobody.
NOTICE_SECONDS_MIN = 0.2
# Of more jobs than that nobody reads which of them is hashed and which is asked about just now (crowd.py).
NOTICE_JOBS_MANY = 32


class Notices:
    """Progress for one caller: a few a second for each job, and at once what somebody waits for, one line at a time:
    that it comes further, or that they may leave."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._turn = trio.Lock()
        self._said: dict[str, tuple[object, float]] = {}

    async def __call__(self, job: Put | Get) -> None:
        before = self._said.get(job.id)
        if before is not None and before[0] == self._standing(job):
            if job.state.final:
                return  # That was the last word.
            # What changes meanwhile is in the one that is sent then; what somebody waits for is sent at once.
            due = before[1] + NOTICE_SECONDS_MIN
            while before[0] == self._standing(job) and trio.current_time() < due:
                with trio.move_on_at(due):
                    await job.changed.wait()
        async with self._turn:
            self._said[job.id] = (self._standing(job), trio.current_time())
            await self._notify("progress", job.progress(trio.current_time()))

    def _standing(self, job: Put | Get) -> object:
        return job.state, isinstance(job, Put) and job.safe


class TransferCommands:
    """See the module; ``methods`` is the table for the control socket."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def methods(self) -> dict[str, Handler]:
        """Return handlers by method."""
        return {
            "put": self.put,
            "get": self.get,
            "share": self.share,
            "unshare": self.unshare,
            "pause": self.pause,
            "resume": self.resume,
            "cancel": self.cancel,
            "limit": self.limit,
        }

    async def put(self, params: dict[str, Any], notify: Notify) -> Any:
        """{paths, name?, wait, expires?: seconds} → progress, then {results, skipped}."""
        only(params, "paths", "name", "wait", "expires")
        paths, name = absolute_paths(params, "paths"), optional_name(params, "name")
        wait = params.get("wait", "stored")
        if wait not in ("stored", "safe", "no"):
            raise CommandError("usage", "wait: stored, safe or no was expected", 2)
        if name and len(paths) > 1:
            raise CommandError("usage", "name fits one path only", 2)
        found, skipped = await self._find(paths, name)
        puts = await self._daemon.puts.put_all(
            [(file.path, file.name) for file in found], optional_seconds(params, "expires")
        )
        if wait == "no":
            for put in puts:
                await notify("progress", put.progress(trio.current_time()))
        elif len(puts) > NOTICE_JOBS_MANY:
            await ManyPuts(puts, cast(Until, wait), notify).watch()
        else:
            notices = Notices(notify)
            await self._watch_all(puts, lambda put: self._daemon.puts.wait(put, cast(Until, wait), notices))
        return {"results": [put.result() for put in puts], "skipped": _skipped_json(skipped)}

    async def get(self, params: dict[str, Any], notify: Notify) -> Any:
        """{what, output} → progress, then the result."""
        only(params, "what", "output")
        what, name = tag_or_name(text(params, "what"))
        output = params.get("output")
        target = absolute_path(output, "output") if output is not None else None
        get = await self._daemon.gets.get(what, name, target)
        await self._daemon.gets.wait(get, Notices(notify))
        if get.error is not None:
            raise get.error
        if get.state.value != "done":
            raise CommandError("cancelled", f"{get.id} was {get.state.value}", 7)
        return get.result()

    async def share(self, params: dict[str, Any], notify: Notify) -> Any:
        """{paths} → progress, then {results, skipped}."""
        only(params, "paths")
        found, skipped = await self._find(absolute_paths(params, "paths"), None)
        return {
            "results": [await self._share(file, notify) for file in found],
            "skipped": _skipped_json(skipped),
        }

    async def unshare(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{what: tag, path, name or link} → {paths}: they are offered no longer."""
        only(params, "what")
        what = text(params, "what")
        library = self._daemon.library
        if what.startswith("/"):
            files = [file for file in [library.file(Path(what))] if file is not None]
        else:
            wanted, _ = tag_or_name(what)
            files = library.files_of(wanted) if isinstance(wanted, Tag) else library.files_named(wanted)
        if not files:
            raise NotFound(f"{what[:200]}: this node offers no such file")
        for put in self._daemon.puts.active():
            if any(put.path == file.path for file in files):
                raise CommandError("busy", f"{put.path} is being put; upswarm cancel {put.id} first", 5)
        for file in files:
            await library.drop(file.path)
            self._daemon.events.add("file unshared", tag=str(file.tag), path=str(file.path))
        return {"paths": [str(file.path) for file in files]}

    async def pause(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{id?}: one job, or everything."""
        return await self._steer(params, paused=True)

    async def resume(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{id?}: one job, or everything."""
        return await self._steer(params, paused=False)

    async def cancel(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{id} → {id, state}."""
        only(params, "id")
        job = find_job(self._daemon, text(params, "id"))
        await (self._daemon.puts.cancel(job) if isinstance(job, Put) else self._daemon.gets.cancel(job))
        return {"id": job.id, "state": job.state.value}

    async def limit(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{up?, down?, help?: bytes per second or "off"; timetable?: text; idle?: "on" or "off"} → what is set, and
        what holds ``now``."""
        only(params, "up", "down", "help", "timetable", "idle")
        changed: dict[str, float | str | None] = {
            key: read_rate(key, params[key]) for key in ("up", "down", "help") if key in params
        }
        if "timetable" in params:
            changed["timetable"] = read_timetable(params["timetable"])
        if "idle" in params:
            changed["idle"] = read_switch("idle", params["idle"])
        if changed:
            await self._daemon.settings.change(**changed)
            self._daemon.apply_settings()
            self._daemon.events.add("limits changed", **changed)
        settings = self._daemon.settings.settings
        return {
            **_caps_json(settings.caps),
            "timetable": settings.timetable or "off",
            "idle": "on" if settings.idle else "off",
            "now": _caps_json(self._daemon.caps),
        }

    # --- inside ---

    async def _find(self, paths: list[Path], name: str | None) -> tuple[list[Found], list[Skipped]]:
        found: dict[Path, Found] = {}
        skipped: list[Skipped] = []
        for path in paths:
            more, without = await self._daemon.runtime.run_sync(find_files, self._daemon.runtime.disk, path, name)
            found.update((file.path, file) for file in more)
            skipped += without
        return list(found.values()), skipped

    async def _watch_all(self, puts: list[Put], wait: Callable[[Put], Awaitable[None]]) -> None:
        async with trio.open_nursery() as watches:
            for put in puts:
                watches.start_soon(wait, put, name=f"watch {put.id}")

    async def _share(self, file: Found, notify: Notify) -> dict[str, Any]:
        daemon = self._daemon
        result: dict[str, Any] = {"path": str(file.path), "name": file.name}
        try:
            known = await daemon.library.remembered(file.path)
            manifest = await daemon.library.manifest(known.tag) if known is not None else None
            if known is not None and manifest is not None:
                status, name = known.status, known.name
            else:
                await notify("progress", {**result, "state": "hashing"})
                manifest, status = await hash_file(daemon.runtime, file.path)
                name = file.name
            await daemon.library.add(manifest, file.path, status, name, "share")
        except CommandError as error:
            return {**result, "state": "failed", "error": error_json(error)}
        daemon.events.add("file shared", tag=str(manifest.tag), name=name)
        link = FileLink(tag=manifest.tag, name=name, size_bytes=manifest.size_bytes)
        result = {**result, "name": name, "tag": str(manifest.tag), "size": manifest.size_bytes, "link": str(link)}
        await notify("progress", {**result, "state": "done"})
        return {**result, "state": "shared"}

    async def _steer(self, params: dict[str, Any], *, paused: bool) -> Any:
        only(params, "id")
        job_id = optional_text(params, "id")
        if job_id is None:
            await self._daemon.settings.change(paused=paused)
            self._daemon.apply_settings()
            self._daemon.events.add("paused" if paused else "resumed")
            return {"paused": paused}
        job = find_job(self._daemon, job_id)
        if job.state.final:
            raise CommandError("ended", f"{job.id} has ended already: {job.state.value}", 1)
        if isinstance(job, Put):
            await (self._daemon.puts.pause(job) if paused else self._daemon.puts.resume(job))
        else:
            await (self._daemon.gets.pause(job) if paused else self._daemon.gets.resume(job))
        return {"id": job.id, "paused": job.paused}


def find_job(daemon: Daemon, job_id: str) -> Put | Get:
    """Return the put or get that the user calls ``job_id``. Raises ``NotFound``."""
    if job_id.startswith("g"):
        return daemon.gets.find(job_id)
    return daemon.puts.find(job_id)


def _caps_json(caps: Caps) -> dict[str, float | str]:
    return {key: "off" if rate is None else rate for key, rate in dataclasses.asdict(caps).items()}


def _skipped_json(skipped: list[Skipped]) -> list[dict[str, str]]:
    return [{"path": str(one.path), "reason": one.reason} for one in skipped]
