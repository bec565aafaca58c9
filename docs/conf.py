"""How sphinx makes the site of these pages: ``make docs``. The pages are Markdown and read well without it."""

from __future__ import annotations

import configparser
from pathlib import Path

_SETUP = configparser.ConfigParser()
_SETUP.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")

project = "Upswarm"
release = version = _SETUP["metadata"]["version"]
author = copyright = "the Upswarm maintainers"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "Upswarm"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
# Pages also link to files of the repository; where they lie is the forge's business, not the site's.
suppress_warnings = ["myst.xref_missing", "myst.header"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
