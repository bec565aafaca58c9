"""The wheel as its user gets it: built from what is committed, installed into an environment of its own, started.

Ordinarily what it depends on is this environment's; ``make soak`` lets the real pipx fetch everything from the index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("daemon", "exchange", "protocol", "runtime", "storage", "tracker", "upswarm")
SECONDS_MAX = 100.0


def run(*command: str | Path, seconds: float = SECONDS_MAX, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, and without what it says of modules."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "UPSWARM", "PIPX"))}
    return subprocess.run(
        [str(word) for word in command], cwd="/", env={**kept, **environment}, capture_output=True, text=True,
        timeout=seconds,
    )  # fmt: skip


def committed() -> list[str]:
    """Return the names of the files that git knows, or would take, and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    return [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built beside the checkout: what lies around there untracked is not in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in committed():
        if not name.startswith(("tests/", "docs/", "bench/", "fuzz/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    done = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--wheel-dir", folder, folder / "source",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("upswarm-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fresh environment with the wheel in it, and behind it what this environment has."""
    folder = tmp_path_factory.mktemp("fresh")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder).returncode == 0
    done = run(
        sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet",
        "--disable-pip-version-check", "--no-deps", "--no-index", wheel,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A folder named so is searched last, and its own .pth files, an editable installation's among them, are not read.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return folder


def test_the_wheel_holds_everything_that_is_committed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name and ".data/" not in name}
        assert held == {name for name in committed() if name.startswith(tuple(f"{room}/" for room in PACKAGES))}
        assert {"tracker/page/static/uplot.js", "tracker/page/static/uplot.LICENSE.txt"} <= held
        assert {"tracker/page/templates/layout.html", "upswarm/units/upswarm-daemon.service"} <= held
        assert b"Apache License" in archive.read(next(n for n in archive.namelist() if n.endswith("/LICENSE")))


def check_it_works(upswarm: Path, environment: Path, home: Path) -> None:
    """The command answers, with the right exit codes, and what belongs beside it lies in its places."""
    said = run(upswarm, "--version")
    assert said.returncode == 0 and said.stdout.startswith("upswarm "), said
    nobody = run(upswarm, "--home", home, "status")
    assert (nobody.returncode, nobody.stdout) == (3, ""), nobody
    assert "daemon" in nobody.stderr and "Traceback" not in nobody.stderr
    stranger = run(upswarm, "--home", home, "daemon")
    assert stranger.returncode == 2 and "upswarm join" in stranger.stderr, stranger
    for shell in ("bash", "zsh", "fish"):
        assert "upswarm" in run(upswarm, "completion", shell).stdout
    unit = run(upswarm, "service", "install", "daemon", "--user", "--into", home / "units")
    assert unit.returncode == 0, unit
    (written,) = (home / "units").glob("*.service")
    # pipx: what its link leads to, which stays when somebody tidies up the links.
    assert f"ExecStart={upswarm.resolve()} daemon" in written.read_text()
    share = environment / "share"
    for name in (
        "man/man1/upswarm.1", "man/man5/upswarm.toml.5", "bash-completion/completions/upswarm.bash",
        "zsh/site-functions/_upswarm", "fish/vendor_completions.d/upswarm.fish",
    ):  # fmt: skip
        assert (share / name).read_bytes().strip(), name


def test_what_was_installed_works(installed: Path, tmp_path: Path) -> None:
    check_it_works(installed / "bin" / "upswarm", installed, tmp_path)
    where = run(installed / "bin" / "python", "-c", "import upswarm, daemon; print(upswarm.__file__, daemon.__file__)")
    assert where.stdout.count(str(installed)) == 2, where


def test_a_tracker_that_was_installed_serves_its_page(installed: Path, tmp_path: Path) -> None:
    # All templates and pictures are found where the wheel put them.
    program = (
        "import asyncio, sys\n"
        "from importlib import resources\n"
        "import tracker.page as page\n"
        "folder = resources.files(page)\n"
        "assert str(folder).startswith(sys.prefix), folder\n"
        "print(*sorted(one.name for part in ('static', 'templates') for one in (folder / part).iterdir()))\n"
    )
    said = run(installed / "bin" / "python", "-c", program)
    assert said.returncode == 0, said
    wanted = {
        Path(name).name for name in committed() if name.startswith(("tracker/page/static/", "tracker/page/templ"))
    }
    assert set(said.stdout.split()) == wanted


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_pipx_installs_it_from_nothing(wheel: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    assert run(sys.executable, "-m", "venv", tools).returncode == 0
    done = run(tools / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "pipx", seconds=600)
    assert done.returncode == 0, done.stderr
    pipx = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin"), "PIPX_MAN_DIR": str(tmp_path)}
    done = run(tools / "bin" / "pipx", "install", "--python", sys.executable, wheel, seconds=600, **pipx)
    assert done.returncode == 0, done.stderr
    check_it_works(tmp_path / "bin" / "upswarm", tmp_path / "pipx" / "venvs" / "upswarm", tmp_path / "home")
