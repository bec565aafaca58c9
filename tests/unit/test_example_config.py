"""docs/upswarm.example.toml: whoever copies it as it is changes nothing, and whoever looks for a setting finds it."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from support.front_door import call

from runtime.config import SECTIONS, Secret
from upswarm.console import Console
from upswarm.programs import config_kind, load_program_config

EXAMPLE = Path(__file__).parents[2] / "docs" / "upswarm.example.toml"


def settings(program: str) -> dict[str, object]:
    """Return the settings a file can hold, with their defaults."""
    return {
        field.name: field.default
        for field in dataclasses.fields(config_kind(program))
        if field.name not in ("places", "home") and not isinstance(field.default, Secret)
    }


@pytest.mark.parametrize("program", SECTIONS)
def test_the_example_says_what_holds_without_it(tmp_path: Path, program: str) -> None:
    console = Console(home=tmp_path, environment={})
    assert load_program_config(console, program, {}, EXAMPLE) == load_program_config(console, program, {})


@pytest.mark.parametrize("program", SECTIONS)
def test_the_example_names_every_setting(program: str) -> None:
    named = tomllib.loads(EXAMPLE.read_text("utf-8"))[program]
    assert set(named) == set(settings(program))


def test_the_command_finds_it_valid(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(capsys, "config", "validate", EXAMPLE, "--home", tmp_path).code == 0


@pytest.mark.parametrize("program", SECTIONS)
def test_config_show_names_every_setting(capsys: pytest.CaptureFixture[str], tmp_path: Path, program: str) -> None:
    shown = call(capsys, "config", "show", program, "--home", tmp_path).out
    assert set(tomllib.loads(shown)[program]) == set(settings(program))
