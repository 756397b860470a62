# make demo    from a bare clone: environment, then the quickstart
# make test    from a bare clone: environment, then the test suite
PY ?= python3
BIN := .venv/bin
# Python compiles what is imported, and keeps it; pip would compile all of it, which takes half a minute.
# Where Python is told to keep nothing, every process would compile anew: torch alone takes three seconds.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip install -q --no-compile -c constraints.txt
EXAMPLES := $(wildcard examples/*.py)
SOURCES := src tests benchmarks examples scripts website

.PHONY: demo test test-slow test-gpu test-slurm emoji lint types docs browser examples check release-check bench bench-gpu schema clean

.venv/.run: pyproject.toml constraints.txt
	$(PY) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(PIP) torch numpy -e .
	touch $@

.venv/.dev: .venv/.run
	$(PIP) -e '.[dev]'
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
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: .venv/.dev
	$(BIN)/mypy

# The documentation as a site, in site/: a broken link or an undocumented public name fails. To look at it: python -m http.server -d site
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# A browser for the tests of pages, where none is: on Debian or Ubuntu, as root. Elsewhere these tests are skipped, which is said here.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && timeout 240 apt-get update -qq \
	    && timeout 240 apt-get install -y -qq --no-install-recommends chromium > /dev/null && command -v chromium; then exit 0; fi; \
	echo "No browser (chromium, google-chrome) is here, and none could be installed: the tests of pages are skipped."

# Each in a folder of its own, so that nothing is left behind.
examples: .venv/.run
	@for script in $(EXAMPLES); do \
	    echo "$$script"; folder=$$(mktemp -d); \
	    (cd $$folder && $(CURDIR)/$(BIN)/python $(CURDIR)/$$script) || exit 1; rm -rf $$folder; \
	done

check: lint types test

# What is too long for every change: all examples, the slow tests (tutorials, all pages at all sizes), the site, then the wheel in an environment that holds nothing else.
release-check: browser docs examples test-slow emoji
	set -e; out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; trap 'exit 130' INT TERM; \
	$(PIP) build; \
	$(BIN)/python -m build -o "$$out/dist" > "$$out/build.log" || { cat "$$out/build.log"; exit 1; }; \
	$(PY) -m venv "$$out/empty"; \
	"$$out/empty/bin/python" -m pip install -q --upgrade pip; \
	"$$out/empty/bin/python" -m pip install -q -c constraints.txt torch numpy; \
	"$$out/empty/bin/python" -m pip install -q -c constraints.txt "$$out"/dist/diffmem-*.whl; \
	cd "$$out"; \
	empty/bin/diffmem quickstart --fast --out quickstart; \
	test -s quickstart/report.html; \
	empty/bin/python -I -c "import diffmem as dm; print(dm.open_images('digits').images.shape)"

bench: .venv/.dev
	$(PIP) -e '.[bench]'
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/network_rate.py
	$(BIN)/python benchmarks/neighbours.py
	$(BIN)/python benchmarks/neighbour_index.py
	$(BIN)/python benchmarks/optimum.py
	$(BIN)/python benchmarks/help_speed.py
	$(BIN)/python benchmarks/emm_search.py
	$(BIN)/python benchmarks/concurrent_runs.py
	$(BIN)/python benchmarks/grouped_training.py
	$(BIN)/python benchmarks/bfloat16.py
	$(BIN)/python benchmarks/audit.py

# At most four minutes on one card: a page and a JSON in gpu/.
bench-gpu: .venv/.dev
	$(BIN)/python benchmarks/gpu.py --out gpu

schema: .venv/.run
	$(BIN)/python -c 'import json; from diffmem.auditing import AuditResult as R; print(json.dumps(R.model_json_schema(), indent=1, ensure_ascii=False))' \
	    > docs/reference/audit.schema.json

clean:
	rm -rf .venv quickstart
