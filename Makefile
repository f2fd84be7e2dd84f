# make install | demo | check | test. Everything runs in VENV, which `install` builds from pinned versions of known sha256.
VENV ?= .venv
BIN := $(VENV)/bin
# idle OpenMP threads sleep instead of spinning: on a busy machine this is the difference between 1 and 5 minutes of tests
export OMP_WAIT_POLICY ?= PASSIVE
# the tests start hundreds of processes: each would compile the sources anew
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)

# the core's tests, each file in one of as many processes as there are CPUs
JOBS ?= auto
# all tests: each of these processes may start a Ray of two CPUs, and waits for it a third of the time
RAY_JOBS ?= 3

# uv installs in a quarter of pip's time but reads no pip.conf: where it finds no package (a mirror, a proxy), pip takes over.
# torch without CUDA is taken where it can be had (not on PyPI: PIP_FIND_LINKS=wheels), PyPI's own otherwise; TORCH=cuda insists
INSTALLERS := "$(BIN)/uv pip install --python $(BIN)/python" "$(BIN)/python -m pip install"
TORCH ?= cpu cuda
LOCKED := --require-hashes --no-build-isolation -r locks/run.txt -r locks/dev.txt
AUDIT ?= $(VENV)-audit
COMMA := ,
export UV_FIND_LINKS ?= $(subst $() ,$(COMMA),$(PIP_FIND_LINKS))
export UV_INDEX_URL ?= $(PIP_INDEX_URL)

.PHONY: install lock sbom audit demo check style core-tests test thorough durations test-faults test-s3 fuzz test-e2e format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(wildcard locks/*.txt)
	@test -n "$(PYTHON)" || { echo "mhim needs Python 3.11 or 3.12; set PYTHON=…" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r locks/build.txt
	@for installer in $(INSTALLERS); do for torch in $(TORCH); do \
		echo "$$installer $(LOCKED) -r locks/torch-$$torch.txt"; \
		$$installer --quiet $(LOCKED) -r locks/torch-$$torch.txt && exit 0; done; done; exit 1
	$(BIN)/uv pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation -e .
	@touch $@

# after constraints.txt or the extras have changed: which bytes the pinned versions are
lock: install
	$(BIN)/python locks/write.py

# what is installed, by the tools of locks/audit.txt, which are kept out of VENV
$(AUDIT)/.installed: locks/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --require-hashes -r locks/audit.txt
	@touch $@

# a bill of materials (CycloneDX) in dist/, and the table of licences, which a test holds against constraints.txt
sbom: install $(AUDIT)/.installed
	mkdir -p dist
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json $(BIN)/python
	$(AUDIT)/bin/pip-licenses --python=$(BIN)/python --with-system --format=csv --order=name --ignore-packages mhim --output-file=docs/licences.csv

# known vulnerabilities of the pinned versions: asks a service, so it needs a network, and is no part of `check`
audit: $(AUDIT)/.installed
	$(AUDIT)/bin/pip-audit --disable-pip --require-hashes -r locks/run.txt -r locks/dev.txt -r locks/build.txt

demo: install
	$(BIN)/mhim demo out=demo

# what needs no cluster: style, types, import direction, and the core's tests with ray, hydra and omegaconf unimportable
check: style core-tests

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

CORE ?= tests/mhim_core
core-tests: install
	MHIM_WITHOUT=ray,hydra,omegaconf,cluster,flows PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p pytest_timeout -p xdist -n $(JOBS) --dist loadfile $(CORE)

TESTS ?= tests/mhim_core tests/cluster tests/flows
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(RAY_JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

# what .ci/run leaves out
thorough: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(RAY_JOBS) --dist loadfile --no-loadscope-reorder -m thorough $(TESTS)

# how long each file of tests takes, which settles their order: on a quiet machine, after tests were added
durations: install
	MHIM_RECORD_DURATIONS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(RAY_JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

# what holds when things break: row by row of docs/faults.md
test-faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(RAY_JOBS) --dist loadfile --no-loadscope-reorder -m fault $(TESTS)

# tests of S3 against a server that checks signatures: Ceph's, where it is installed (tests/radosgw.py)
test-s3: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/radosgw.py \
		$(BIN)/python -m pytest -n $(RAY_JOBS) --dist loadfile --no-loadscope-reorder -m s3 tests/cluster tests/flows

# readers against files that are damaged or hostile: so many of each; what fails is left in tests/corpus/*/found
FUZZ ?= 5000
fuzz: install
	MHIM_FUZZ_EXAMPLES=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/flows/test_fuzz.py

# a model's life on a cluster of two nodes, with drivers killed at every step: some minutes
test-e2e: install
	$(BIN)/python -m pytest -s tests/e2e

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build *.egg-info
