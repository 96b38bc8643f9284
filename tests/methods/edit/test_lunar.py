"""LUNAR: the direction, the exact solution and its algebra, and the models that it refuses."""

import re
from typing import Any

import pytest
import torch
import transformers

from tests.methods.edit.context import build_context
from unteach.config import schema
from unteach.errors import UserError
from unteach.methods.edit.activations import iterate_prompts, read_prompt, refuse_no_prompts
from unteach.methods.edit.base import EditContext
from unteach.methods.edit.lunar import Shift
from unteach.models.loading import LoadedModel, finish
from unteach.testing import build_method
from unteach.testing.examples import build_examples, build_streams
from unteach.testing.tiny_world import build_tiny_world

LAYER = "model.layers.0"
WEIGHT = f"{LAYER}.mlp.down_proj.weight"


@pytest.fixture
def world() -> tuple[Any, dict[str, Any]]:
    loaded, _, rows = build_tiny_world(build_method("LUNAR"))
    return loaded, rows


def build_shift(context: EditContext, edit: Any) -> Shift:
    [(name, module)] = edit.find_modules(context.model).items()
    shift: Shift = edit.build_shift(context, name, module)
    return shift


def read_with_transformers(loaded: LoadedModel, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of the down projection at every token of the prompts, and the layer's states at
    their last ones: prompt by prompt, without the one forward."""
    inputs, last = [], []
    module = loaded.model.get_submodule(f"{LAYER}.mlp.down_proj")
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0]))
    states: list[torch.Tensor] = []
    layer_hook = loaded.model.get_submodule(LAYER).register_forward_hook(
        lambda _, args, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    for example in rows:
        ids = torch.tensor([read_prompt(example)])
        with torch.no_grad():
            loaded.model(input_ids=ids)
        last.append(states[-1][0, -1])
    hook.remove()
    layer_hook.remove()
    return torch.cat(inputs).double(), torch.stack(last).double()


def test_it_solves_the_regression_of_the_paper(world: Any) -> None:
    """Against the normal equations over inputs and states that transformers gives."""
    loaded, rows = world
    edit = build_method("LUNAR", {"coeff": 1.5, "ridge_lambda": 0.3})
    context = build_context(loaded, rows)
    x_forget, last_forget = read_with_transformers(loaded, rows["forget"])
    x_retain, _ = read_with_transformers(loaded, rows["retain"])
    _, last_refusal = read_with_transformers(loaded, rows["refusal"])
    target = 1.5 * (last_refusal.mean(0) - last_forget.mean(0))
    x = torch.cat([x_forget, x_retain])
    wanted = torch.zeros(len(x), len(target), dtype=torch.float64)
    wanted[: len(x_forget)] = target
    penalty = 0.3 * torch.eye(x.shape[1], dtype=torch.float64)
    expected = torch.linalg.lstsq(x.T @ x + penalty, x.T @ wanted).solution.T

    before = {name: weight.clone() for name, weight in loaded.model.named_parameters()}
    numbers = edit.edit(context)
    for name, weight in loaded.model.named_parameters():
        if name == WEIGHT:
            change = (weight - before[name]).double()
            assert float((change - expected).norm() / expected.norm()) < 1e-4
        else:
            assert torch.equal(weight, before[name])
    assert numbers["shift"] == pytest.approx(float(target.norm()), rel=1e-5)
    loss = ((x @ expected.T - wanted) ** 2).mean()
    assert numbers["loss_after"] == pytest.approx(float(loss), rel=1e-4)
    assert numbers["weight_change"] == pytest.approx(float(expected.norm()), rel=1e-4)


def test_loss_and_gradient_at_the_start(world: Any) -> None:
    """c^2 |d|^2 n_f / (n D), and a gradient of norm 2 |c| |d| |sum x_f| / (n D)."""
    loaded, rows = world
    shift = build_shift(build_context(loaded, rows), build_method("LUNAR", {"coeff": -3.0}))
    width, num_inputs = loaded.model.get_parameter(WEIGHT).shape
    scale = 1 / (shift.num_tokens * width)
    change = torch.zeros(width, num_inputs, dtype=torch.float64, requires_grad=True)
    loss = shift.loss(change)
    loss.backward()
    length = shift.target.norm()
    torch.testing.assert_close(loss.detach(), length**2 * shift.num_forget * scale)
    assert change.grad is not None
    expected = 2 * length * shift.forget_sum.norm() * scale
    torch.testing.assert_close(change.grad.norm(), expected)


def test_the_solution_is_a_minimum(world: Any) -> None:
    loaded, rows = world
    shift = build_shift(build_context(loaded, rows), build_method("LUNAR"))
    change = torch.outer(shift.target, shift.solve(0.1)).requires_grad_()
    divisor = shift.num_tokens * len(shift.target)
    total = shift.loss(change) * divisor + 0.1 * change.square().sum()
    total.backward()
    assert change.grad is not None
    # Beside the gradient at W0, which is of this length.
    start = 2 * shift.target.norm() * shift.forget_sum.norm()
    assert float(change.grad.norm() / start) < 1e-9


def test_without_a_factor_nothing_changes(world: Any) -> None:
    loaded, rows = world
    before = {name: weight.clone() for name, weight in loaded.model.named_parameters()}
    build_method("LUNAR", {"coeff": 0.0}).edit(build_context(loaded, rows))
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(weight, before[name])


def test_it_does_not_depend_on_the_batch_size_or_on_answers(world: Any) -> None:
    loaded, rows = world
    edit = build_method("LUNAR")
    assert not edit.depends_on_micro_batches()
    whole = build_shift(build_context(loaded, rows, batch_size=16), edit)
    shorter = dict(rows)
    for stream in ("forget", "retain"):
        shorter[stream] = type(rows[stream])()
        for example in rows[stream]:
            length = len(read_prompt(example)) + 1
            cut = {key: example[key][:length] for key in ("input_ids", "labels")}
            shorter[stream].append({**example, **cut})
    single = build_shift(build_context(loaded, shorter, batch_size=1), edit)
    assert (single.num_tokens, single.num_forget) == (whole.num_tokens, whole.num_forget)
    for name in ("target", "gram", "forget_sum"):
        expected = getattr(whole, name)
        assert float((getattr(single, name) - expected).norm() / expected.norm()) < 1e-5


def test_prompts_go_without_padding(world: Any) -> None:
    loaded, rows = world
    context = build_context(loaded, rows, batch_size=3)
    num_prompts = 0
    for batch in iterate_prompts(context, "forget"):
        assert bool((batch["attention_mask"] == 1).all())
        assert batch["labels"][:, :-1].eq(-100).all() and batch["labels"][:, -1].ne(-100).all()
        num_prompts += len(batch["input_ids"])
    assert num_prompts == len(rows["forget"])


def test_fewer_tokens_than_inputs_are_shifted_exactly(world: Any) -> None:
    """The last token of the forget question by c d, that of the retain question by nothing; the
    first tokens, which are the same in both, cannot be told apart."""
    loaded, rows = world
    rows = {"forget": rows["forget"][:1], "retain": rows["retain"][:1], "refusal": rows["refusal"]}
    before = {name: read_with_transformers(loaded, rows[name]) for name in rows}
    num_tokens = len(before["forget"][0]) + len(before["retain"][0])
    assert num_tokens < loaded.model.get_parameter(WEIGHT).shape[1]
    edit = build_method("LUNAR", {"coeff": 0.5, "ridge_lambda": 1e-9})
    edit.edit(build_context(loaded, rows))
    direction = before["refusal"][1].mean(0) - before["forget"][1].mean(0)
    for name, factor in (("forget", 0.5), ("retain", 0.0)):
        step = read_with_transformers(loaded, rows[name])[1] - before[name][1]
        assert float((step[0] - factor * direction).norm() / direction.norm()) < 0.02


def test_several_layers_are_solved_for_in_the_untouched_model(world: Any) -> None:
    loaded, rows = world
    start = {name: weight.clone() for name, weight in loaded.model.named_parameters()}
    changes: list[dict[str, torch.Tensor]] = []
    for layers in ([LAYER], ["layers.1"], ["layers.100%", r"model\.layers\.0"]):
        edit = build_method("LUNAR", {"target_layers": tuple(layers)})
        numbers = edit.edit(build_context(loaded, rows))
        changed = {}
        for name, weight in loaded.model.named_parameters():
            if not torch.equal(weight, start[name]):
                changed[name] = weight.clone()
                weight.data.copy_(start[name])
        changes.append(changed)
    first, second, both = changes
    assert {**first, **second}.keys() == both.keys() and len(both) == 2
    for name, weight in {**first, **second}.items():
        assert torch.equal(weight, both[name])
    assert numbers["model.layers.0: shift"] != numbers["model.layers.1: shift"]


def test_a_change_larger_than_the_weight_is_said(world: Any) -> None:
    loaded, rows = world
    notes: list[str] = []
    build_method("LUNAR", {"coeff": 1e4}).edit(build_context(loaded, rows, notes=notes))
    assert any("by more than its own length" in note for note in notes)


def test_the_default_is_at_the_published_depth() -> None:
    for num_layers, index in ((1, 0), (4, 1), (16, 10), (32, 22)):
        model = build_model(transformers.LlamaConfig, num_hidden_layers=num_layers).model
        assert list(build_method("LUNAR").find_modules(model)) == [f"model.layers.{index}"]


def build_model(config_cls: Any, **more: Any) -> LoadedModel:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 32}
    if config_cls is not transformers.GPT2Config:
        sizes |= {"intermediate_size": 24, "num_key_value_heads": 2}
    config = config_cls(**{**sizes, **more}, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    words: Any = {"<pad>": 0, "<s>": 1, "</s>": 2}
    from tokenizers import Tokenizer, models

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        eos_token="</s>",
        pad_token="<pad>",
    )
    return finish(model, tokenizer, schema.TemplateArgs(kind="qa"), "float32")


@pytest.mark.parametrize(
    ("config_cls", "more", "message"),
    [
        (transformers.GPT2Config, {}, r"transformer\.h\.0 has no linear layer down_proj.*c_proj"),
        (transformers.MixtralConfig, {"num_local_experts": 2}, "is a mixture of experts"),
        (
            transformers.Qwen2MoeConfig,
            {"num_experts": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
            "is a mixture of experts",
        ),
        (transformers.Gemma2Config, {"head_dim": 8}, "is not added to the layer's states as it is"),
        (
            transformers.GraniteConfig,
            {"residual_multiplier": 0.5},
            "is not added to the layer's states as it is",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_models_without_one_projection_into_the_states_are_refused(
    config_cls: Any, more: dict[str, Any], message: str
) -> None:
    loaded = build_model(config_cls, **more)
    with pytest.raises(UserError, match=message):
        build_method("LUNAR").refuse_model(loaded)


@pytest.mark.parametrize("config_cls", [transformers.LlamaConfig, transformers.Qwen2Config])
def test_models_with_one_are_taken(config_cls: Any) -> None:
    build_method("LUNAR").refuse_model(build_model(config_cls))


def test_a_layer_that_is_not_there_is_told(world: Any) -> None:
    loaded, _ = world
    with pytest.raises(UserError, match=r"must match one of model\.layers\.0"):
        build_method("LUNAR", {"target_layers": ("nowhere",)}).refuse_model(loaded)


def test_rows_that_ask_nothing_are_refused(world: Any) -> None:
    loaded, _ = world
    rows = [{"question": "Who?", "answer": "She."}]
    streams = build_streams({"retain": build_examples(loaded.template, rows, True)})
    with pytest.raises(UserError, match=r"data\.retain: row 1 is learned from its first token"):
        build_method("LUNAR").refuse_rows(streams)
    asked = build_streams({"retain": build_examples(loaded.template, rows, False)})
    refuse_no_prompts(asked["retain"])


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_ridge_must_be_above_0(value: float) -> None:
    with pytest.raises(UserError, match="ridge_lambda must be above 0"):
        build_method("LUNAR", {"ridge_lambda": value})


def test_a_ridge_that_fp64_cannot_tell_from_0_is_told(world: Any) -> None:
    loaded, rows = world
    few = {name: examples[:1] for name, examples in rows.items()}
    shift = build_shift(build_context(loaded, few), build_method("LUNAR"))
    with pytest.raises(UserError, match=re.escape("ridge_lambda=1e-30")):
        shift.solve(1e-30)


def test_no_layer_is_refused() -> None:
    with pytest.raises(UserError, match="target_layers names no layer"):
        build_method("LUNAR", {"target_layers": ()})
