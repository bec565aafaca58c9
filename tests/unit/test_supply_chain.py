"""What the image is built of is pinned byte for byte, is all we ask for, and may be passed on under our licence."""

from __future__ import annotations

import configparser
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_PINNED = re.compile(r"([a-z0-9.-]+)==([A-Za-z0-9.+!-]+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")
# What may be linked from and shipped with a work under Apache-2.0 without asking anybody.
FREE = re.compile(r"MIT|MIT-0|BSD|Apache|PSF-2.0|ISC|any-OSI|Python Software Foundation", re.IGNORECASE)
# Others, each with the reason why it may be there.
BY_NAME = {"zeroconf": "LGPL-2.1-or-later: an own module, imported and not changed; whoever wants replaces it"}


def pinned() -> dict[str, str]:
    """Return the versions that requirements.lock pins."""
    text = (ROOT / "requirements.lock").read_text("ascii")
    rest = _PINNED.sub("", text)
    # Nothing stands there that is not pinned by hash: no option, no address, no other index.
    assert not [line for line in rest.splitlines() if line.strip() and not line.startswith("#")], rest
    found = {name: version for name, version, _ in _PINNED.findall(text)}
    assert len(found) == len(_PINNED.findall(text))
    return found


def wanted() -> list[Requirement]:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", "utf-8")
    return [Requirement(line) for line in settings["options"]["install_requires"].splitlines() if line.strip()]


def test_every_requirement_is_pinned_to_a_version_that_we_say_works() -> None:
    versions = pinned()
    for requirement in wanted():
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement}: make lock"
        assert requirement.specifier.contains(version), f"{requirement}, pinned is {version}: make lock"
    assert "setuptools" in versions, "what builds our own package comes in by hash, too"


def test_what_is_pinned_needs_nothing_that_is_not() -> None:
    versions = pinned()
    for name in versions.keys() - {"setuptools"}:
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            for python in ("3.11", "3.13"):
                environment = {"extra": "", "python_version": python, "python_full_version": f"{python}.0"}
                if requirement.marker is None or requirement.marker.evaluate(environment):
                    assert canonicalize_name(requirement.name) in versions, f"{name} needs {requirement}"


def test_the_image_installs_nothing_else() -> None:
    lines = [line for line in (ROOT / "Containerfile").read_text("utf-8").splitlines() if "pip install" in line]
    assert len(lines) == 2
    assert "--require-hashes -r requirements.lock" in lines[0]
    assert "--no-deps --no-build-isolation ." in lines[1]


@pytest.mark.parametrize("name", sorted(pinned()))
def test_it_may_be_passed_on_under_our_licence(name: str) -> None:
    told = metadata.metadata(name)
    classifiers = [one for one in told.get_all("Classifier") or () if one.startswith("License ::")]
    words = told.get("License-Expression") or " ".join(classifiers) or told.get("License") or ""
    if name in BY_NAME:
        assert BY_NAME[name].partition(":")[0] in words
        return
    parts = re.split(r" AND | OR ", words) if told.get("License-Expression") else [words]
    assert all(FREE.search(part) for part in parts), f"{name}: {words!r}"
    assert "GPL" not in words, f"{name}: {words!r}"
