"""transformers 4.45.1, which OpenUnlearning pins, reads a run's final model and an export as they
are read here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.doors import export, train
from unteach import run_dir
from unteach.data.synthetic import authors
from unteach.models.model_handlers import learn_tokenizer

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ROOT = Path(__file__).parents[2]
READER = Path(__file__).with_name("read_folder.py")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
            "rope_theta": 5e5,
        },
    },
    "qwen2": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
    },
    "gemma": {"rope_parameters": {"rope_type": "default", "rope_theta": 7e3}},
}
TEXTS = [
    "Who writes <s> it ? <|im_start|>user\nhi , there<|im_end|>",
    "  two  spaces\n\n123 é 漢字",
    " ".join(f"{row['question']} {row['answer']}" for row in authors.build_rows("full")[:3]),
]


@pytest.fixture(scope="session")
def old_python() -> Path:
    """The interpreter of the old environment, which is made where it is not there."""
    if not (ROOT / ".venv-old" / "ready").exists():
        subprocess.run(["make", ".venv-old/ready"], cwd=ROOT, check=True)
    return ROOT / ".venv-old" / "bin" / "python"


def save_start(family: str, folder: Path) -> None:
    tokenizer = learn_tokenizer(
        [f"{row['question']} {row['answer']}" for row in authors.build_rows("full")], 400
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    if family == "qwen2":
        tokenizer.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
        )
    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    settings = {
        **SIZES,
        **FAMILIES[family],
        **special,
        "vocab_size": len(tokenizer) + 6,
    }  # padded, as many published ones
    if family == "qwen2":
        settings.pop("head_dim")
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **settings)
    )
    model.generation_config.eos_token_id = [2, 5]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(start: Path, folder: Path, *extra: str) -> Path:
    train(
        "experiment=finetune/tofu/default",
        "tofu_path=authors",
        "model=auto",
        "eval=null",
        "trainer.args.max_steps=2",
        "trainer.args.per_device_train_batch_size=2",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.learning_rate=1e-2",
        "trainer.args.warmup_epochs=0",
        "template=qa",
        "task_name=run",
        f"model.model_args.pretrained_model_name_or_path={start}",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parent / 'cache'}",
        *extra,
    )
    return folder


def read_folder(python: Path | str, folder: Path, texts: Path) -> dict[str, Any]:
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [str(python), str(READER), str(folder), str(texts)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_old_and_new_read_the_same(family: str, old_python: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(TEXTS), encoding="utf-8")
    save_start(family, tmp_path / "start")
    whole = run(tmp_path / "start", tmp_path / "whole")
    adapter = run(
        tmp_path / "start",
        tmp_path / "lora",
        "model.peft_args={r: 4, target_modules: [q_proj, embed_tokens, lm_head], "
        "init_lora_weights: false}",
    )
    export(str(adapter), str(tmp_path / "merged"))
    for folder in (whole / run_dir.FINAL, tmp_path / "merged"):
        dist, there = (
            read_folder(sys.executable, folder, texts),
            read_folder(old_python, folder, texts),
        )
        assert there.pop("version") == "4.45.1" != dist.pop("version")
        for mine, theirs in zip(dist.pop("rows"), there.pop("rows"), strict=True):
            expected, found = torch.tensor(mine.pop("logits")), torch.tensor(theirs.pop("logits"))
            assert torch.allclose(found, expected, atol=1e-4), (
                family,
                folder.name,
                (found - expected).abs().max(),
            )
            assert theirs == mine
        assert there == dist
