"""What programs ask: every answer is what the schema says, and the schema is a schema; metrics parse and count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import jsonschema
import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from support.page_world import ADA, BERT, DISK, FILM, PageWorld
from support.pairs import node, some_tag

from protocol.messages import JobState
from tracker.page.api import PREFIX, QUESTIONS, schema_of

Client = httpx2.AsyncClient
SCHEMA = schema_of("9.9")


@pytest.fixture
def world() -> PageWorld:
    return PageWorld()


@pytest.fixture
async def client(world: PageWorld) -> AsyncIterator[Client]:
    async with world.client() as client:
        yield client


def check(path: str, status: int, answer: Any) -> None:
    """Check an answer against the schema. Unknown fields are an error here: they would be undocumented."""
    content = SCHEMA["paths"][path]["get"]["responses"][str(status)]["content"]["application/json"]["schema"]
    components = {
        name: {**component, "additionalProperties": False}
        for name, component in SCHEMA["components"]["schemas"].items()
    }
    jsonschema.Draft202012Validator({**content, "components": {"schemas": components}}).validate(answer)


PATHS = [(question.path, question.path.format(tag=FILM, node=ADA)) for question in QUESTIONS]


def test_the_schema_is_valid_openapi() -> None:
    validate(SCHEMA)


def test_every_field_and_path_is_explained() -> None:
    for name, component in SCHEMA["components"]["schemas"].items():
        assert component["description"].strip(), name
    operations = [path["get"]["operationId"] for path in SCHEMA["paths"].values()]
    assert len(set(operations)) == len(operations) == len(QUESTIONS)


@pytest.mark.parametrize("state", ["empty", "busy", "ended", "evil"])
@pytest.mark.parametrize(("pattern", "path"), PATHS)
async def test_every_answer_is_what_the_schema_says(
    world: PageWorld, client: Client, pattern: str, path: str, state: str
) -> None:
    if state in ("busy", "ended"):
        await world.is_busy()
    if state == "ended":
        await world.told((ADA, 5), (BERT, 3), state=JobState.FAILED, reason="no room")
    if state == "evil":
        await world.is_evil()
    answer = await client.get(PREFIX + path)
    assert answer.status_code == (404 if state == "empty" and "{" in pattern else 200)
    check(PREFIX + pattern, answer.status_code, answer.json())


async def test_the_schema_is_served(client: Client) -> None:
    served = (await client.get(f"{PREFIX}/openapi.json")).json()
    assert served["paths"].keys() == SCHEMA["paths"].keys()


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/jobs/x", "/jobs/{tag}"),
        (f"/jobs/{str(FILM).upper()}", "/jobs/{tag}"),
        ("/nodes/x", "/nodes/{node}"),
        ("/nodes?after=x", "/nodes"),
        ("/files?after=x", "/files"),
        ("/files?stored=perhaps", "/files"),
    ],
)
async def test_a_wrong_parameter_is_told_with_what_would_be_right(client: Client, path: str, pattern: str) -> None:
    answer = await client.get(PREFIX + path)
    assert answer.status_code == 400
    check(PREFIX + pattern, 400, answer.json())
    assert answer.json()["error"] == "invalid" and len(answer.json()["message"]) > 20


async def test_an_unknown_path_is_a_problem_in_json(client: Client) -> None:
    answer = await client.get(f"{PREFIX}/nowhere")
    assert answer.status_code == 404 and answer.json()["error"] == "not-found"


async def test_pages_continue_where_they_ended(world: PageWorld, client: Client) -> None:
    for number in range(130):
        await world.arrives(node(str(number)), "")
        await world.holds(node(str(number)), some_tag(str(number), 2))
    for path, key in (("/nodes", "node"), ("/files", "tag")):
        first = (await client.get(PREFIX + path)).json()
        rest = (await client.get(f"{PREFIX}{path}?after={first['after']}")).json()
        ids = [row[key] for page in (first, rest) for row in page[path[1:]]]
        assert len(ids) == 130 == len(set(ids)) and ids == sorted(ids) and rest["after"] is None


async def test_files_can_be_asked_for_by_being_stored(world: PageWorld, client: Client) -> None:
    await world.is_busy()
    await world.told((ADA, 8), state=JobState.STORED)
    assert (await client.get(f"{PREFIX}/files?stored=true")).json()["files"] == []
    await world.holds(DISK)
    assert len((await client.get(f"{PREFIX}/files?stored=true")).json()["files"]) == 1


# --- metrics ---


async def test_metrics_are_read_by_prometheus_own_parser(world: PageWorld, client: Client) -> None:
    await world.is_busy()
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["upswarm_nodes", "fresh"] == 3 and samples["upswarm_members", "storage"] == 1
    assert samples["upswarm_open_jobs",] == 1 and samples["upswarm_pushed_bytes_total",] == 4 * 2**20
    assert samples["upswarm_storage_room_bytes", DISK] == 5 * 2**30
    assert samples["upswarm_heartbeats_total",] == 7 and samples["upswarm_build_info", "9.9"] == 1
    assert samples["upswarm_throughput_bytes_per_second",] > 0 and samples["upswarm_page_readers",] == 0


async def test_every_metric_is_explained(client: Client) -> None:
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        assert family.name.startswith("upswarm_") and family.documentation.endswith("."), family.name
