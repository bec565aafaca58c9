"""Commands that look: ls, show, status, peers, nodes, storage_nodes, events, check, doctor, version; and leave."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from daemon.hashing import hash_file
from daemon.listing import list_nodes, list_tags
from daemon.parameters import flag, only, optional_text, tag_or_name, text
from daemon.putrecord import Put, PutState
from protocol import messages as m
from protocol.errors import CommandError, LinkLost, NotFound
from protocol.ids import Role, Tag
from protocol.manifest import Layout
from runtime.control import Handler, Notify
from runtime.keyring import remove_keyring

if TYPE_CHECKING:
    from daemon.app import Daemon

FREE_BYTES_MIN = 1 << 30
# The tracker hears of what is stored from its storage node.
NEWS_SECONDS = 5.0


class ViewCommands:
    """See the module; ``methods`` is the table for the control socket."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def methods(self) -> dict[str, Handler]:
        """Return handlers by method."""
        return {
            "ls": self.list_files,
            "show": self.show,
            "status": self.status,
            "peers": self.peers,
            "nodes": self.nodes,
            "storage_nodes": self.storage_nodes,
            "events": self.events,
            "check": self.check,
            "doctor": self.doctor,
            "version": self.version,
            "leave": self.leave,
        }

    async def list_files(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{stored, local} → {files, tracker}: of the swarm and of this node, or of one of them."""
        only(params, "stored", "local")
        stored, local = flag(params, "stored"), flag(params, "local")
        files: dict[Tag, dict[str, Any]] = {}
        tracker = "not asked"
        if not local or stored:
            try:
                for record in await list_tags(self._daemon.tracker_link, stored_only=stored):
                    files[record.tag] = _tag_json(record)
                tracker = "connected"
            except LinkLost:
                if stored:
                    raise
                tracker = "away"
        if local or not stored:
            mine = self._local()
            if local and stored:
                files = {tag: record for tag, record in files.items() if tag in mine}
            for tag, entry in mine.items():
                files.setdefault(tag, entry)["local"] = entry["local"]
        return {"files": list(files.values()), "tracker": tracker}

    async def show(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{tag: tag, link or name} → all that is known of it."""
        only(params, "tag")
        daemon = self._daemon
        what, name = tag_or_name(text(params, "tag"))
        answer: m.WhereAnswer | None = None
        trouble: CommandError | LinkLost | None = None
        try:
            asked = await daemon.tracker_link.ask(
                lambda request: m.Where(
                    request=request,
                    tag=what if isinstance(what, Tag) else None,
                    name=what if isinstance(what, str) else None,
                    size_bytes=0,
                    to_put=False,
                )
            )
            assert isinstance(asked, m.WhereAnswer)
            answer = asked
        except (CommandError, LinkLost) as error:
            trouble = error
        tag = answer.tag if answer is not None else what if isinstance(what, Tag) else self._tag_named(what)
        local = self._local().get(tag) if tag is not None else None
        put = self._stored_just_now(tag) if answer is None and local is None else None
        if tag is None or (answer is None and local is None and put is None):
            assert trouble is not None
            raise trouble
        if answer is None and put is not None:
            local = {"size": put.bytes_total, "name": put.name, "local": None}
        size = answer.size_bytes if answer is not None else local["size"] if local is not None else 0
        return {
            "tag": str(tag),
            "name": name or (answer.name if answer is not None else local["name"] if local is not None else ""),
            "size": size,
            "chunks": tag.chunks,
            "chunk_bytes": Layout.of_size(size).chunk_bytes,
            "state": answer.state.value if answer is not None else "stored" if put is not None else "unknown",
            "storage": answer.storage.node if answer is not None and answer.storage is not None else None,
            "holders": [holder.node for holder in answer.holders] if answer is not None else [],
            "local": local["local"] if local is not None else None,
            "paths": [str(file.path) for file in daemon.library.files_of(tag)],
            "puts": [put.progress(daemon.now()) for put in daemon.puts.all() if put.tag == tag],
            "gets": [get.progress(daemon.now()) for get in daemon.gets.all() if get.tag == tag],
        }

    async def status(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → how the daemon stands."""
        only(params)
        return self._daemon.statistics().to_json()

    async def peers(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → {links, lan}: whom we are linked to, and whom we see on the LAN."""
        only(params)
        return {
            "links": [peer.to_json() for peer in self._daemon.peers()],
            "lan": [
                {"node": found.node, "role": found.role.value, "addresses": list(found.addresses)}
                for found in self._daemon.lan.nodes()
            ],
        }

    async def nodes(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → {nodes}: the swarm as the tracker knows it."""
        only(params)
        return {"nodes": [_node_json(record) for record in await list_nodes(self._daemon.tracker_link)]}

    async def storage_nodes(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → {nodes}: those of role storage."""
        only(params)
        return {
            "nodes": [
                _node_json(record)
                for record in await list_nodes(self._daemon.tracker_link)
                if record.role is Role.STORAGE
            ]
        }

    async def events(self, params: dict[str, Any], notify: Notify) -> Any:
        """{follow} → {events}; with follow: ``event`` notifications until the caller hangs up."""
        only(params, "follow")
        ring = self._daemon.events
        events = ring.since()
        if not flag(params, "follow"):
            return {"events": events}
        last = 0
        while True:
            for event in events:
                await notify("event", event)
                last = event["number"]
            events = await ring.wait_after(last)

    async def check(self, params: dict[str, Any], notify: Notify) -> Any:
        """{tag?} → {files, ok}: local files read again; one that is not what it was is offered no longer."""
        only(params, "tag")
        daemon = self._daemon
        given = optional_text(params, "tag")
        files = daemon.library.files()
        if given is not None:
            what, _ = tag_or_name(given)
            files = [file for file in files if what in (file.tag, file.name)]
            if not files:
                raise NotFound(f"{given[:200]}: this node has no such file")
        found = []
        for file in files:
            says, ok = "as it was", True
            try:
                manifest, status = await hash_file(daemon.runtime, file.path)
                if manifest.tag != file.tag:
                    says, ok = f"has other bytes: {manifest.tag}", False
                elif status != file.status:
                    await daemon.library.add(manifest, file.path, status, file.name, file.origin)
            except CommandError as error:
                says, ok = error.sentence, False
            if not ok:
                await daemon.library.drop(file.path)
            entry = {"path": str(file.path), "tag": str(file.tag), "ok": ok, "says": says}
            await notify("progress", {"path": entry["path"], "state": "done" if ok else "failed"})
            found.append(entry)
        return {"ok": all(entry["ok"] for entry in found), "files": found}

    async def doctor(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → {checks: [{check, ok, says}]}."""
        only(params)
        daemon = self._daemon
        tracker = daemon.tracker_link.statistics()
        state = daemon.config.places.state
        try:
            free_bytes = await daemon.runtime.run_sync(daemon.runtime.disk.free_bytes, state)
            room = (free_bytes >= FREE_BYTES_MIN, f"{free_bytes >> 20} MiB free at {state}")
        except OSError as error:
            room = (False, f"{state}: {error.strerror}")
        waiting = [put.id for put in daemon.puts.active() if put.note]
        checks = [
            ("tracker", tracker.connected, f"connected at {tracker.address}" if tracker.connected else tracker.trouble),
            ("listening", bool(daemon.listen), daemon.listen),
            ("room", *room),
            (
                "paused",
                not daemon.settings.settings.paused,
                "paused; upswarm resume" if daemon.paused else "not paused",
            ),
            ("puts", not waiting, f"waiting: {', '.join(waiting[:10])}" if waiting else "none waits"),
            ("lan", True, f"{len(daemon.lan.nodes())} nodes seen" if daemon.config.mdns else "mDNS is switched off"),
        ]
        return {"checks": [{"check": name, "ok": ok, "says": says or ""} for name, ok, says in checks]}

    async def version(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → {program, version}."""
        only(params)
        return {"program": "daemon", "version": metadata.version("upswarm")}

    async def leave(self, params: dict[str, Any], _notify: Notify) -> Any:
        """{} → {left, identity}: forget key and certificate, and stop."""
        only(params)
        folder = self._daemon.config.places.identity
        await remove_keyring(self._daemon.runtime, folder)
        self._daemon.stop_soon()
        return {"left": True, "identity": str(folder)}

    # --- inside ---

    def _local(self) -> dict[Tag, dict[str, Any]]:
        found: dict[Tag, dict[str, Any]] = {}
        for file in self._daemon.library.files():
            how = "shared" if file.shared else {"put": "put", "share": "shared", "get": "downloaded"}[file.origin]
            entry = {"tag": str(file.tag), "size": file.status.size_bytes, "name": file.name, "local": how}
            found.setdefault(file.tag, {**entry, "state": "local", "path": str(file.path)})
        for partial in self._daemon.library.partials():
            tag = partial.manifest.tag
            how = f"{len(partial.bitmap)} of {tag.chunks} chunks"
            entry = {"tag": str(tag), "size": partial.manifest.size_bytes, "name": partial.name, "local": how}
            found.setdefault(tag, {**entry, "state": "downloading"})
        return found

    def _stored_just_now(self, tag: Tag | None) -> Put | None:
        """Return a put of ours that has ended so lately that the tracker may not have heard of it."""
        now = self._daemon.runtime.clock.wall()
        for put in self._daemon.puts.all():
            if put.tag == tag and put.state is PutState.STORED and now - put.began - (put.seconds or 0) < NEWS_SECONDS:
                return put
        return None

    def _tag_named(self, name: str) -> Tag | None:
        file = self._daemon.library.newest_named(name)
        return file.tag if file is not None else None


def _tag_json(record: m.TagRecord) -> dict[str, Any]:
    return {
        "tag": str(record.tag),
        "size": record.size_bytes,
        "name": record.names[0] if record.names else "",
        "names": list(record.names),
        "state": record.state,
        "holders": record.holders,
        "storage": record.storage,
        "since": record.since,
    }


def _node_json(record: m.NodeRecord) -> dict[str, Any]:
    return {
        "node": record.node,
        "role": record.role.value,
        "name": record.name,
        "addresses": list(record.addresses),
        "state": record.state,
        "seen_seconds_ago": record.seen_seconds_ago,
        "tags": record.tags,
        "room_bytes": record.room_bytes,
    }
