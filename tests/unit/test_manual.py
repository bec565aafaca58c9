"""Manual pages and completions are what scripts/write_manual.py makes of the commands, and shells and man take them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from upswarm.cli import cli
from upswarm.manual import verbs

ROOT = Path(__file__).parents[2]
PAGES = ("upswarm.1", "upswarm.toml.5")


def script() -> Any:
    spec = importlib.util.spec_from_file_location("write_manual", ROOT / "scripts" / "write_manual.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_checked_in_is_what_the_commands_say() -> None:
    texts = script().pages()
    there = {str(path.relative_to(ROOT / "man")) for path in (ROOT / "man").rglob("*") if path.is_file()}
    assert there == set(texts)
    for name, text in texts.items():
        assert (ROOT / "man" / name).read_text("utf-8") == text, f"man/{name} is old: make man"


def test_every_verb_and_option_has_its_place() -> None:
    page = (ROOT / "man" / "upswarm.1").read_text("utf-8").replace("\\-", "-")
    for name, command in verbs(cli):
        assert f'.SS "{name}' in page
        for parameter in command.params:
            for word in parameter.opts:
                assert not word.startswith("--") or word in page, f"{name} {word}"


def groff() -> str:
    found = shutil.which("groff")
    assert found is not None, "groff is missing; scripts/install-test-packages brings it"
    return found


@pytest.mark.parametrize("name", PAGES)
def test_groff_finds_no_fault_and_prints_what_is_meant(name: str) -> None:
    done = subprocess.run(
        [groff(), "-man", "-Tutf8", "-ww", "-P-c", str(ROOT / "man" / name)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == ""
    shown = re.sub(r".\x08", "", done.stdout)
    assert "upswarm" in shown
    if name.endswith(".5"):
        for line in (ROOT / "docs" / "upswarm.example.toml").read_text("utf-8").splitlines():
            assert line.strip() in shown, line


def complete(shell: str, *words: str) -> list[str]:
    """Return what ``upswarm`` answers the script of ``shell`` that asks for more of the last word."""
    environment = {**os.environ, "_UPSWARM_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(["upswarm", *words])}
    environment["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words))
    done = subprocess.run(
        [sys.executable, "-m", "upswarm"], env=environment, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(("shell", "said"), [("bash", "plain,pause"), ("zsh", "pause"), ("fish", "plain,pause")])
def test_the_command_completes_itself(shell: str, said: str) -> None:
    answers = complete(shell, "pa")
    assert any(line.startswith(said) for line in answers), answers


def test_bash_completes_verbs_options_and_choices(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "upswarm").write_text(f'#!/bin/sh\nexec {sys.executable} -m upswarm "$@"\n')
    (tmp_path / "upswarm").chmod(0o755)
    script = (
        f"PATH={tmp_path}:$PATH\n"
        f"source {ROOT}/man/completions/upswarm.bash\n"
        'try() { COMP_WORDS=(upswarm "$@"); COMP_CWORD=$#; COMPREPLY=(); _upswarm_completion upswarm; '
        'echo "${COMPREPLY[*]}"; }\n'
        "try pu\ntry put --wa\ntry put --wait s\ntry service inst\n"
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.splitlines() == ["put", "--wait", "stored safe", "install"], done.stderr
