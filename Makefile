PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS := -n auto --maxprocesses=4 --dist worksteal
OUT ?= out/gpu
GPU_PYTHON ?= 3.12
GPU_WHEELS ?= av execnet hypothesis iniconfig pluggy pytest pytest-xdist sortedcontainers typer shellingham
PLATFORMS := 2_17 2_24 2_27 2_28 2_31 2_34
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.installed-bench

.PHONY: help install demo test test-all test-interpreter test-floors test-newest test-lmms test-vllm dist lint format docs bench bench-check gpu gpu-rehearse gpu-wheels gpu-page leaderboard pictures train clean

help:
	@echo "make demo          ask the bundled video with all tokens and with 20 %, reduce a real clip, write reports"
	@echo "make test          the test suite; of large products of parameters a part that covers them"
	@echo "make test-all      make test with every combination of parameters; writes the tables of the docs"
	@echo "make test-interpreter  the contract suite for the Triton kernels, on inputs of full size, in Triton's interpreter"
	@echo "make test-floors   the built wheel on the oldest Python found, every dependency at its lower bound"
	@echo "make test-newest   the built wheel on the newest Python found, everything in its newest release"
	@echo "make test-lmms     the tests that need lmms-eval, in a new environment of their own"
	@echo "make test-vllm     the tests that need vLLM, in a new environment of their own"
	@echo "make dist          build what is published into dist, wheels and source archives, and check it"
	@echo "make lint          ruff and mypy"
	@echo "make format        let ruff mend what it can"
	@echo "make docs          build the site of the docs into out/site; broken links end it"
	@echo "make bench         measure the selection beside its peers, write docs/results/benchmarks.md (about 18 minutes)"
	@echo "make bench-check   has the selection become slower than the committed ratios (less than 2 minutes)"
	@echo "make gpu           everything that wants a GPU, with PYTHON, which has torch and transformers, into OUT (nine minutes)"
	@echo "make gpu-rehearse  the same without a GPU, everything shrunk: does each line of it run (less than 2 minutes)"
	@echo "make gpu-wheels    fetch what PYTHON may lack there into wheels/gpu, for Python GPU_PYTHON on x86-64"
	@echo "make gpu-page      take the results in OUT into the docs"
	@echo "make leaderboard   write docs/results/leaderboard*.md from docs/data/leaderboard*.json, summaries of framefusion eval"
	@echo "make pictures      draw docs/images/kept.png, take those of reports and the app with Chromium"
	@echo "make train         fetch the training footage and train the bundled checkpoints again, into out (hours)"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): PyTorch and friends, several GB with CUDA wheels, some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@# torchcodec, by which transformers decodes videos, uses the system's FFmpeg.
	scripts/system_packages.sh ffmpeg || true
	touch $@

demo: install
	$(BIN)/framefusion demo --out out

test: install
	$(BIN)/python -m pytest $(WORKERS) $(if $(MATRIX),--matrix=$(MATRIX))

# The same with every combination of parameters, in one run.
test-all:
	$(MAKE) test MATRIX=docs/data/matrix.json
	$(BIN)/python scripts/update_tables.py

test-interpreter: install
	$(BIN)/python -m pytest tests/selection -k triton $(WORKERS) --whole-interpreter

dist:
	scripts/build_dist.sh $(PYTHON) dist

test-floors test-newest: test-%: dist
	scripts/test_wheel.sh $* dist $(PYTHON)

test-lmms: install
	scripts/test_lmms.sh $(BIN)/python

test-vllm: install
	scripts/test_vllm.sh $(PYTHON)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not --quiet: warnings that are silenced end nothing.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,bench]'
	touch $@

bench: install $(PEERS)
	$(BIN)/python -m benchmarks.selection

bench-check: install
	$(BIN)/python -m benchmarks.check

# Nothing is installed: the machine may have no network.
gpu:
	scripts/gpu.sh $(PYTHON) $(OUT)

gpu-rehearse: install
	scripts/gpu.sh $(BIN)/python out/gpu-rehearsal --rehearse

gpu-wheels: install
	$(BIN)/python -m pip download --disable-pip-version-check -q --no-deps --only-binary=:all: \
		--python-version $(GPU_PYTHON) --implementation cp $(PLATFORMS:%=--platform manylinux_%_x86_64) \
		-c constraints.txt -d wheels/gpu $(GPU_WHEELS)

gpu-page: install
	$(BIN)/python -m benchmarks.gpu.page $(OUT)

leaderboard: install
	$(BIN)/python scripts/leaderboard.py

pictures: install
	$(BIN)/python scripts/picture.py
	$(BIN)/python scripts/screenshots.py

train: install
	$(BIN)/python training/train_vision.py
	$(BIN)/python training/train_decoder.py
	$(BIN)/python training/train_decoder.py --export out/tiny
	$(BIN)/python training/train_vision.py --family qwen --like llava --steps 1450
	$(BIN)/python training/train_decoder.py --family qwen --like llava --steps 1200
	$(BIN)/python training/train_decoder.py --family qwen --export out/tiny-qwen

clean:
	rm -rf $(VENV) build dist out
