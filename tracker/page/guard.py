"""Who gets an answer from the page at all, and under which policy the browser reads it.

The page is no place of trust: no cookie, no form, no method but GET and HEAD. Against DNS rebinding there is a list of
host names; against whatever a node may have written into a name there are escaping (words.py) and a policy under which
the browser runs and loads nothing that we did not serve ourselves. Every answer carries it, errors too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.ids import parse_address

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types upswarm"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@dataclass(frozen=True, slots=True)
class HostList:
    """By which names the page may be asked for. A name that an attacker's DNS points at us is not among them; a plain
    address cannot be rebound, so all of those are."""

    names: frozenset[str]

    @classmethod
    def of(cls, configured: Sequence[str], machine_name: str, listening: str) -> HostList:
        """Return the names an operator gave, this machine's, and localhost."""
        names = {"localhost", machine_name, *configured}
        if listening:
            names.add(parse_address(listening)[0])
        return cls(frozenset(name.lower().rstrip(".") for name in names if name))

    def allows(self, host: str) -> bool:
        """Whether a Host header's value is acceptable."""
        try:
            name = parse_address(host)[0] if _has_port(host) else host.removeprefix("[").removesuffix("]")
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower().rstrip(".") in self.names
        return True


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


class Guard:
    """Asks for the Host before anything else looks at a request, and puts our headers on every answer."""

    def __init__(self, app: ASGIApp, hosts: HostList) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # A WebSocket that nobody accepts is closed by the server.

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        app = self._app if self._hosts.allows(Headers(scope=scope).get("host", "")) else _wrong_host
        await app(scope, receive, send_guarded)


_wrong_host = PlainTextResponse(
    "This page does not answer to that host name. Use an address, or add the name to http_hosts.\n", status_code=403
)
