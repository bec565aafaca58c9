"""What programs ask: GET /api/v1/..., JSON of the classes in statistics.py, and the schema that is made of them.

The schema cannot lie about the fields, because it is made of what is sent; that each path sends what it says is tested.
Within v1 fields are added, never removed or changed. An error is ``{"error": CODE, "message": SENTENCE}``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.ids import NodeId, Tag, parse_node_id
from tracker import statistics as s
from tracker.sight import Sight

MEDIA_TYPE = "application/json"
PREFIX = "/api/v1"
# Only texts have any: the rest of JSON is ASCII.
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]+")
NO_JOB = "no upload of that tag is open, and none ended lately"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why there is no answer. ``error`` is not-found or invalid."""

    error: str
    message: str


class Refused(Exception):
    """Answered with ``status`` and a problem."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(error=error, message=message)


def json_response(value: Any, status: int = 200) -> Response:
    """Return ``value`` as JSON: in ASCII, because people read it on terminals, which obey C1 controls in names."""
    text = msgspec.json.encode(value).decode("utf-8")
    return Response(_NOT_PLAIN.sub(_escaped, text).encode("ascii"), status, media_type=MEDIA_TYPE)


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in a path or query."""

    name: str
    where: str
    description: str
    schema: dict[str, Any]


TAG_SCHEMA = {"type": "string", "pattern": "^[0-9a-f]{64}-[1-9][0-9]{0,3}$"}
NODE_SCHEMA = {"type": "string", "pattern": "^[a-z2-7]{52}$"}
TAG = Parameter("tag", "path", "A tag.", TAG_SCHEMA)
NODE = Parameter("node", "path", "A node id.", NODE_SCHEMA)


@dataclass(frozen=True, slots=True)
class Question:
    """One path: what it means, what it answers with, how."""

    path: str
    summary: str
    answer: type
    parameters: tuple[Parameter, ...]
    ask: Callable[[Sight, Request], Awaitable[Any]]


async def _state(sight: Sight, _request: Request) -> Any:
    return await sight.overview()


async def _history(sight: Sight, _request: Request) -> Any:
    return sight.history()


async def _jobs(sight: Sight, _request: Request) -> Any:
    return await sight.jobs()


async def _job(sight: Sight, request: Request) -> Any:
    return _found(await sight.job(_tag(request.path_params["tag"])), NO_JOB)


async def _map(sight: Sight, request: Request) -> Any:
    return _found(await sight.job_map(_tag(request.path_params["tag"])), NO_JOB)


async def _nodes(sight: Sight, request: Request) -> Any:
    after = request.query_params.get("after")
    return await sight.nodes(None if after is None else _node(after))


async def _one_node(sight: Sight, request: Request) -> Any:
    return _found(await sight.node(_node(request.path_params["node"])), "no such node is here")


async def _files(sight: Sight, request: Request) -> Any:
    after, stored = request.query_params.get("after"), request.query_params.get("stored", "false")
    if stored not in ("true", "false"):
        raise Refused(400, "invalid", f"stored={stored!r:.40}: true or false was expected")
    return await sight.files(None if after is None else _tag(after), stored_only=stored == "true")


async def _file(sight: Sight, request: Request) -> Any:
    return _found(await sight.file(_tag(request.path_params["tag"])), "nobody in the swarm has any of that tag")


QUESTIONS = (
    Question("/state", "All at a glance.", s.TrackerStatistics, (), _state),
    Question("/history", "Throughput of the last hour.", s.History, (), _history),
    Question("/jobs", "Open uploads, and those that ended lately.", s.JobList, (), _jobs),
    Question("/jobs/{tag}", "One upload.", s.JobDetail, (TAG,), _job),
    Question("/jobs/{tag}/map", "The chunks of one upload.", s.MapStatistics, (TAG,), _map),
    Question(
        "/nodes",
        "All nodes, a page at a time.",
        s.NodeList,
        (Parameter("after", "query", "Continue behind this node.", NODE_SCHEMA),),
        _nodes,
    ),
    Question("/nodes/{node}", "One node.", s.NodeDetail, (NODE,), _one_node),
    Question(
        "/files",
        "All files, a page at a time.",
        s.FileList,
        (
            Parameter("after", "query", "Continue behind this tag.", TAG_SCHEMA),
            Parameter("stored", "query", "Only what a storage node has.", {"type": "boolean", "default": False}),
        ),
        _files,
    ),
    Question("/files/{tag}", "One file.", s.FileDetail, (TAG,), _file),
)


def routes_of(sight: Sight, version: str) -> list[Route]:
    """Return the routes, the schema's own included."""
    schema = json_response(schema_of(version)).body

    async def show_schema(_request: Request) -> Response:
        return Response(schema, media_type=MEDIA_TYPE)

    routes = [Route(PREFIX + question.path, _endpoint(sight, question), methods=["GET"]) for question in QUESTIONS]
    return [*routes, Route(f"{PREFIX}/openapi.json", show_schema, methods=["GET"])]


def schema_of(version: str) -> dict[str, Any]:
    """Return the OpenAPI description of all paths."""
    kinds = [question.answer for question in QUESTIONS] + [Problem]
    references, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    problem = references[-1]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Upswarm tracker",
            "version": version,
            "description": "What a tracker shows of its swarm. Read-only. Sizes are bytes, times seconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            PREFIX + question.path: {"get": _operation(question, reference, problem)}
            for question, reference in zip(QUESTIONS, references, strict=False)
        },
        "components": {"schemas": components},
    }


def _operation(question: Question, answer: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    responses = {"200": {"description": question.summary, "content": {MEDIA_TYPE: {"schema": answer}}}}
    if question.parameters:
        content = {MEDIA_TYPE: {"schema": problem}}
        responses["400"] = {"description": "A parameter is not what it should be.", "content": content}
        if any(parameter.where == "path" for parameter in question.parameters):
            responses["404"] = {"description": "There is no such thing.", "content": content}
    return {
        "operationId": question.ask.__name__.strip("_"),
        "summary": question.summary,
        "parameters": [
            {
                "name": parameter.name,
                "in": parameter.where,
                "description": parameter.description,
                "required": parameter.where == "path",
                "schema": parameter.schema,
            }
            for parameter in question.parameters
        ],
        "responses": responses,
    }


def _endpoint(sight: Sight, question: Question) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return json_response(await question.ask(sight, request))
        except Refused as refused:
            return json_response(refused.problem, refused.status)

    return answer


def _found(value: Any, sentence: str) -> Any:
    if value is None:
        raise Refused(404, "not-found", sentence)
    return value


def _tag(text: str) -> Tag:
    try:
        return Tag.parse(text)
    except ValueError as error:
        raise Refused(400, "invalid", str(error)) from error


def _node(text: str) -> NodeId:
    try:
        return parse_node_id(text)
    except ValueError as error:
        raise Refused(400, "invalid", str(error)) from error
