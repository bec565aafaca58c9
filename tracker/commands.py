"""What the person at this machine may ask of the tracker, over the control socket (runtime/control.py).

Checks what comes in, calls, and makes JSON of what comes out. The methods can be called as soon as the socket is there;
they wait until the tracker has come up. Specification: docs/commands.md#tracker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, Protocol

import trio

from protocol.errors import CommandError
from protocol.ids import Role
from protocol.invite import Invite
from runtime.control import Handler, Notify
from tracker.answers import node_record
from tracker.index.base import Index
from tracker.membership import Member
from tracker.rotation import Rotation
from tracker.statistics import TrackerStatistics

DEFAULT_EXPIRES_SECONDS = 24 * 3600.0


def version() -> str:
    """Return the version of this installation."""
    return metadata.version("upswarm")


class Commanded(Protocol):
    """What commands need of a running tracker."""

    index: Index

    def now(self) -> float: ...

    async def members(self) -> tuple[Member, ...]: ...

    async def invite(self, role: Role, uses: int, expires_seconds: float) -> Invite: ...

    async def revoke(self, prefix: str) -> Member: ...

    async def rotate(self, finish: bool, force: bool) -> Rotation: ...

    async def statistics(self) -> TrackerStatistics: ...


class Commands:
    """The methods of the control socket; ``serve`` says which tracker they are for."""

    def __init__(self) -> None:
        self._tracker: Commanded | None = None
        self._up = trio.Event()

    def serve(self, tracker: Commanded) -> None:
        """From now on the methods work."""
        self._tracker = tracker
        self._up.set()

    def methods(self) -> dict[str, Handler]:
        """Return the methods by name."""
        commands: dict[str, Callable[[Commanded, dict[str, Any]], Awaitable[Any]]] = {
            "invite": _invite,
            "nodes": _nodes,
            "revoke": _revoke,
            "rotate": _rotate,
            "status": _status,
            "version": _version,
        }
        return {name: self._method(command) for name, command in commands.items()}

    def _method(self, command: Callable[[Commanded, dict[str, Any]], Awaitable[Any]]) -> Handler:
        async def call(params: dict[str, Any], _notify: Notify) -> Any:
            await self._up.wait()
            assert self._tracker is not None
            return await command(self._tracker, params)

        return call


async def _invite(tracker: Commanded, params: dict[str, Any]) -> Any:
    word = params.get("role", Role.PEER.value)
    uses = params.get("uses", 1)
    expires_seconds = params.get("expires_seconds", DEFAULT_EXPIRES_SECONDS)
    if word not in (Role.PEER.value, Role.STORAGE.value):
        raise _invalid(f"role {word!r:.40}: peer or storage")
    if type(uses) is not int:
        raise _invalid(f"uses {uses!r:.40}: a whole number was expected")
    if isinstance(expires_seconds, bool) or not isinstance(expires_seconds, int | float):
        raise _invalid(f"expires_seconds {expires_seconds!r:.40}: a number of seconds was expected")
    invite = await tracker.invite(Role(word), uses, float(expires_seconds))
    return {
        "invite": str(invite),
        "role": invite.role.value,
        "uses": uses,
        "expires": invite.expires,
        "addresses": list(invite.addresses),
    }


async def _nodes(tracker: Commanded, _params: dict[str, Any]) -> Any:
    """{} → {nodes}: every member that was ever let in; who is not in the index is away or revoked."""
    live = {view.node: view for view in await tracker.index.nodes(tracker.now())}
    records = []
    for member in await tracker.members():
        record: dict[str, Any] = {
            "node": member.node,
            "role": member.role.value,
            "name": member.name,
            "addresses": [],
            "state": "revoked" if member.revoked is not None else "away",
            "seen_seconds_ago": None,
            "tags": 0,
            "room_bytes": 0,
        }
        view = live.get(member.node)
        if view is not None and member.revoked is None:
            known = dataclasses.asdict(node_record(view))
            record |= known | {"role": view.role.value, "addresses": list(view.addresses)}
        record["certificate_expires"] = member.certificate_expires
        records.append(record)
    return {"nodes": records}


async def _revoke(tracker: Commanded, params: dict[str, Any]) -> Any:
    prefix = params.get("node")
    if not isinstance(prefix, str):
        raise _invalid("node: the id of a node, or how it begins, was expected")
    member = await tracker.revoke(prefix.strip().lower())
    return {"node": member.node, "role": member.role.value, "name": member.name}


async def _rotate(tracker: Commanded, params: dict[str, Any]) -> Any:
    finish, force = params.get("finish", False), params.get("force", False)
    if not isinstance(finish, bool) or not isinstance(force, bool):
        raise _invalid("finish, force: true or false was expected")
    rotation = await tracker.rotate(finish, force)
    return {
        "authority": rotation.authority.hex(),
        "next": rotation.following.hex() if rotation.following is not None else None,
        "waiting": list(rotation.waiting),
    }


async def _status(tracker: Commanded, _params: dict[str, Any]) -> Any:
    """The numbers and the open jobs; the lists are for the page."""
    statistics = dataclasses.asdict(await tracker.statistics())
    about = statistics.pop("about")
    for name in ("nodes", "storages", "tags", "ended_jobs"):
        del statistics[name]
    return {"program": "tracker", **about, **statistics}


async def _version(_tracker: Commanded, _params: dict[str, Any]) -> Any:
    return {"version": version()}


def _invalid(sentence: str) -> CommandError:
    return CommandError("invalid", sentence, 2)
