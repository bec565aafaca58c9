# Everything works from a fresh clone: the first command makes .venv and installs this project into it.
#
#   make demo    a whole swarm on this machine: real processes, real sockets
#   make test    all tests; first in parallel, then alone those that measure rates
#   make check   linters and types
#   make soak    kills, restarts, kills: long
#   make lock    pins what the image is built of; make audit: known holes in it; make sbom: what it is, as CycloneDX
#   make docs    the site of docs/, into build/site; make newcomer does its tutorial from nothing, writes the transcript
#   make fuzz    parsers against ten million inputs each; RUNS=n, TARGETS="frames link"
#   make sim     the simulated swarm: SEEDS=n worlds FROM=k on; NODES=9: only such; SEED=k TRACE=1 shows one
#   make sim-crowd      uploads with 10, 100 and 500 simulated peers (docs/testing.md)
#   make bench   measures one link of this machine beside others (bench/install-rivals); ROWS="get put" only these
#   make bench-s3       1 GiB into a real S3 server on this machine, beside rclone (Debian's package)
#   make bench-tracker  what one tracker carries on one core, beside a bare echo and opentracker (Debian's package)
#   make bench-crowd    many uplinks, one upload, on shaped lines beside libtorrent; needs root (docs/benchmarks.md)

PYTEST := .venv/bin/python -m pytest

.PHONY: demo test check soak docs newcomer fuzz lock audit sbom sim sim-crowd bench bench-crowd bench-s3 bench-tracker vectors man venv

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

docs: venv
	.venv/bin/python -m sphinx -W -q -b html docs build/site

newcomer: venv
	UPSWARM_TRANSCRIPT=docs/transcript.md $(PYTEST) -m soak -k newcomer --timeout=900 tests/integration/test_guides.py

# An environment of their own: these tools bring half of PyPI with them.
SUPPLY := build/supply/bin

$(SUPPLY)/pip-compile:
	python3 -m venv build/supply
	$(SUPPLY)/pip install --quiet --disable-pip-version-check 'pip-tools>=7.5' 'pip-audit>=2.9' 'cyclonedx-bom>=7'

lock: $(SUPPLY)/pip-compile
	$(SUPPLY)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header --no-annotate --allow-unsafe \
		--no-emit-index-url --no-emit-find-links --build-deps-for=wheel --output-file=build/lock setup.cfg
	{ head -n 1 requirements.lock; grep -v '^--extra-index-url\|^--find-links' build/lock; } >build/lock.new
	mv build/lock.new requirements.lock

audit: $(SUPPLY)/pip-compile
	$(SUPPLY)/pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict

sbom: $(SUPPLY)/pip-compile
	$(SUPPLY)/cyclonedx-py requirements --output-file build/sbom.json requirements.lock

fuzz: venv
	.venv/bin/python -c 'import atheris' 2>/dev/null || .venv/bin/python -m pip install -q --editable '.[fuzz]'
	.venv/bin/python -m fuzz.long --runs $(or $(RUNS),10000000) $(TARGETS)

sim: venv
	PYTHONPATH=tests:. .venv/bin/python -m simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200) --first $(or $(FROM),0)) $(if $(TRACE),--trace) $(if $(NODES),--nodes $(NODES))

sim-crowd: venv
	PYTHONPATH=tests:. .venv/bin/python -m simulation.crowd

bench: venv
	.venv/bin/python -m bench.run $(ROWS)

bench-crowd: venv
	.venv/bin/python -c 'import libtorrent' 2>/dev/null || .venv/bin/python -m pip install -q --editable '.[bench]'
	.venv/bin/python -m bench.crowd --rival

bench-s3: venv
	.venv/bin/python -m bench.s3_upload

bench-tracker: venv
	.venv/bin/python -m bench.tracker_load $(ROWS)
	.venv/bin/python -m bench.tracker_rebuild

# The byte vectors are the law once they are checked in: read the difference before you commit it.
vectors: venv
	.venv/bin/python scripts/write_vectors.py

# Manual pages and completions are checked in, so that a package needs no groff; a test holds them to the commands.
man: venv
	.venv/bin/python scripts/write_manual.py

venv:
	@scripts/prepare-venv
