"""What is assumed of a model is tried when it is loaded, and where it does not hold the model's own
way is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel

from tests.models.test_forward import ROWS, batch_of
from unteach.config.schema import ModelConfig
from unteach.data.examples import SEGMENT
from unteach.engines import generation
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.models import probing
from unteach.models.capabilities import ATTRIBUTE, Capabilities, get_capabilities
from unteach.models.forward import OutputSpec
from unteach.models.hub import PATH
from unteach.models.lm_head import head_logits
from unteach.models.loading import LoadedModel, load, load_empty


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, for what a test makes of Llama is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probing, "_REMEMBERED", {})


@pytest.fixture
def loaded(tiny_folder: Path) -> Callable[..., LoadedModel]:
    def load_tiny(**config: Any) -> LoadedModel:
        args = {PATH: str(tiny_folder), **config.pop("model_args", {})}
        return load(ModelConfig(args, **config), training=False)

    return load_tiny


def alone(model: Any, row: list[int]) -> torch.Tensor:
    """log p of the tokens of a row that follow a prompt of two, by the model's own forward."""
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
    return torch.stack([logp[t - 1, row[t]] for t in range(2, len(row))])


def assert_rows_are_as_alone(model: Any, left: bool) -> None:
    found = model(batch=batch_of(ROWS, 2, left), want={"a": OutputSpec(), "b": OutputSpec()})
    values = [found["a"].value, *(found["b"].value[found["b"].row == i] for i in (0, 1))]
    for value, row in zip(values, ROWS, strict=True):
        assert torch.allclose(value, alone(model, row), atol=1e-5)


def change_head(monkeypatch: pytest.MonkeyPatch) -> None:
    own = LlamaForCausalLM.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = own(self, *args, **kwargs)
        output.logits = 0.25 * output.logits - 1
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)


def change_layers(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any], Any]) -> None:
    """change: (hidden [B, T, d], what the layers were given) -> hidden."""
    own = LlamaModel.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = own(self, *args, **kwargs)
        output.last_hidden_state = change(output.last_hidden_state, kwargs)
        return output

    monkeypatch.setattr(LlamaModel, "forward", forward)


def test_nothing_is_slower_for_a_model_that_is_as_most_are(
    loaded: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_capabilities(loaded(packed=True).model) == Capabilities()
    assert get_capabilities(loaded(model_args={"dtype": "bfloat16"}).model) == Capabilities()
    assert (
        get_capabilities(loaded(peft_args={"r": 2, "target_modules": ["q_proj"]}).model)
        == Capabilities()
    )
    assert "note" not in capsys.readouterr().err


def test_a_head_that_does_more(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change_head(monkeypatch)
    model = loaded().model
    assert get_capabilities(model) == Capabilities(head="own")
    assert_rows_are_as_alone(model, False)
    hidden = model(
        batch=batch_of(ROWS, 2, False), want={"a": OutputSpec(fn=None, positions="all")}
    )["a"].value
    with torch.no_grad():
        assert torch.allclose(
            head_logits(model, hidden), model(torch.tensor([ROWS[0]])).logits[0, :-1], atol=1e-5
        )
    assert "forward" not in vars(model.base_model), "nothing is left on the model"


def test_the_gradient_goes_through_a_head_that_does_more(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_head(monkeypatch)
    model = loaded().model
    found, expected = [], []
    model(batch=batch_of(ROWS[:1], 2, False), want={"a": OutputSpec()})["a"].value.sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    logp = model(input_ids=torch.tensor(ROWS[:1])).logits[0].log_softmax(-1)
    sum(logp[t - 1, ROWS[0][t]] for t in range(2, len(ROWS[0]))).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_a_head_that_reads_more_than_the_last_states(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LlamaForCausalLM.forward

    def forward(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        output = own(self, input_ids=input_ids, **kwargs)
        output.logits = output.logits + input_ids[..., None] / 100
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    model = loaded().model
    assert get_capabilities(model).head == "none"
    with pytest.raises(UserError, match="nothing is scored or trained"):
        model(batch=batch_of(ROWS, 2, False), want={"a": OutputSpec()})


def test_several_tokens_that_are_read_wrongly_after_a_cache(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What prompts start with is then not read once, and rows go on one at a time."""

    def change(hidden: torch.Tensor, given: Any) -> torch.Tensor:
        mask = given.get("attention_mask")
        is_after_a_cache = mask is not None and mask.shape[1] > hidden.shape[1] > 1
        return hidden * 2 if is_after_a_cache else hidden

    change_layers(monkeypatch, change)
    model = loaded()
    assert get_capabilities(model.model) == Capabilities(continuing=False)
    system = tuple(range(5, 25))
    prompts = [system + prompt for prompt in PROMPTS]
    together = HFEngine(model.model, model.tokenizer).generate(prompts, 6)
    engine = HFEngine(model.model, model.tokenizer, 1)
    assert together == [engine.generate([prompt], 6)[0] for prompt in prompts]


@pytest.mark.parametrize("left", [False, True])
def test_padding_that_changes_a_row(
    loaded: Any, left: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(hidden: torch.Tensor, given: Any) -> torch.Tensor:
        mask = given.get("attention_mask")
        if mask is None:
            return hidden
        padding = (mask.cumsum(-1) == 0) if left else (mask == 0)
        return hidden + padding.sum(-1)[:, None, None] / 10

    change_layers(monkeypatch, change)
    model = loaded().model
    assert get_capabilities(model) == Capabilities(
        left_padding=False, right_padding=left, continuing=False
    )
    assert (
        "changes what LlamaForCausalLM says of a row; such rows go through it one by one"
        in capsys.readouterr().err
    )
    assert_rows_are_as_alone(model, left)
    assert_rows_are_as_alone(model, False)
    with pytest.raises(UserError, match="is asked about padding too"):
        model(batch=batch_of(ROWS, 2, left), want={"a": OutputSpec(fn=None, positions="every")})


PROMPTS = [(5, 9, 33, 17, 8), (7, 41), (6, 13, 14, 15, 16, 21, 22)]


def continued(loaded: LoadedModel, together: bool) -> list[list[int]]:
    engine = HFEngine(loaded.model, loaded.tokenizer, None if together else 1)
    return engine.generate(PROMPTS, 6)


def test_continuing_that_changes_what_rows_say(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model whose step takes padding in its cache for tokens."""

    def change(hidden: torch.Tensor, given: Any) -> torch.Tensor:
        mask = given.get("attention_mask")
        if mask is None or mask.shape[1] == hidden.shape[1]:
            return hidden
        return hidden * (1 - (mask == 0).sum(-1)[:, None, None])

    change_layers(monkeypatch, change)
    together = loaded()
    assert get_capabilities(together.model) == Capabilities(continuing=False)
    assert (
        "LlamaForCausalLM is not itself where rows are continued together"
        in capsys.readouterr().err
    )
    assert continued(together, True) == continued(together, False)
    monkeypatch.setattr(generation, "get_capabilities", lambda _: Capabilities())
    assert continued(together, True) != continued(together, False), "or the test would show nothing"


def test_packing_that_mixes_rows(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(hidden: torch.Tensor, given: Any) -> torch.Tensor:
        places = given.get("position_ids")
        if places is None or given["attention_mask"] is not None:
            return hidden
        return hidden + hidden.cumsum(1).roll(1, 1) / 10

    change_layers(monkeypatch, change)
    model = loaded().model
    assert get_capabilities(model) == Capabilities(packing=False)
    batch = batch_of([[*ROWS[0], *ROWS[1]]], 0, False)
    batch[SEGMENT] = torch.tensor([[1] * len(ROWS[0]) + [2] * len(ROWS[1])])
    batch["rows"] = {"a": (0, 1)}
    found = model(batch=batch, want={"a": OutputSpec(positions="all")})["a"].value
    with torch.no_grad():
        logps = [model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1) for row in ROWS[:2]]
    expected = [
        logp[t - 1, row[t]]
        for logp, row in zip(logps, ROWS[:2], strict=True)
        for t in range(1, len(row))
    ]
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)
    with pytest.raises(
        UserError, match=r"model\.packed=true: LlamaForCausalLM does not tell the documents"
    ):
        loaded(packed=True)


def test_a_probe_that_fails_takes_nothing_for_granted(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(probing, "_compare", lambda *_: 1 / 0)
        assert get_capabilities(loaded().model) == probing.ALL_SLOW
        assert_rows_are_as_alone(loaded().model, True)
    # It is asked again when it is loaded again, for what failed may have been the moment.
    assert get_capabilities(loaded().model) == Capabilities()


def test_outputs_that_are_not_finite_tell_nothing(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_layers(monkeypatch, lambda hidden, given: hidden * float("nan"))
    assert not hasattr(loaded().model, ATTRIBUTE)
    assert probing._REMEMBERED == {}


def test_what_was_found_is_remembered(
    loaded: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_head(monkeypatch)
    loaded()
    [file] = (tmp_path / "cache").glob("unteach/capabilities/*.json")
    monkeypatch.setattr(probing, "_compare", lambda *_: pytest.fail("it is remembered"))
    monkeypatch.setattr(probing, "_REMEMBERED", {})
    assert get_capabilities(loaded().model) == Capabilities(head="own"), "by the file"
    file.unlink()
    assert get_capabilities(loaded().model) == Capabilities(head="own"), "in this process"
    empty = load_empty(ModelConfig({PATH: str(tiny_folder)}))
    assert get_capabilities(empty.model) == Capabilities(head="own"), "by a look at the run"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"head": "odd"}', '{"packing": 1}', '{"x": true}']
)
def test_a_broken_file_is_passed_over(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    loaded()
    [file] = (tmp_path / "cache").glob("unteach/capabilities/*.json")
    file.write_text(text)
    monkeypatch.setattr(probing, "_REMEMBERED", {})
    change_head(monkeypatch)
    assert get_capabilities(loaded().model) == Capabilities(head="own")


def test_what_the_answer_depends_on_is_not_confused(loaded: Any, tmp_path: Path) -> None:
    for model_args in (
        {},
        {"attn_implementation": "eager"},
        {"dtype": "bfloat16"},
        {"rms_norm_eps": 1e-4},
    ):
        loaded(model_args=model_args)
    assert len(list((tmp_path / "cache").glob("unteach/capabilities/*.json"))) == 4


def test_training_draws_what_it_drew_before(loaded: Any) -> None:
    """A probe takes nothing from the random numbers that a run is seeded with."""
    torch.manual_seed(0)
    loaded()
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))


GPT_OSS = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 16,
    "num_key_value_heads": 2,
}


def test_an_architecture_with_attention_sinks(tiny: Any) -> None:
    config = transformers.GptOssConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        **GPT_OSS,
    )
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(config)
    probing.probe(model, tiny.tokenizer)
    assert get_capabilities(model) == Capabilities(packing=False)
