"""What is installed is what is there, and the plain names of our packages belong to us."""

from __future__ import annotations

import ast
import configparser
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("daemon", "exchange", "protocol", "runtime", "storage", "tracker", "upswarm")


def configuration() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", "utf-8")
    return parser


def listed(section: str, key: str) -> list[str]:
    return configuration()[section][key].split()


def test_setup_lists_every_package_and_no_other() -> None:
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in PACKAGES
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(listed("options", "packages")) == sorted(folders)


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for room in PACKAGES for path in (ROOT / room).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_our_names_belong_to_upswarm_alone() -> None:
    # As a set: a checkout with egg-info counts twice.
    owners = metadata.packages_distributions()
    assert {name: set(owners.get(name, ())) for name in PACKAGES} == {name: {"upswarm"} for name in PACKAGES}


def test_no_module_takes_a_name_of_python_daemon() -> None:
    # python-daemon also installs a package "daemon"; where both are installed, these two files would be mixed up.
    assert not (ROOT / "daemon" / "daemon.py").exists()
    assert not (ROOT / "daemon" / "pidfile.py").exists()


def test_no_test_folder_hides_a_package() -> None:
    # tests/support is a package of that name; the others are folders of files (importmode=importlib).
    found = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("__init__.py")}
    assert found <= {Path("support")}


def test_the_installed_version_is_that_of_setup() -> None:
    assert metadata.version("upswarm") == configuration()["metadata"]["version"]


def test_the_version_is_written_in_one_place() -> None:
    version = re.escape(configuration()["metadata"]["version"])
    elsewhere = [
        str(path.relative_to(ROOT))
        for room in PACKAGES
        for path in (ROOT / room).rglob("*.py")
        if re.search(rf"\b{version}\b(?!\.)", path.read_text("utf-8"))
    ]
    assert elsewhere == []


def test_pyproject_holds_the_build_system_and_ruff_only() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(pyproject) == {"build-system", "tool"}
    assert set(pyproject["tool"]) == {"ruff"}


def test_what_is_imported_is_required_and_the_other_way_round() -> None:
    owners = metadata.packages_distributions()
    imported: set[str] = set()
    for room in PACKAGES:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.partition(".")[0])
    theirs = imported - sys.stdlib_module_names - set(PACKAGES)
    needed = {
        owner.lower().replace("_", "-") for name in theirs for owner in owners.get(name, [f"nobody installs {name}"])
    }
    wanted = listed("options", "install_requires")
    # Only who uses upswarm:// needs it, and has it already.
    wanted += listed("options.extras_require", "fsspec")
    # Only trackers that share an index need it.
    wanted += listed("options.extras_require", "redis")
    # Only storage nodes that share a ledger need it.
    wanted += listed("options.extras_require", "postgresql")
    assert needed == {re.split(r"[\[>]", line)[0] for line in wanted}


def test_every_dependency_has_a_lower_bound() -> None:
    extras = [
        line for key in configuration()["options.extras_require"] for line in listed("options.extras_require", key)
    ]
    for requirement in listed("options", "install_requires") + extras:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?>=[0-9.]+", requirement), requirement


def test_there_is_one_command() -> None:
    assert {
        entry.name
        for entry in metadata.entry_points(group="console_scripts")
        if entry.dist is not None and entry.dist.name == "upswarm"
    } == {"upswarm"}
