# make demo    from a bare clone: environment, then the quickstart
# make test    from a bare clone: environment, then the test suite
PY ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-gpu test-slurm emoji lint types examples check release-check bench bench-gpu schema clean

.venv/.run: pyproject.toml constraints.txt
	$(PY) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt torch numpy
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.run
	$(BIN)/diffmem quickstart

# The tests of a file run in one process: what they share is made once.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# What is marked slow, and what takes more examples when it is told to.
test-slow: .venv/.dev
	DIFFMEM_TESTS=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or thorough"

# What needs a CUDA GPU: at most three minutes with one, skipped without.
test-gpu: .venv/.dev
	$(BIN)/python -m pytest -m gpu

# On a real SLURM of one node, which is installed where it is missing (root, Debian or Ubuntu) and ended again: ten minutes.
test-slurm: .venv/.dev
	$(BIN)/python -m pytest -n 0 -v -m slurm tests/slurm

# Trains the text-to-image model with planted repeats anew (at most 20 minutes on two cores) and audits it; the package keeps its own.
emoji: .venv/.dev
	set -e; out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python scripts/train_emoji.py --out "$$out"; \
	$(BIN)/diffmem audit --self-test --text --out "$$out"

lint: .venv/.dev
	$(BIN)/ruff check src tests benchmarks examples scripts
	$(BIN)/ruff format --check src tests benchmarks examples scripts

types: .venv/.dev
	$(BIN)/mypy

# Each in a folder of its own, so that nothing is left behind.
examples: .venv/.run
	@for script in examples/*.py; do \
	    echo "$$script"; folder=$$(mktemp -d); \
	    (cd $$folder && $(CURDIR)/$(BIN)/python $(CURDIR)/$$script) || exit 1; rm -rf $$folder; \
	done

check: lint types test

# What is too long for every change: the slow tests, then the wheel in an environment that holds nothing else.
release-check: test-slow emoji
	set -e; out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python -m pip wheel -q --no-deps -c constraints.txt -w "$$out/wheel" .; \
	$(PY) -m venv "$$out/empty"; \
	"$$out/empty/bin/python" -m pip install -q --upgrade pip; \
	"$$out/empty/bin/python" -m pip install -q -c constraints.txt torch numpy; \
	"$$out/empty/bin/python" -m pip install -q -c constraints.txt "$$out"/wheel/diffmem-*.whl; \
	cd "$$out"; \
	empty/bin/diffmem quickstart --fast --out quickstart; \
	test -s quickstart/report.html; \
	empty/bin/python -I -c "import diffmem as dm; print(dm.open_images('digits').images.shape)"

bench: .venv/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/network_rate.py
	$(BIN)/python benchmarks/neighbours.py
	$(BIN)/python benchmarks/neighbour_index.py
	$(BIN)/python benchmarks/optimum.py
	$(BIN)/python benchmarks/help_speed.py
	$(BIN)/python benchmarks/emm_search.py
	$(BIN)/python benchmarks/concurrent_runs.py
	$(BIN)/python benchmarks/grouped_training.py
	$(BIN)/python benchmarks/audit.py

# At most four minutes on one card: a page and a JSON in gpu/.
bench-gpu: .venv/.dev
	$(BIN)/python benchmarks/gpu.py --out gpu

schema: .venv/.run
	$(BIN)/python -c 'import json; from diffmem.auditing import AuditResult as R; print(json.dumps(R.model_json_schema(), indent=1, ensure_ascii=False))' \
	    > docs/reference/audit.schema.json

clean:
	rm -rf .venv quickstart
