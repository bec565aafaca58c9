"""The page put together: which path shows what. An ASGI application; knows no server.

Renders what sight.py sees and nothing else: it cannot disturb the swarm.
"""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Awaitable, Callable
from importlib import metadata

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from protocol.ids import Tag, parse_node_id
from runtime.seam import Clock
from tracker.page import api
from tracker.page.guard import Guard, HostList
from tracker.page.live import Live, LiveAnswer
from tracker.page.metrics import CONTENT_TYPE, metrics_of
from tracker.page.painter import Painter
from tracker.sight import Sight

STATIC_TYPES = {
    "style.css": "text/css",
    "live.js": "text/javascript",
    "uplot.js": "text/javascript",
    "uplot.css": "text/css",
    "uplot.LICENSE.txt": "text/plain",
    "icon.svg": "image/svg+xml",
}
# Whoever asks whether we are ready does not wait longer.
READY_SECONDS_MAX = 2.0
YEAR_SECONDS = 365 * 86400


class Page:
    """``app`` is the ASGI application; ``run`` must be running while it is served."""

    def __init__(self, sight: Sight, hosts: HostList, clock: Clock) -> None:
        files = {name: _file(name) for name in STATIC_TYPES}
        # The address of a file says what is in it, so that browsers may keep it and never show an old one.
        assets = {name: f"/static/{name}?v={hashlib.sha256(data).hexdigest()[:12]}" for name, data in files.items()}
        self._sight = sight
        self._painter = Painter(sight, assets)
        self._live = Live(clock, self._painter.picture)
        self.run = self._live.run
        static = [Route(f"/static/{name}", _static(files[name], kind)) for name, kind in STATIC_TYPES.items()]
        routes = [*self._views(), *api.routes_of(sight, metadata.version("upswarm")), *self._probes(), *static]
        self.app: ASGIApp = Guard(Starlette(routes=routes, exception_handlers={404: self._nothing}), hosts)

    @property
    def readers(self) -> int:
        """How many live pages are open."""
        return self._live.readers

    # --- pages ---

    def _views(self) -> list[Route]:
        lives = {"/live/overview": "overview"} | {f"/live/{view}s/{{what}}": view for view in ("job", "node", "file")}
        return [
            Route("/", self._view("overview", "")),
            Route("/jobs/{what}", self._view("job", "No upload of that tag is open, and none ended lately.")),
            Route("/nodes/{what}", self._view("node", "No such node is here.")),
            Route("/files/{what}", self._view("file", "Nobody in the swarm has any of that file.")),
            Route("/nodes", self._nodes),
            Route("/files", self._files),
            *(Route(path, LiveAnswer(self._live, view), methods=["GET"]) for path, view in lives.items()),
        ]

    def _view(self, view: str, sentence: str) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            html = await self._painter.page(view, request.path_params.get("what", ""))
            return HTMLResponse(html) if html is not None else HTMLResponse(await self._painter.sorry(sentence), 404)

        return show

    async def _nodes(self, request: Request) -> Response:
        after = request.query_params.get("after")
        try:
            return HTMLResponse(await self._painter.nodes(None if after is None else parse_node_id(after)))
        except ValueError as error:
            return HTMLResponse(await self._painter.sorry(str(error)), 400)

    async def _files(self, request: Request) -> Response:
        after = request.query_params.get("after")
        try:
            return HTMLResponse(await self._painter.files(None if after is None else Tag.parse(after)))
        except ValueError as error:
            return HTMLResponse(await self._painter.sorry(str(error)), 400)

    async def _nothing(self, request: Request, _error: Exception) -> Response:
        if request.url.path.startswith(api.PREFIX):
            return api.json_response(api.Problem(error="not-found", message="there is no such path"), 404)
        return HTMLResponse(await self._painter.sorry("There is no such page."), 404)

    # --- for machines ---

    def _probes(self) -> list[Route]:
        return [
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthy),
            Route("/readyz", self._ready),
        ]

    async def _metrics(self, _request: Request) -> Response:
        return Response(metrics_of(await self._sight.overview(), self.readers), media_type=CONTENT_TYPE)

    async def _healthy(self, _request: Request) -> Response:
        # That this is answered at all is the news: the one loop that does everything goes round.
        return PlainTextResponse("ok\n")

    async def _ready(self, _request: Request) -> Response:
        with trio.move_on_after(READY_SECONDS_MAX):
            await self._sight.answers()
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"the index did not answer in {READY_SECONDS_MAX:.0f} s\n", 503)


def _file(name: str) -> bytes:
    data = pkgutil.get_data("tracker.page", f"static/{name}")
    assert data is not None
    return data


def _static(data: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        seconds = YEAR_SECONDS if "v" in request.query_params else 300
        return Response(data, media_type=kind, headers={"cache-control": f"max-age={seconds}"})

    return serve
