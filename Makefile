# Every target sets up what it needs: uv if there is none, then the locked environment, compiled: where Python is told
# to write no bytecode, as containers often are, a command that imports torch otherwise starts in 11 s instead of 5.
SHELL := /bin/bash
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)

.PHONY: demo test test-whole test-slow test-workers test-browser lint bench clean

demo: .venv/.ready
	$(UV) run --frozen mech-grok run configs/quickstart.yaml --resume

test: .venv/.ready
	$(UV) run --frozen pytest -n 2 --dist loadfile

# Whole commands and stages, on small runs that are trained for them.
test-whole: .venv/.ready
	$(UV) run --frozen pytest -m 'whole and not slow' -n 2 --dist loadfile

test-slow: .venv/.ready
	$(UV) run --frozen pytest -m slow -n 2

# Sweeps with real processes, and on real Ray clusters; Ray is in no other target's environment.
test-workers: .venv/.ready
	$(UV) run --frozen --extra ray pytest -m workers

# Pages in a real Chromium, driven by Playwright; without one these tests are skipped and say so.
test-browser: .venv/.ready
	$(UV) run --frozen pytest -m browser -rs

lint: .venv/.ready
	$(UV) run --frozen ruff check
	$(UV) run --frozen ruff format --check
	$(UV) run --frozen basedpyright

bench: .venv/.ready
	$(UV) run --frozen python benchmarks/goals.py

.venv/.ready: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --compile-bytecode
	touch $@

# Without uv on the PATH: the one from PyPI, in a folder of its own.
.tools/bin/uv:
	python3 -m venv .tools 2>/dev/null && .tools/bin/python -m pip install --quiet uv \
		|| { rm -rf .tools; python3 -m pip install --quiet --target .tools uv; }
	$@ --version

clean:
	rm -rf .venv .tools
