"""Looking after an installation: doctor, bugreport, config, completion, version."""

from __future__ import annotations

import dataclasses
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import CommandError, ConfigError, UpswarmError
from runtime.config import Secret
from runtime.places import PROGRAMS, Program
from upswarm.client import NoProgram
from upswarm.console import Console, TypedPathType, failure, verb
from upswarm.programs import config_kind, load_program_config
from upswarm.text import shown, table

if TYPE_CHECKING:
    from upswarm.doctor import Finding

PARTS = ("trio", "msgpack", "cryptography", "apsw", "zeroconf", "click", "rich", "structlog", "platformdirs")


@click.command()
@verb
def doctor(console: Console) -> None:
    """Examine this installation, with or without a running daemon. Exit code 1 when something is wrong."""
    from upswarm import doctor as examination

    findings = examination.examine(console.home)
    console.give(
        {"ok": all(finding.ok for finding in findings), "checks": [vars_of(f) for f in findings]}, _doctor_text
    )
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def vars_of(finding: Finding) -> dict[str, Any]:
    """Return a finding as programs read it."""
    return {"check": finding.check, "ok": finding.ok, "says": finding.says}


def _doctor_text(data: Any) -> str:
    return table(
        [["ok" if one["ok"] else "WRONG", one["check"], one["says"]] for one in data["checks"]], ("", "check", "")
    )


@click.command()
@verb
def bugreport(console: Console) -> None:
    """Print what a report of a problem should contain; secrets are left out."""
    from upswarm import doctor as examination

    data: dict[str, Any] = {
        "version": versions(),
        "platform": platform.platform(),
        "checks": [vars_of(finding) for finding in examination.examine(console.home)],
        "config": {},
        "status": {},
    }
    for program in PROGRAMS:
        try:
            data["config"][program] = examination.redacted(settings_of(console, program))
        except UpswarmError as error:
            data["config"][program] = {"error": examination.redacted(failure(error))}
        try:
            with console.client(program) as client:
                data["status"][program] = examination.redacted(client.status())
        except UpswarmError as error:
            data["status"][program] = (
                "does not run" if isinstance(error, NoProgram) else examination.redacted(failure(error))
            )
    console.give(data)


@click.group(name="config")
def config_group() -> None:
    """Show or check settings."""


@config_group.command(name="show")
@click.argument("program", type=click.Choice(PROGRAMS), required=False)
@verb
def show_config(console: Console, program: Program | None) -> None:
    """Show the settings that hold: flags aside, environment, file and defaults."""
    data = {name: settings_of(console, name) for name in ([program] if program else PROGRAMS)}
    console.give(data, _config_text)


@config_group.command(name="validate")
@click.argument("file", type=TypedPathType(path_type=Path, dir_okay=False), required=False)
@verb
def validate_config(console: Console, file: Path | None) -> None:
    """Check a config file, or the one that is used; exit code 2 says what is wrong."""
    path = file or console.places("daemon").config_file
    if file is not None and not file.exists():
        raise CommandError("not-found", f"{file}: no such file", 4)
    for name in PROGRAMS:
        load_program_config(console, name, {}, path)
    answer = {"valid": True, "file": str(path), "exists": path.exists()}
    console.give(
        answer, lambda data: f"{shown(data['file'])}: {'valid' if data['exists'] else 'absent; defaults hold'}"
    )


def settings_of(console: Console, program: Program) -> dict[str, Any]:
    """Return the settings of ``program`` by name.

    Raises:
        ConfigError: one of them is wrong.
    """
    settings = load_program_config(console, program, {})
    names = [field.name for field in dataclasses.fields(settings) if field.name not in ("places", "home")]
    return {name: plain(getattr(settings, name)) for name in names}


def secret_names(program: str) -> set[str]:
    """Return the settings of ``program`` that no file may hold."""
    return {field.name for field in dataclasses.fields(config_kind(program)) if isinstance(field.default, Secret)}


def plain(value: Any) -> Any:
    """Return a setting as JSON knows it."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, int | float | str | None) else str(value)


def _config_text(data: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, settings in data.items():
        secrets = secret_names(section)
        lines.append(f"[{section}]")
        lines.extend(
            f"# {key}: {'set' if value else 'not set'}; it comes from the environment"
            if key in secrets
            else f"{key} = {_toml(value)}"
            for key, value in settings.items()
        )
        lines.append("")
    return "\n".join(lines).rstrip()


def _toml(value: Any) -> str:
    if value is None:
        return '"off"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, int | float):
        return str(value)
    return '"' + shown(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print completions for a shell: eval "$(upswarm completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"no completions for {shell}")
    click.echo(kind(context.find_root().command, {}, "upswarm", "_UPSWARM_COMPLETE").source())


@click.command()
@verb
def version(console: Console) -> None:
    """Print the version."""
    data = versions()
    console.give(data, lambda all_: f"upswarm {all_['upswarm']}, protocol {all_['protocol']}, Python {all_['python']}")


def versions() -> dict[str, Any]:
    """Return the versions of everything that matters."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    from protocol.limits import PROTOCOL_VERSION

    data: dict[str, Any] = {"python": platform.python_version(), "protocol": PROTOCOL_VERSION}
    for part in ("upswarm", *PARTS):
        try:
            data[part] = version_of(part)
        except PackageNotFoundError:
            data[part] = "not installed"
    return data


VERBS = (doctor, bugreport, config_group, completion, version)
