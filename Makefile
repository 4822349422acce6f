# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo

.PHONY: demo readme-pictures readme-check test lint test-random test-slow test-fuzz test-faults test-matrix gpu test-zoo test-real clean

# Python writes the bytecode of a module at its first import, because the set-up leaves all of it out.
export PYTHONDONTWRITEBYTECODE =

define install
@echo "Setting up $(VENV) for $(2): about a minute on two cores, and the download of 2 to 6 GB where pip has no cache."
@$(PYTHON) tests/set_up.py $(VENV) $(1)
endef

$(STAMP): pyproject.toml
	$(call install,dev,the tests)
	@$(BIN)/python -m compileall -q -j $(JOBS) $(VENV)/lib >/dev/null || true  # some packages ship files that do not compile
	@touch $@ $(DEMO_STAMP)

$(DEMO_STAMP): pyproject.toml
	$(call install,zoo,the demo)
	@touch $@

demo: $(DEMO_STAMP) ## fold, export, compile, measure and compare a real ResNet-50
	@echo "The demo writes, builds and measures a ResNet-50: about a minute on two cores."
	@test -f resnet50.pt || $(BIN)/python examples/make_resnet50.py resnet50.pt
	PATH="$(CURDIR)/$(BIN):$$PATH" deployfold build resnet50.pt --fp16 --max-seconds 10

readme-pictures: $(STAMP) ## make the README's recording, table and page again, on a quiet machine; needs tmux and Chromium
	test -f resnet50.pt || $(BIN)/python examples/make_resnet50.py resnet50.pt
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/benchmarks/pictures.py resnet50.pt --fp16

readme-check: $(STAMP) ## run again what the README and docs/ show as printed, and compare
	$(BIN)/python tests/benchmarks/readme_check.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint ## all tests except those marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slow'

test-random: $(STAMP) ## the property tests with new random examples, ten times as many
	DEPLOYFOLD_EXAMPLES_FACTOR=10 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m 'not slow' $$(grep -rl 'hypothesis import' tests --include='test_*.py')

test-slow: $(STAMP) ## the tests marked slow, except the zoo and the real models
	$(BIN)/python -m pytest -m 'slow and not zoo and not real'

test-fuzz: $(STAMP) ## damaged input for every reader, 10,000 cases each
	DEPLOYFOLD_FUZZ_CASES=10000 $(BIN)/python -m pytest -n $(JOBS) -m slow -rP tests/fuzz

test-faults: $(STAMP) ## kills, full disks and the like for every command that writes, 50 cases each
	DEPLOYFOLD_FAULT_CASES=$${DEPLOYFOLD_FAULT_CASES:-50} $(BIN)/python -m pytest -n $(JOBS) -m slow tests/faults

test-matrix: ## a quick part of the tests on the Pythons on the PATH and two versions of torch
	$(PYTHON) tests/matrix.py $(MATRIX)

gpu: $(STAMP) ## on a machine with an NVIDIA GPU: every line that runs on one, as a table; six minutes
	$(BIN)/python tests/gpu/report.py build/gpu

test-zoo: $(STAMP) ## fold hundreds of networks, side by side with other folders; resumable
	$(BIN)/python -m pip install --quiet --no-deps 'fasterai==0.4.1'
	$(BIN)/python tests/zoo/gather.py build/zoo --jobs 2
	$(BIN)/python -m pytest -q -m 'slow and zoo' tests/zoo -s

test-real: $(STAMP) ## build some thirty models of other libraries as their users have them; resumable
	$(BIN)/python tests/real_models/real_run.py build/real
	$(BIN)/python -m pytest -q -m 'slow and real' tests/real_models

clean:
	rm -rf $(VENV) build dist resnet50.pt
