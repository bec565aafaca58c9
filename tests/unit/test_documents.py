"""The documents speak of what is there: verbs, options, files, places within pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from protocol.errors import CommandError, UpswarmError
from upswarm.cli import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def commands(group: click.Group = cli, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield before + name, command
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")


def options(command: click.Command) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts if isinstance(parameter, click.Option)}


def anchors(page: Path) -> set[str]:
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_places_of_pages_that_modules_name_exist() -> None:
    for room in ("protocol", "runtime", "exchange", "daemon", "tracker", "storage", "upswarm", "tests", "scripts"):
        for path in (ROOT / room).rglob("*.py"):
            for name, anchor in re.findall(r"(docs/[\w/-]+\.md)(?:#([\w-]+))?", path.read_text("utf-8")):
                assert (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}"
                assert not anchor or anchor in anchors(ROOT / name), f"{path.relative_to(ROOT)}: {name}#{anchor}"


def test_every_verb_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for name, command in commands():
        if not isinstance(command, click.Group):
            assert re.search(rf"(`|upswarm ){name}\b", text), f"docs/commands.md does not tell of {name}"


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for name, command in commands():
        for option in options(command) - {"--help", "-h", "--quiet", "--follow", "--output", "--name"}:
            assert option in text, f"docs/commands.md does not tell of {name} {option}"


@pages
def test_commands_that_a_page_shows_exist(page: Path) -> None:
    known = dict(commands())
    shown = re.findall(r'(?<![\w/"-])upswarm ((?:[a-z-]+)(?: [^`#\n&|]*)?)', code_of(page))
    for line in shown:
        words = line.replace("[", " ").replace("]", " ").replace("=", " ").split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, f"{page.name}: upswarm {line}"
        for word in words:
            if word.startswith("-") and word != "-":
                assert word in options(known[name]) | {"--home", "--json", "-h", "--help"}, (
                    f"{page.name}: upswarm {line}"
                )


def code_of(page: Path) -> str:
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", text)
    return "\n".join([*blocks, *indented, *spans])


def test_every_exit_code_of_an_error_is_documented() -> None:
    def classes(kind: type[UpswarmError]) -> Iterator[type[UpswarmError]]:
        yield kind
        for inner in kind.__subclasses__():
            yield from classes(inner)

    table = set(map(int, re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "commands.md").read_text("utf-8"), re.MULTILINE)))
    assert {kind.exit_code for kind in classes(UpswarmError) if not issubclass(kind, CommandError)} <= table
    assert table == {*range(11), 130, 143}
