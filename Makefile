# make demo    see cracks found by an INT8 net exported in front of you      make test    the tests
# make check   format, lint, types and tests                                 make help    the rest
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
DEMO ?= demo
RESULTS ?= results

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
INSTALL = $(PIP_INSTALL) -c constraints.txt
RELEASE := /etc/nv_tegra_release
JETSON := $(wildcard $(RELEASE))
JETPACK6 := $(shell grep -s 'R36 ' $(RELEASE))
SEED := 13
.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types results bench gpu-check pycuda rtx-matrix wheels-check clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "wanted Python 3.10 or newer, got $$($(PYTHON) --version); give PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(if $(JETSON),--system-site-packages) $(VENV) || { echo "no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Downloading about 460 MB where pip takes the CPU build of torch, several GB where it takes the CUDA build (PIP_ARGS chooses the index)."
	$(INSTALL) -e '.[cpu,video,evaluate,export,train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) -e '.[cpu,video,evaluate,export,train,search,rtx,live,dev]'
	@touch $@

demo: $(VENV)/.demo ## Render a clip, export SCNet to INT8, find the cracks, score them
	@mkdir -p $(DEMO)
	$(BIN)/edgecrack sample-clip $(DEMO)/road.mp4 --seed $(SEED)
	$(BIN)/edgecrack export --model scnet --int8 --target cpu -o $(DEMO)
	@rm -rf $(DEMO)/out  # a run goes on in its folder, or begins in another
	$(BIN)/edgecrack run $(DEMO)/scnet.int8-cpu.onnx --source $(DEMO)/road.mp4 --out $(DEMO)/out >$(DEMO)/run.txt
	@cat $(DEMO)/run.txt
	$(BIN)/edgecrack evaluate $(DEMO)/scnet.int8-cpu.onnx --data $(DEMO)/road.mp4 --every 5 --out $(DEMO)/scores >$(DEMO)/scores.txt
	@cat $(DEMO)/scores.txt
	@echo
	@echo "Overlay video  $(DEMO)/out/overlay.mp4"
	@echo "Log            $(DEMO)/out/log.jsonl"
	@echo "Scores         $(DEMO)/scores/scores.json"
	@echo "Speed          $$(head -n 1 $(DEMO)/run.txt)"
	@echo "Score          $$(grep -m 1 '2 px' $(DEMO)/scores.txt | tr -s ' ' | sed 's/^ //')"
	@echo "The score is against the clip's known masks. This renderer was also in training,"
	@echo "so it shows that the pipeline works, not how well cracks are found in the field."

test: $(VENV)/.dev ## Run the tests; with labelled data in EDGECRACK_DATA or ../shared/data also score real frames
	@# what computes runs beside what mostly waits, and gives way to it
	@told=$$(mktemp); nice $(BIN)/python -m pytest tests/real >$$told 2>&1 & real=$$!; \
	trap "kill $$real" INT TERM; \
	$(BIN)/python -m pytest --ignore=tests/real; ended=$$?; \
	wait $$real || ended=$$?; cat $$told; rm $$told; exit $$ended

check: format lint types test ## Format, lint, types and tests

format: $(VENV)/.dev ## Refuse code that is not formatted
	$(BIN)/ruff format --check

lint: $(VENV)/.dev ## Lint
	$(BIN)/ruff check

types: $(VENV)/.dev ## Check the types, strictly
	$(BIN)/mypy

results: $(VENV)/.demo ## Score every shipped net on all labelled data and write the table
	$(BIN)/python benchmarks/results.py --out $(RESULTS)

bench: $(VENV)/.demo ## Measure speed and memory and hold them to their bounds, with nothing else running
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/host_cost.py

rtx-matrix: $(VENV)/.dev ## Build every net, precision and size with TensorRT for RTX, which needs no GPU
	$(BIN)/python tools/rtx_matrix.py $(ARGS)

gpu-check: $(VENV)/.gpu ## Say what works on this machine's NVIDIA GPU, on one page for a report
	$(BIN)/python tools/gpu_check.py $(if $(ONNX),--onnx $(ONNX))

pycuda: $(VENV)/.dev ## Build pycuda, for which there are no wheels, and no CUDA toolkit is needed: the tests then cover it too
	tools/install_pycuda.sh $(BIN)/python

# Without CI's pins, which fit no JetPack: docs/jetson.md has what does. An OpenCV from pip would hide JetPack's.
$(VENV)/.gpu: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e '.[tensorrt]' $(if $(JETSON),'numpy<2') $(if $(JETPACK6),'cuda-bindings==12.9.*')
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(if $(JETSON),{ echo "$(VENV) does not see JetPack's OpenCV: apt install python3-opencv and make $(VENV) anew with --system-site-packages" >&2; exit 1; },$(PIP_INSTALL) -e '.[cpu]')
	@touch $@

wheels-check: $(VENV)/.demo ## Resolve every extra for Python 3.10 to 3.13 on x86-64 and aarch64, from wheels alone
	$(BIN)/python tools/wheels_check.py $(PIP_ARGS)

clean: ## Remove what was made
	rm -rf $(VENV) $(DEMO) $(RESULTS) build dist *.egg-info
