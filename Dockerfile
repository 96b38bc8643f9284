# unteach in an image, for CPUs:
#
#   docker build -t unteach --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm --user "$(id -u)" -v "$PWD:/workspace" unteach train model=MODEL data=my.csv
#
# For NVIDIA GPUs, on an image of CUDA with Python 3.11 or newer (and `docker run --gpus all --shm-size 1g …`):
#
#   docker build -t unteach --build-arg BASE=nvidia/cuda:TAG .
#
# What was run, as shell, with Python 3.11: the first RUN line where Python is there, the one that installs unteach, in a new
# environment; hadolint. The one that installs the lock file was stopped after 15 minutes on a busy machine; it has the
# commands of `make venv`. What was not run, as there was no docker: docker build, the line for images without Python, the
# last one, and the image of CUDA. ADDRESS is PyTorch's for "Compute Platform: CPU" (README.md).
ARG BASE=python:3.11-slim
FROM ${BASE}

# Where PyTorch comes from; empty: the package index, whose build for x86-64 brings CUDA along.
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /unteach

# Images of CUDA have no Python, or one without venv.
RUN python3 -c "import ensurepip" 2>/dev/null || \
    { apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; }

# What is pinned comes first: a change of the sources does not install it anew.
COPY requirements.lock ./
RUN python3 -m venv .venv && \
    .venv/bin/python -m pip install "$(grep '^torch==' requirements.lock)" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} && \
    .venv/bin/python -m pip install -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN .venv/bin/python -m pip install --no-deps . && rm -rf build src

# Runs are written to the folder that is mounted here, by whichever user; the hub's cache too.
ENV PATH=/unteach/.venv/bin:$PATH HOME=/workspace
WORKDIR /workspace
RUN chmod 1777 .
USER 1000
ENTRYPOINT ["unteach"]
