"""A folder of two models: their logits are combined wherever logits are read, or it is refused."""

import json
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import random_llama
from tests.doors import export, infer
from unteach import plugins, registry
from unteach.config.schema import PATH, ModelConfig
from unteach.data.template import Template
from unteach.engines.finiteness import IMPOSSIBLE
from unteach.engines.generation import ContinuousBatching
from unteach.engines.hf import HFEngine
from unteach.engines.sampling import SeededSampler, build_warpers
from unteach.engines.text_engine import get_context_length
from unteach.engines.token_statistics import compute_token_statistics
from unteach.errors import UserError
from unteach.methods.decode.uld import SubtractAssistant
from unteach.methods.decode.whp import HoldBackReinforced
from unteach.models.decoding import Decoding, attach_decoding, get_decoding
from unteach.models.decoding_folder import write_decoding
from unteach.models.forward import OutputSpec
from unteach.models.loading import LoadedModel, load, load_empty, load_for_check

PROMPTS = [tuple(range(3 + i, 6 + 2 * i)) for i in range(1, 9)]
RULES: list[Decoding] = [HoldBackReinforced(1.5), SubtractAssistant(-0.8, 0.1)]


def write_two(folder: Path, base: Path, rule: Decoding, seed: int = 1) -> Path:
    """Write the base and, as the second model, the same with other weights."""
    shutil.copytree(base, folder / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.5 * parameter.data.std() * noise
    model.save_pretrained(folder / rule.SECOND)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(folder / rule.SECOND)
    tokenizer.save_pretrained(folder)
    write_decoding(folder, rule, None)
    return folder


def open_model(folder: Path, **model_args: Any) -> LoadedModel:
    return load(ModelConfig({PATH: str(folder), **model_args}), training=False)


@pytest.fixture(scope="session")
def sharp_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with logits far enough apart for a rule to leave some tokens out."""
    folder = tmp_path_factory.mktemp("sharp") / "model"
    shutil.copytree(tiny_folder, folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data *= 30
    model.save_pretrained(folder)
    return folder


@pytest.fixture(params=RULES, ids=["WHP", "ULD"])
def rule(request: pytest.FixtureRequest) -> Decoding:
    chosen: Decoding = request.param
    return chosen


@pytest.fixture
def folder(rule: Decoding, sharp_folder: Path, tmp_path: Path) -> Path:
    return write_two(tmp_path / "two", sharp_folder, rule)


@pytest.fixture
def whp(tiny_folder: Path, tmp_path: Path) -> Path:
    return write_two(tmp_path / "whp", tiny_folder, RULES[0])


def combine_by_hand(folder: Path, rule: Decoding, ids: torch.Tensor) -> torch.Tensor:
    logits = []
    for part in ("base", rule.SECOND):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / part)
        with torch.no_grad():
            logits.append(model(input_ids=ids).logits)
    return rule.combine(*logits)


def test_scores_are_of_combined_logits(folder: Path, rule: Decoding) -> None:
    """In padded batches, and packed."""
    for packed in (False, True):
        config = ModelConfig({PATH: str(folder)}, packed=packed)
        loaded = load(config, training=False)
        engine = HFEngine(loaded.model, loaded.tokenizer)
        pairs = [(prompt[:2], prompt[2:]) for prompt in PROMPTS[1:]]
        for (prompt, answer), score in zip(pairs, engine.score(pairs), strict=True):
            ids = torch.tensor([[*prompt, *answer]])
            log_p = combine_by_hand(folder, rule, ids).log_softmax(-1)[0, len(prompt) - 1 : -1]
            expected = log_p.gather(-1, torch.tensor(answer)[:, None])[:, 0]
            expected = expected.masked_fill(expected == -math.inf, IMPOSSIBLE)
            np.testing.assert_allclose(score.logprob, expected.numpy(), atol=2e-5)
            assert (score.hit == (log_p.argmax(-1) == torch.tensor(answer)).numpy()).all()
            p = log_p.exp()
            mean = (p * log_p.clamp(min=-1e4)).sum(-1)
            np.testing.assert_allclose(score.mean, mean.numpy(), atol=1e-4)


def test_the_models_own_forward_combines_too(folder: Path, rule: Decoding) -> None:
    loaded = open_model(folder)
    ids = torch.tensor([PROMPTS[3]])
    with torch.no_grad():
        found = loaded.model(input_ids=ids).logits
        last = loaded.model(input_ids=ids, logits_to_keep=1).logits
    expected = combine_by_hand(folder, rule, ids)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(last, expected[:, -1:])


def test_what_is_generated_is_scored_alike_step_by_step(folder: Path) -> None:
    """Each step's logits, made on the cache of both models, are those of a pass over the whole."""
    loaded = open_model(folder)
    prompt = torch.tensor([PROMPTS[4]])
    made = loaded.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=[399],
        output_logits=True,
        return_dict_in_generate=True,
    )
    with torch.no_grad():
        whole = loaded.model(input_ids=made.sequences, use_cache=False).logits
    assert len(made.logits) == 12
    for step, logits in enumerate(made.logits):
        torch.testing.assert_close(logits, whole[:, prompt.shape[1] - 1 + step], atol=1e-4, rtol=0)
    answer = tuple(made.sequences[0, prompt.shape[1] :].tolist())
    engine = HFEngine(loaded.model, loaded.tokenizer)
    (score,) = engine.score([(PROMPTS[4], answer)])
    assert score.hit.all()
    assert (score.logprob > IMPOSSIBLE).all(), "nothing is said that is scored as impossible"


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 2}, {"repetition_penalty": 1.3}], ids=str)
def test_a_batch_says_what_each_row_says_alone(folder: Path, arguments: dict[str, Any]) -> None:
    loaded = open_model(folder)
    alone = HFEngine(loaded.model, loaded.tokenizer, batch_size=1)
    first = alone.generate(PROMPTS, 24, **arguments)
    # Ids that some rows say early, so that rows leave the batch.
    stops = [2, first[0][3], first[2][9]]
    alone.stops = stops
    together = HFEngine(loaded.model, loaded.tokenizer, stops=stops)
    found = together.generate(PROMPTS, 24, **arguments)
    assert found == alone.generate(PROMPTS, 24, **arguments)
    assert len({len(row) for row in found}) > 1


@pytest.mark.parametrize("drawn", [False, True])
def test_rows_that_wait_join_the_cache_of_both_models(folder: Path, drawn: bool) -> None:
    """Three places for eight prompts: rows leave, others take their place, padding is trimmed."""
    loaded = open_model(folder)
    engine = HFEngine(loaded.model, loaded.tokenizer, stops=[2])

    def build_sampler() -> SeededSampler | None:
        return SeededSampler(build_warpers(temperature=0.9), range(8)) if drawn else None

    whole = ContinuousBatching(engine, 20, [], {}).generate(PROMPTS, build_sampler())
    engine.stops = [2, whole[0][4], whole[1][8], whole[5][2]]
    alone = ContinuousBatching(engine, 20, [], {}).generate(PROMPTS, build_sampler(), max_rows=1)
    found = ContinuousBatching(engine, 20, [], {}).generate(PROMPTS, build_sampler(), max_rows=3)
    assert found == alone
    assert len({len(row) for row in found}) > 1


def test_answers_that_share_a_prompt_are_scored_as_alone(folder: Path) -> None:
    loaded = open_model(folder)
    prompt = PROMPTS[5]
    pairs = [(prompt, (token, 7, token)) for token in range(20, 26)]
    engine = HFEngine(loaded.model, loaded.tokenizer)
    shared = engine.score(pairs)
    assert engine._max_shared_width is not None, "they went through in one row"
    alone = [HFEngine(loaded.model, loaded.tokenizer).score([pair])[0] for pair in pairs]
    for one, other in zip(shared, alone, strict=True):
        np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4)


def test_without_weight_it_is_the_base(tiny_folder: Path, tmp_path: Path) -> None:
    """alpha 0 exactly; weight 0 with every token kept, up to the normalisation."""
    pairs = [(prompt[:2], prompt[2:]) for prompt in PROMPTS]
    base = open_model(tiny_folder)
    expected = HFEngine(base.model, base.tokenizer).score(pairs)
    for name, rule, atol in (
        ("whp", HoldBackReinforced(0.0), 0.0),
        ("uld", SubtractAssistant(0.0, 0.0), 1e-5),
    ):
        loaded = open_model(write_two(tmp_path / name, tiny_folder, rule))
        found = HFEngine(loaded.model, loaded.tokenizer).score(pairs)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.logprob, other.logprob, atol=atol, rtol=0)


def test_a_token_that_is_never_said_has_a_log_prob_of_its_own(
    sharp_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = open_model(write_two(tmp_path / "two", sharp_folder, RULES[1]))
    logits = combine_by_hand(tmp_path / "two", RULES[1], torch.tensor([PROMPTS[0]]))[0, -1]
    never = int(logits.isneginf().nonzero()[0])
    with caplog.at_level(logging.INFO, logger="unteach"):
        (score,) = HFEngine(loaded.model, loaded.tokenizer).score([(PROMPTS[0], (never,))])
    assert score.logprob.tolist() == [np.float32(IMPOSSIBLE)]
    assert np.isfinite([score.mean, score.variance]).all()
    assert "1 of 1 scored tokens are never said by this model's decoding" in caplog.text
    assert np.float32(IMPOSSIBLE) == np.log(np.float32(2.0**-126))


def test_statistics_leave_out_what_is_never_said_and_keep_what_is_broken() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 2, 3])
    expected = compute_token_statistics(logits[:, :40].contiguous(), labels)
    holed = torch.cat([logits[:, :40], torch.full((3, 10), -math.inf)], dim=-1)
    torch.testing.assert_close(compute_token_statistics(holed, labels), expected)
    holed[1, 0] = math.nan
    assert compute_token_statistics(holed, labels)[1, 0].isnan()


def test_a_folder_can_be_moved_and_is_known_by_both_models(
    whp: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    memory = tmp_path / "memory.json"
    before = open_model(whp)
    identity = before.identity(memory)
    moved = Path(shutil.move(whp, tmp_path / "elsewhere"))
    after = open_model(moved)
    assert after.identity(memory) == identity
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        assert torch.equal(after.model(input_ids=ids).logits, before.model(input_ids=ids).logits)

    # Other arguments, or another second model, are another model.
    other_rule = write_two(tmp_path / "rule", tiny_folder, HoldBackReinforced(0.5))
    other_second = write_two(tmp_path / "second", tiny_folder, RULES[0], seed=2)
    alone = open_model(moved / "base")
    identities = {
        loaded.identity(memory)
        for loaded in (after, alone, open_model(other_rule), open_model(other_second))
    }
    assert len(identities) == 4


def test_it_is_looked_at_without_weights(whp: Path) -> None:
    empty = load_empty(ModelConfig({PATH: str(whp)}))
    assert get_decoding(empty.model)
    assert next(empty.model.parameters()).is_meta
    assert get_context_length(empty.model)
    assert load_for_check(ModelConfig({PATH: str(whp)})).decoding is not None


# What would serve the base alone, or cannot take two models, says so.


def test_plain_transformers_does_not_load_it(folder: Path) -> None:
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoConfig):
        with pytest.raises(ValueError, match="unteach_decoding"):
            auto.from_pretrained(folder)


def test_it_is_not_exported(whp: Path, tmp_path: Path) -> None:
    for form in ("model", "adapter"):
        with pytest.raises(UserError, match=r"forgets in its decoding.*no one plain model"):
            export(whp, tmp_path / "plain", form=form)
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("backend", ["vllm", "openai"])
def test_other_backends_are_refused(
    backend: str, whp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.backend.get(backend), "check", lambda self: None)
    table = tmp_path / "in.jsonl"
    table.write_text('{"prompt": "a"}\n')
    words = [
        f"model={whp}",
        f"input_file={table}",
        f"output_file={tmp_path / 'out.jsonl'}",
        f"backend={backend}",
    ]
    if backend == "openai":
        words.append("backend_args.base_url=http://localhost:1/v1")
    with pytest.raises(
        UserError, match=f"forgets in its decoding.*backend={backend} answers by one"
    ):
        infer(*words)


def test_it_answers_by_infer(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.jsonl"
    table.write_text('{"prompt": "Who wrote"}\n{"prompt": "The author"}\n')
    out = tmp_path / "out.jsonl"
    infer(
        f"model={folder}",
        f"input_file={table}",
        f"output_file={out}",
        "max_new_tokens=5",
        "template=raw",
        "perplexity=true",
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    loaded = open_model(folder)
    engine = HFEngine(loaded.model, loaded.tokenizer)
    prompts = [
        tuple(loaded.tokenizer("Who wrote").input_ids),
        tuple(loaded.tokenizer("The author").input_ids),
    ]
    texts = [loaded.template.decode(ids) for ids in engine.generate(prompts, 5)]
    assert [row["output"] for row in rows] == texts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_args": {"r": 4}}, "are for one model that trains"),
        ({"added_tokens": ["<x>"]}, "are for one model that trains"),
        ({"model_args": {"device_map": "auto"}}, r"model_args\.device_map: .* run side by side"),
        (
            {"model_args": {"quantization_config": {"a": 1}}},
            r"quantization_config: .* as they were",
        ),
    ],
)
def test_what_is_for_one_model_is_refused(
    settings: dict[str, Any], message: str, whp: Path
) -> None:
    model_args = {PATH: str(whp), **settings.pop("model_args", {})}
    config = ModelConfig(model_args, **settings)
    with pytest.raises(UserError, match=message):
        load(config, training=False)


def test_sharded_processes_are_refused(whp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unteach.distributed import launch_environment

    monkeypatch.setattr(launch_environment, "parallel_mode", lambda: "fsdp2")
    with pytest.raises(UserError, match=r"launch=fsdp2: .* is two models.*launch=ddp"):
        open_model(whp)


def test_passes_that_are_of_one_model_are_refused(whp: Path, tmp_path: Path) -> None:
    loaded = open_model(whp)
    engine = HFEngine(loaded.model, loaded.tokenizer)
    with pytest.raises(UserError, match="mia_gradnorm"):
        engine.grad_norms([((1, 2), (3,))], 2.0)
    with pytest.raises(UserError, match="hidden states inside are asked of a model"):
        engine.compute_outputs([((1, 2), (3,))], OutputSpec(fn=None, layer=r"model\.layers\.0"))
    with pytest.raises(UserError, match="not saved alone"):
        loaded.model.save_pretrained(tmp_path / "base")
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(UserError, match="labels"):
        loaded.model(input_ids=ids, labels=ids)
    alone = open_model(whp / "base")
    cache = alone.model(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(UserError, match="filled alone"):
        loaded.model(input_ids=ids[:, :1], past_key_values=cache)
    with pytest.raises(UserError, match="StaticCache"):
        loaded.model.generate(ids, max_new_tokens=2, cache_implementation="static")


def test_other_vocabularies_are_refused(whp: Path, tmp_path: Path) -> None:
    small = transformers.LlamaConfig(
        vocab_size=100, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    other = transformers.LlamaForCausalLM(small)
    base = open_model(whp / "base").model
    with pytest.raises(UserError, match=r"they have 400 and 100 of them"):
        attach_decoding(base, other, RULES[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoding": "WPH"}, r"did you mean WHP.*\n.*plugins=\[FILE\]"),
        ({"arguments": {"alhpa": 1}}, r"arguments\.alhpa: no such key; did you mean alpha"),
        ({"arguments": {"alpha": -1.0}}, "must not be negative"),
        ({"second": "../other"}, "must name a folder beside this file"),
        ({"second": "gone"}, "names the folder gone"),
        ({"base": 3}, "base: must be text"),
    ],
)
def test_a_file_that_is_not_right_is_refused(
    change: dict[str, Any], message: str, whp: Path
) -> None:
    path = whp / "decoding.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        open_model(whp)


PLUGIN = '''
from dataclasses import dataclass

from unteach.models.decoding import Decoding
from unteach.registry import decoding


@decoding("Mean{n}")
@dataclass
class Mean{n}(Decoding):
    """Between both."""

    SECOND = "neighbour"
    share: float = 0.5

    def combine(self, base, second):
        return base + self.share * (second - base)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[type]:
    file = tmp_path / "mean.py"
    file.write_text(PLUGIN.format(n=1))
    with plugins.use_plugins([str(file)]):
        yield registry.decoding.get("Mean1")


def test_a_plugin_adds_a_decoding(plugin: Any, tiny_folder: Path, tmp_path: Path) -> None:
    rule = plugin(0.25)
    folder = write_two(tmp_path / "two", tiny_folder, rule)
    assert json.loads((folder / "decoding.json").read_text())["decoding"] == "Mean1"
    loaded = open_model(folder)
    assert loaded.decoding is not None
    assert loaded.decoding.rule == rule
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        found = loaded.model(input_ids=ids).logits
    torch.testing.assert_close(found, combine_by_hand(folder, rule, ids))


def test_a_second_model_of_another_family_and_template(tmp_path: Path, tiny_folder: Path) -> None:
    """Only the vocabulary must be one: here the second model has sliding windows, and its layers
    are another number."""
    base = tmp_path / "two" / "base"
    shutil.copytree(tiny_folder, base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=6,
    )  # fmt: skip
    second = tmp_path / "two" / "assistant"
    transformers.MistralForCausalLM(config).save_pretrained(second)
    tokenizer.save_pretrained(second)
    write_decoding(tmp_path / "two", RULES[1], None)
    loaded = open_model(tmp_path / "two")
    engine = HFEngine(loaded.model, loaded.tokenizer)
    found = engine.generate(PROMPTS, 12)
    alone = HFEngine(loaded.model, loaded.tokenizer, batch_size=1).generate(PROMPTS, 12)
    assert found == alone
    assert isinstance(loaded.template, Template)
    prompt = torch.tensor([[*PROMPTS[3], *found[3]]])
    with torch.no_grad():
        logits = loaded.model(input_ids=prompt, use_cache=False).logits
    assert logits[0, len(PROMPTS[3]) - 1 : -1].argmax(-1).tolist() == found[3]


def test_random_models_of_another_tokenizer_are_refused(tmp_path: Path, whp: Path) -> None:
    other = random_llama(tmp_path / "other", 32)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(tokenizer))
    shutil.rmtree(whp / "reinforced")
    shutil.copytree(other, whp / "reinforced")
    with pytest.raises(UserError, match="tokenizer of its second model is another"):
        open_model(whp)
