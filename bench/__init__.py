"""Measuring: each module here is a program, ``python -m bench.NAME`` in a checkout; docs/benchmarks.md has the figures.

They stand on what the tests share (tests/support), which this puts into reach.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
