# The two commands: make poc, make test. Everything lives in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: two torch processes with two threads each slow one another down by orders of magnitude.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
JOBS ?= 2

.PHONY: poc test check types lint format docs clean benchmark examples gpu-check

# torch is installed first and pinned, so that pip takes the CPU build where the index has one. Bytecode is compiled
# afterwards, on all cores, but for what nobody imports; files that do not compile are skipped.
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
IDLE = site-packages/(.*/tests/|ray/rllib/|transformers/models/(?!auto|bert|gpt2|__init__))
COMPILE = $(BIN)/python -m compileall -q -j 0 -x '$(IDLE)' $(VENV)/lib src >/dev/null 2>&1 || true
$(BIN)/.torch: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch==2.13.0 numpy
	@touch $@

$(BIN)/.poc: $(BIN)/.torch
	$(INSTALL) -e '.[poc]'
	@$(COMPILE)
	@touch $@

# It holds all that .poc has: sabun is built and installed once.
$(BIN)/.dev: $(BIN)/.torch
	$(INSTALL) -e '.[poc,transformers,lightning,accelerate,mlflow,tensorboard,parquet,slides,notebook,ray,ray-train,docs,dev]'
	@$(COMPILE)
	@touch $(BIN)/.poc $@

## make poc: the whole proof of concept on real data; prints the verdict and the path of the report
poc: $(BIN)/.poc
	@$(BIN)/sabun poc run --out runs/demonstration

## make check: lint, format, types, import contracts (seconds); the types beside the rest
check: $(BIN)/.dev
	@$(MAKE) --no-print-directory -j 2 types lint

types: $(BIN)/.dev
	$(BIN)/mypy

lint: $(BIN)/.dev
	$(BIN)/ruff check src tests benchmarks examples docs noxfile.py
	$(BIN)/ruff format --check src tests benchmarks examples docs noxfile.py
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_architecture.py

## make test: check, then the whole test suite, but for what check has run
test: check
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --ignore tests/test_architecture.py

## make benchmark: optimizers over families of tasks; resumes; QUICK=1 takes at most 12 minutes, PROFILE=gpu wants a GPU
benchmark: $(BIN)/.dev
	$(BIN)/python benchmarks/suite.py $(if $(QUICK),--quick,$(if $(PROFILE),--profile $(PROFILE)))

## make gpu-check: results, waits, graphs, memory and times on one GPU, in at most nine minutes; DRY=1 runs on a CPU
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check.py $(if $(DRY),--dry-run) $(if $(OUT),--out $(OUT))

## make docs: the documentation site, into site/; `make test` builds it too, and fails on a warning
docs: $(BIN)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

## make examples: each example in a fresh environment, with the installation and the command of its page (minutes each)
examples:
	$(PYTHON) tests/integrations/clean.py $(EXAMPLES)

format: $(BIN)/.dev
	$(BIN)/ruff check --fix src tests benchmarks examples docs noxfile.py
	$(BIN)/ruff format src tests benchmarks examples docs noxfile.py

clean:
	rm -rf $(VENV) runs dist build site .mypy_cache .ruff_cache .pytest_cache
