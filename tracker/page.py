"""The status page: what the swarm is doing, for people with a browser. Read-only, over plain HTTP.

Renders statistics.py and nothing else: it cannot disturb the swarm. It is no place of trust either: no cookie, no form,
no method but GET and HEAD, a Host allow-list against DNS rebinding, a policy under which the browser loads nothing that
we did not serve ourselves, and everything that a node wrote is escaped. An ASGI application; knows no server.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.ids import parse_address
from runtime.terminal import escape_controls
from tracker.statistics import TrackerStatistics

TakeStatistics = Callable[[], Awaitable[TrackerStatistics]]

STATIC_TYPES = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
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


def make_app(statistics: TakeStatistics, hosts: HostList) -> ASGIApp:
    """Return the application."""
    page = _templates().get_template("page.html")

    async def show(_request: Request) -> Response:
        return HTMLResponse(page.render(s=await statistics()), headers={"cache-control": "no-store"})

    async def state(_request: Request) -> Response:
        return JSONResponse(dataclasses.asdict(await statistics()), headers={"cache-control": "no-store"})

    async def health(_request: Request) -> Response:
        await statistics()
        return PlainTextResponse("ok\n", headers={"cache-control": "no-store"})

    routes = [Route("/", show), Route("/api/v1/state", state), Route("/healthz", health)]
    routes += [Route(f"/static/{name}", _static(name, kind)) for name, kind in STATIC_TYPES.items()]
    return _Guard(Starlette(routes=routes), hosts)


def _static(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    data = pkgutil.get_data("tracker", f"static/{name}")
    assert data is not None

    async def serve(_request: Request) -> Response:
        return Response(data, media_type=kind, headers={"cache-control": "max-age=300"})

    return serve


class _Guard:
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
            await send(message)

        app = self._app if self._hosts.allows(Headers(scope=scope).get("host", "")) else _wrong_host
        await app(scope, receive, send_guarded)


_wrong_host = PlainTextResponse(
    "This page does not answer to that host name. Use an address, or add the name to http_hosts.\n", status_code=403
)


# --- how numbers and names look ---


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("tracker"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "duration": duration, "short": short, "plain": escape_controls}
    return environment


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes everything")


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def short(identity: str) -> str:
    """Return the beginning of a node id or a tag."""
    return identity[:10]
