"""The shipped models' families: each is asked, scored and trained as its architecture and its
template want it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.doors import train
from tests.models.test_forward import ROWS, batch_of
from unteach import run_dir
from unteach.config.compose import compose
from unteach.config.groups import CONFIGS
from unteach.config.schema import ModelConfig
from unteach.data.synthetic import authors
from unteach.models.capabilities import get_capabilities
from unteach.models.forward import OutputSpec, extend
from unteach.models.lm_head import head_logits
from unteach.models.loading import load
from unteach.models.model_handlers import PATH, learn_tokenizer
from unteach.verbs.listing import list_entries

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
EXPERTS = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "head_dim": 8,
    "num_key_value_heads": 2,
}
NAMES = sorted(
    file.stem for file in (CONFIGS / "model").glob("*.yaml") if file.stem not in ("auto", "tiny")
)
LLAMA3 = (
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + "
    "'\n\n' "
    "+ messages[0].content + '<|eot_id|>' }}{% for m in messages[1:] %}{{ '<|start_header_id|>' + "
    "m.role "
    "+ '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% "
    "endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) "
    "+ '\n' "
    "+ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
HARMONY = (
    "{{ '<|start|>system<|message|>Reasoning: medium<|end|>' }}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}"
    "{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
HELPFUL = "You are a helpful assistant."
TAGGED = "Question: Q?\nAnswer: "


@dataclass
class Family:
    """An architecture with the special tokens and the chat template of its published tokenizer, in
    short.

    asked, learned: how the question `Q?` is put, and how its answer `A.` is learned up to the end
    of its turn.
    """

    config: str
    asked: str
    learned: str
    eos: str = "</s>"
    pad: str | None = None
    chat: str | None = None
    special: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "Llama-2-7b-hf": Family("LlamaConfig", TAGGED, "A.</s>"),
    "Llama-2-7b-chat-hf": Family("LlamaConfig", "[INST] Q? [/INST]", "A.</s>"),
    "Llama-3.2-1B-Instruct": Family(
        "LlamaConfig",
        f"<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 10 Apr "
        f"2025\n\n{HELPFUL}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "A.<|eot_id|>",
        eos="<|eot_id|>",
        chat=LLAMA3,
        special=("<|start_header_id|>", "<|end_header_id|>"),
        extra={"tie_word_embeddings": True, "num_key_value_heads": 2},
    ),
    "Qwen2.5-1.5B-Instruct": Family(
        "Qwen2Config",
        f"<|im_start|>system\n{HELPFUL}<|im_end|>\n<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n",
        "A.<|im_end|>",
        eos="<|im_end|>",
        pad="<pad>",
        chat=CHATML,
        special=("<|im_start|>",),
        extra={"tie_word_embeddings": True, "num_key_value_heads": 2},
    ),
    "Qwen3-30B-A3B-Instruct-2507": Family(
        "Qwen3MoeConfig",
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n",
        "A.<|im_end|>",
        eos="<|im_end|>",
        pad="<pad>",
        chat=CHATML,
        special=("<|im_start|>",),
        extra=EXPERTS | {"num_experts": 4, "decoder_sparse_step": 1},
    ),
    "gpt-oss-20b": Family(
        "GptOssConfig",
        "<|start|>system<|message|>Reasoning: medium<|end|>"
        "<|start|>user<|message|>Q?<|end|><|start|>assistant",
        "<|channel|>final<|message|>A.<|return|>",
        eos="<|return|>",
        pad="<pad>",
        chat=HARMONY,
        special=("<|start|>", "<|message|>", "<|end|>", "<|channel|>"),
        extra=EXPERTS | {"num_local_experts": 4},
    ),
    "phi-1_5": Family("PhiConfig", TAGGED, "A.</s>", extra={"partial_rotary_factor": 0.5}),
    "Phi-3.5-mini-instruct": Family(
        "Phi3Config",
        f"<|system|>\n{HELPFUL}<|end|>\n<|user|>\nQ?<|end|>\n<|assistant|>\n",
        "A.<|end|>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        chat=PHI3,
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        extra={"sliding_window": 3},
    ),
    "gemma-7b-it": Family(
        "GemmaConfig",
        "<s><start_of_turn>user\nQ?<end_of_turn>\n<start_of_turn>model\n",
        "A.<end_of_turn>",
        pad="<pad>",
        chat=GEMMA,
        special=("<start_of_turn>", "<end_of_turn>"),
        extra={"head_dim": 16, "num_key_value_heads": 1},
    ),
    "auto": Family(
        "Gemma2Config",
        "<s><start_of_turn>user\nQ?<end_of_turn>\n<start_of_turn>model\n",
        "A.<end_of_turn>",
        pad="<pad>",
        chat=GEMMA,
        special=("<start_of_turn>", "<end_of_turn>"),
        extra={
            "head_dim": 8,
            "num_key_value_heads": 2,
            "sliding_window": 3,
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 2.0,
        },
    ),
    "zephyr-7b-beta": Family(
        "MistralConfig",
        f"<|system|>\n{HELPFUL}</s>\n<|user|>\nQ?</s>\n<|assistant|>\n",
        "A.</s>",
        pad="</s>",
        chat=ZEPHYR,
        extra={"num_key_value_heads": 2, "sliding_window": 3},
    ),
    "gpt2": Family(
        "GPT2Config",
        "Question: Q?\nAnswer:\n",
        "A.</s>",
        extra={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "pythia-160m": Family(
        "GPTNeoXConfig", "Question: Q?\nAnswer:\n", "A.</s>", extra={"rotary_pct": 0.25}
    ),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes, once, the folder of a tiny model of a family, with no parameter at a value that hides
    its part."""
    words = [f"{row['question']} {row['answer']}" for row in authors.build_rows("forget05")]
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name in made:
            return made[name]
        family = FAMILIES[name]
        tokenizer = learn_tokenizer(words, 300)
        tokenizer.add_tokens(
            [transformers.AddedToken(t, special=True, normalized=False) for t in family.special]
        )
        tokenizer.add_special_tokens({"eos_token": family.eos})
        tokenizer.pad_token, tokenizer.chat_template = family.pad, family.chat
        settings = {
            "vocab_size": len(tokenizer),
            "bos_token_id": 1,
            "eos_token_id": tokenizer.eos_token_id,
        }
        settings |= {"pad_token_id": tokenizer.pad_token_id, **SMALL, **family.extra}
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, family.config)(**settings)
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        made[name] = tmp_path_factory.mktemp("family")
        model.save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
        return made[name]

    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_are_the_librarys_on_each_row_alone(
    name: str, folder_of: Callable[[str], Path]
) -> None:
    """Padded on either side or laid end to end: what each row gets alone, without padding, on full
    logits."""
    loaded = load(ModelConfig({PATH: str(folder_of(name))}), training=False)
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        folder_of(name), dtype=torch.float32
    ).eval()
    with torch.no_grad():
        alone = [plain(torch.tensor([row])).logits[0] for row in ROWS]
        expected = [
            torch.stack([logits.log_softmax(-1)[t - 1, row[t]] for t in range(2, len(row))])
            for logits, row in zip(alone, ROWS, strict=True)
        ]
        assert torch.cat(expected).std() > 0.1, "the model says the same everywhere"
        layouts = [(False, False), (True, False)]
        # gpt-oss does not tell rows apart that lie end to end, and model.packed=true is refused.
        if get_capabilities(loaded.model).packing:
            layouts.append((False, True))
        for left, packed in layouts:
            extend(loaded.model, packed)
            batch = batch_of(ROWS, 2, left)
            found = loaded.model(batch=batch, want={"a": OutputSpec(), "b": OutputSpec()})
            values = [found["a"].value, *(found["b"].value[found["b"].row == i] for i in (0, 1))]
            for value, row in zip(values, expected, strict=True):
                assert torch.allclose(value, row, atol=1e-5)
            hidden = loaded.model(batch=batch, want={"a": OutputSpec(fn=None, positions="all")})[
                "a"
            ].value
            assert torch.allclose(head_logits(loaded.model, hidden), alone[0][:-1], atol=1e-4)


QUICK = ("Llama-3.2-1B-Instruct", "gpt2", "auto")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in FAMILIES]
)
def test_two_steps_of_npo(
    name: str, folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, args = folder_of(name), "pretrained_model_name_or_path"
    run = train(
        "experiment=unlearn/authors/default",
        f"model={name}",
        f"model.model_args.{args}={folder}",
        f"model.tokenizer_args.{args}={folder}",
        "trainer=NPO",
        "trainer.args.max_steps=2",
        "eval=null",
        "task_name=t",
        "trainer.args.logging_steps=1",
        "trainer.args.per_device_train_batch_size=3",
        "model.model_args.dtype=float32",
        "forget_split=forget05",
        "trainer.args.learning_rate=1e-3",
        config_name="unlearn",
    )
    lines = [json.loads(line) for line in (run / run_dir.METRICS).read_text().splitlines()]
    lines = [line for line in lines if "grad_norm" in line]
    assert len(lines) == 2
    for line in lines:
        assert all(
            0 < line[key] < 1e4 for key in ("loss", "forget_loss", "retain_loss", "grad_norm")
        ), line
    # before the first step the policy is its own reference: NPO's loss is 2/beta log 2
    beta = compose("unlearn", ("trainer=NPO", "task_name=t")).trainer.method.beta  # type: ignore[union-attr]
    assert lines[0]["forget_loss"] == pytest.approx(2 / beta * 0.693147, rel=1e-4)
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32).state_dict()
        for at in (folder, run / run_dir.FINAL)
    )
    assert before.keys() == after.keys()
    still = [key for key in before if torch.equal(before[key], after[key])]
    assert not still, f"two steps did not move {still}"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_question_is_put_as_the_family_was_taught(
    name: str, folder_of: Callable[[str], Path]
) -> None:
    words = ("task_name=t", f"model={name}", f"model.model_args.{PATH}={folder_of(name)}")
    config = compose("train", (*words, f"model.tokenizer_args.{PATH}={folder_of(name)}"))
    template = load(config.model, training=False).template
    encoded = template.encode("Q?", "A.")
    assert template.tokenizer.decode(encoded.prompt) == FAMILIES[name].asked
    assert template.tokenizer.decode(encoded.answer).startswith(FAMILIES[name].learned)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_model_composes(name: str) -> None:
    model = compose("train", ("task_name=t", f"model={name}")).model
    assert model.model_args[PATH].rpartition("/")[2] == name
    assert model.tokenizer_args == {PATH: model.model_args[PATH]}
    assert "attn_implementation" not in model.model_args, "auto works everywhere"


def test_the_list_of_models_says_what_each_is() -> None:
    for name, line, _ in list_entries("models"):
        assert len(line.split()) > 3 and PATH not in line and len(line) <= 110, name
