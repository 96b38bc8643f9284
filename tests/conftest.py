"""Fixtures that every test may use: the reference values beside the repository, and tiny models
made in the process."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from unteach import logs
from unteach.config.environment import prepare_environment
from unteach.distributed import extension_builds

prepare_environment()
logs.set_verbosity("info")
hypothesis.settings.register_profile("unteach", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("unteach")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    *("-m", "unteach"),
]
"""Two processes of the command line, as torchrun starts them."""
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_finish() -> None:
    """What is imported by now stays: every collection of garbage, such as those at the end of a
    training, need not look through it again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this session's processes alone: what earlier ones found, or left, changes no
    test."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    with pytest.MonkeyPatch.context() as patch:
        # torch's compiled extensions, which take minutes, and matplotlib's list of fonts stay.
        patch.setenv("TORCH_EXTENSIONS_DIR", str(extension_builds.find_build_dir()))
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(home / "matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference values; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference values are not here ({SHARED})")
    return SHARED


@pytest.fixture(scope="session")
def kit(shared: Path) -> Path:
    return shared / "parity" / "kit"


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def random_llama(folder: Path, width: int) -> Path:
    """A randomly initialised Llama of 2 layers with a tokenizer of the authors world, saved as a
    model folder."""
    import torch
    import transformers

    from unteach.data.synthetic import authors
    from unteach.models.model_handlers import learn_tokenizer

    tokenizer = learn_tokenizer(
        [f"{r['question']} {r['answer']}" for r in authors.build_rows("full")], 400
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llama(tmp_path_factory.mktemp("tiny"), 32)


@pytest.fixture(scope="session")
def blocks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As wide as bitsandbytes' blocks of 64: its kernel for CPUs with AVX-512 takes no narrower
    layer in four bits."""
    return random_llama(tmp_path_factory.mktemp("blocks"), 64)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    """The same, loaded."""
    from unteach.config.schema import ModelConfig
    from unteach.models.loading import load

    return load(ModelConfig({"pretrained_model_name_or_path": str(tiny_folder)}), training=False)


@pytest.fixture(scope="session")
def taught_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents (gone, kept, unseen) and a run that was taught the first two."""
    from .taught import build_documents, teach_by_heart

    folder = tmp_path_factory.mktemp("documents")
    return teach_by_heart(folder, build_documents, "data.packing=apart")


@pytest.fixture(scope="session")
def taught_chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of chats (gone, kept, unseen) and a run that was taught the first two."""
    from .taught import build_chats, teach_by_heart

    return teach_by_heart(tmp_path_factory.mktemp("chats"), build_chats)
