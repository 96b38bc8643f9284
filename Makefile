# Two commands: `make demo` and `make test`. Both make .venv first if it is not there.
PY = .venv/bin/python
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: venv demo test test-long check

venv: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

demo: venv
	.venv/bin/unteach demo $(ARGS)

test: venv
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -n 2 -m "not long" $(ARGS)

test-long: venv
	HF_HUB_OFFLINE=1 $(PY) -m pytest -m long $(ARGS)

check: venv
	.venv/bin/ruff check src tests
	.venv/bin/ruff format --check src tests
	.venv/bin/mypy
	.venv/bin/lint-imports --config pyproject.toml
