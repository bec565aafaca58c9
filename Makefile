# Everything works from a fresh clone: the first command makes .venv and installs this project into it.
#
#   make demo    a whole swarm on this machine: real processes, real sockets
#   make test    all tests; first in parallel, then alone those that measure rates
#   make check   linters and types
#   make soak    kills, restarts, kills: long
#   make fuzz    parsers against ten million inputs each; RUNS=n, TARGETS="frames link"
#   make sim     the simulated swarm: SEEDS=n worlds FROM=k on; SEED=k TRACE=1 shows one
#   make bench   measures one link of this machine beside others (bench/install-rivals); ROWS="get put" only these
#   make bench-crowd    many uplinks, one upload, on shaped lines beside libtorrent; needs root (docs/benchmarks.md)

PYTEST := .venv/bin/python -m pytest

.PHONY: demo test check soak fuzz sim bench bench-crowd vectors man venv

demo: venv
	.venv/bin/upswarm demo

# Tests marked "timing" measure rates; with others beside them they would measure the others. Exit code 5 of pytest
# means that none is marked.
test: venv
	$(PYTEST) -n 2 --durations=15 -m "not timing and not soak"
	$(PYTEST) -m "timing and not soak" || test $$? -eq 5

check: venv
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m flake8 .
	.venv/bin/python -m mypy

soak: venv
	$(PYTEST) -m soak --timeout=0

fuzz: venv
	.venv/bin/python -c 'import atheris' 2>/dev/null || .venv/bin/python -m pip install -q --editable '.[fuzz]'
	.venv/bin/python -m fuzz.long --runs $(or $(RUNS),10000000) $(TARGETS)

sim: venv
	PYTHONPATH=tests:. .venv/bin/python -m simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200) --first $(or $(FROM),0)) $(if $(TRACE),--trace)

bench: venv
	.venv/bin/python -m bench.run $(ROWS)

bench-crowd: venv
	.venv/bin/python -c 'import libtorrent' 2>/dev/null || .venv/bin/python -m pip install -q --editable '.[bench]'
	.venv/bin/python -m bench.crowd --rival

# The byte vectors are the law once they are checked in: read the difference before you commit it.
vectors: venv
	.venv/bin/python scripts/write_vectors.py

# Manual pages and completions are checked in, so that a package needs no groff; a test holds them to the commands.
man: venv
	.venv/bin/python scripts/write_manual.py

venv:
	@scripts/prepare-venv
