# Targets make the virtual environment themselves; a second run reuses it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo test oracles clients recipes check format docs clean

install: $(VENV)/.dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "prerank needs Python 3.11 or later; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --editable '.[plots]' --constraint constraints.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/prerank demo

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadgroup

# Models and layers against other implementations, which are installed into an environment of their own.
oracles: $(VENV)-oracles/.ready
	$(VENV)-oracles/bin/pytest tests/oracles

$(VENV)-oracles/.ready: pyproject.toml constraints.txt tests/oracles/requirements.txt
	$(PYTHON) -m venv $(VENV)-oracles
	$(VENV)-oracles/bin/pip install --quiet --editable '.[dev]' --requirement tests/oracles/requirements.txt \
		--constraint constraints.txt
	@touch $@

# Rows a second of training beside other packages, an epoch of ml-1m each (docs/training-speed.md).
.PHONY: training-speed
training-speed: $(VENV)/.dev $(VENV)-oracles/.ready
	$(BIN)/prerank bench training --peers $(VENV)-oracles/bin/python --rounds 10 --steps 57 --batches 60 --json results/training.json

# Clients of the open protocol, and Schemathesis, against the service. They are installed into environments of their own:
# KServe's client is asked in a process of its own, because it registers the same messages as NVIDIA's.
clients: $(VENV)-clients/.ready $(VENV)-kserve/.ready
	PRERANK_KSERVE=$(abspath $(VENV)-kserve/bin/python) $(VENV)-clients/bin/pytest tests/service/test_clients.py

$(VENV)-clients/.ready: pyproject.toml constraints.txt tests/service/clients.txt
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/pip install --quiet --editable '.[dev]' --requirement tests/service/clients.txt \
		--constraint constraints.txt
	@touch $@

$(VENV)-kserve/.ready: tests/service/kserve.txt
	$(PYTHON) -m venv $(VENV)-kserve
	$(VENV)-kserve/bin/pip install --quiet --requirement tests/service/kserve.txt
	@touch $@

# The recipes of deploy/, by linters in an environment of their own; the rules of Prometheus where promtool is installed.
recipes: $(VENV)-recipes/.ready
	$(VENV)-recipes/bin/hadolint deploy/Dockerfile
	$(VENV)-recipes/bin/kubernetes-validate --strict deploy/kubernetes/*.yaml
	@command -v promtool >/dev/null || { echo "promtool is not installed: rules of Prometheus are not checked"; exit 0; } && \
		promtool check config --syntax-only deploy/prometheus/prometheus.yaml && \
		promtool test rules deploy/prometheus/alerts_test.yaml

$(VENV)-recipes/.ready: deploy/requirements.txt
	$(PYTHON) -m venv $(VENV)-recipes
	$(VENV)-recipes/bin/pip install --quiet --requirement deploy/requirements.txt
	@touch $@

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The tables of README.md and docs/, from the JSON in results/ and the registry.
docs: $(VENV)/.dev
	$(BIN)/python docs/tables.py

clean:
	rm -rf $(VENV) $(VENV)-oracles $(VENV)-clients $(VENV)-kserve $(VENV)-recipes build dist
