# make demo     set everything up and run the main job on the embedded data
# make test     set everything up and pass the tests
# make test-slow  the tests that are marked slow: long matrices, several processes, benchmarks
# make test-all the two together
# make lint     formatting, lint rules, types and the tables of the documents
# make clean    remove the environment and demo runs

PYTHON ?= python3.11
BIN := .venv/bin
RUN := runs/demo

.PHONY: setup demo test test-slow test-all lint clean

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	touch $@

demo: setup
	rm -rf $(RUN)
	$(BIN)/python train.py --config configs/baseline_cnn5.py:demo --workdir $(RUN)/teacher
	$(BIN)/python distill.py --config configs/mini_xception.py:demo --teacher $(RUN)/teacher \
		--config.teacher.stored_views=2 --workdir $(RUN)/mini_xception
	$(BIN)/python distill.py --config configs/compress/qat.py:demo --config.init.network=True \
		--config.init.workdir=$(RUN)/mini_xception --teacher $(RUN)/teacher \
		--config.teacher.stored_views=2 --workdir $(RUN)/quantized
	$(BIN)/ferjax calibrate --model $(RUN)/quantized
	$(BIN)/python export.py --model $(RUN)/quantized --out $(RUN)/files --format tflite --quantization qat
	$(BIN)/ferjax evaluate --split test --out $(RUN)/evaluation \
		--model $(RUN)/mini_xception $(RUN)/files/mini_xception_qat.tflite
	$(BIN)/ferjax clip changing --seconds 8 --out $(RUN)/film.mp4
	$(BIN)/python live.py --model $(RUN)/files/mini_xception_qat.tflite --source $(RUN)/film.mp4 \
		--no-display --log $(RUN)/film.jsonl --record $(RUN)/film_seen.mp4

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-all: setup
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.tables --check

clean:
	rm -rf .venv $(RUN)
