# Two commands do everything on a fresh machine:
#   make train    install into .venv, then train a small network on synthetic rooms and score it
#   make test     add the test tools to .venv, then run the tests
# ARGS passes settings on: make train ARGS="epochs=4", make test ARGS="-k graph".
# Other commands:
#   make cluster  build and install torch-cluster, which is optional
#   make lint     check style, types and Dockerfiles
#   make clean    remove .venv and caches; data/ and outputs/ stay

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
ARGS ?=
WHEELS := .wheels

.PHONY: train test lint cluster install-cluster clean
.DELETE_ON_ERROR:

train: $(VENV)/.installed
	$(BIN)/python tools/train.py experiment=quickstart $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.cpu

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$($(PYTHON) -V), but 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)"; exit 1; }
	@test "$$(df -Pk . | awk 'NR==2 {print $$4}')" -gt 3000000 || { echo "error: less than 3 GB are free on this disk"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created constraints.txt pyproject.toml
	@echo "Installing into $(VENV)"
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[test,lint]'
	@touch $@

# PyPI has no wheel of torch-cluster, and building one takes minutes. So the wheel is kept in .wheels/ for next time.
cluster: $(VENV)/.installed
	@$(BIN)/python -c 'import torch_cluster' 2>/dev/null && echo "torch-cluster is already installed" || $(MAKE) --no-print-directory install-cluster

install-cluster:
	@command -v c++ >/dev/null || { echo "error: no C++ compiler; install one (Debian: apt-get install g++)"; exit 1; }
	$(PIP) install -c constraints.txt setuptools wheel
	@mkdir -p $(WHEELS)
	@ls $(WHEELS)/torch_cluster-*.whl >/dev/null 2>&1 || { \
	  echo "Building torch-cluster (some minutes)"; \
	  printf '[build_ext]\nparallel = %s\n' "$$(nproc 2>/dev/null || echo 2)" > $(WHEELS)/build.cfg; \
	  DIST_EXTRA_CONFIG=$(abspath $(WHEELS)/build.cfg) $(PIP) wheel -c constraints.txt --no-build-isolation --no-deps -w $(WHEELS) torch-cluster; }
	$(PIP) install -c constraints.txt $(WHEELS)/torch_cluster-*.whl
	@$(BIN)/python -c 'import torch_cluster' || { rm -f $(WHEELS)/torch_cluster-*.whl; \
	  echo "error: the wheel in $(WHEELS) was built for another torch and has been removed; run make cluster again"; exit 1; }

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
