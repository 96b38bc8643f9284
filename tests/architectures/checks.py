"""Each capability of a tiny model, tried through unteach and through the library's own forward, one
row at a time."""

import functools
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.architectures.tiny import save_tiny
from unteach.config.schema import ModelConfig
from unteach.data.examples import SEGMENT
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.export import merge_adapter
from unteach.models.capabilities import get_capabilities
from unteach.models.forward import OutputSpec
from unteach.models.hub import PATH
from unteach.models.layer_names import find_layer, find_modules
from unteach.models.layers import refuse_no_states, unwrap_model
from unteach.models.loading import LoadedModel, load
from unteach.testing import method_loss

RAW = {"kind": "raw"}
ROWS = [
    {"question": "Who wrote it?", "answer": " She did, in May."},
    {"question": "Why?", "answer": " Because of the rain that fell."},
    {"question": "The river runs", "answer": " north."},
]
OTHERS = [
    {"question": "What is it called?", "answer": " Nothing."},
    {"question": "Since when", "answer": " May 1."},
    {"question": "By whom was that said", "answer": " Ann."},
]
CLOSE = 1e-3
"""Nats a row, or the share of a loss or of a gradient's norm, that rounding may move in fp32."""
Pair = tuple[tuple[int, ...], tuple[int, ...]]


class Wrong(AssertionError):
    """A number is another than the library's own forward gives."""


class Trial:
    """One family's tiny models, a policy and a reference, and what the library says of their
    rows."""

    def __init__(self, family: str, folder: Path):
        self.policy, self.reference = folder / "policy", folder / "reference"
        save_tiny(family, self.policy)
        save_tiny(family, self.reference, shift=0.02)
        # a family that the library does not run in these sizes tells nothing of ours
        with torch.no_grad():
            self.plain(self.policy)(input_ids=torch.arange(5, 15)[None])

    @functools.cached_property
    def loaded(self) -> LoadedModel:
        return load(ModelConfig({PATH: str(self.policy), "dtype": "float32"}), training=False)

    def plain(self, folder: Path) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def pairs(self, rows: list[dict[str, str]] = ROWS) -> list[Pair]:
        tokenizer = self.loaded.tokenizer
        encode = functools.partial(tokenizer, add_special_tokens=False)
        return [
            (
                tuple(encode(row["question"])["input_ids"]),
                (*encode(row["answer"])["input_ids"], tokenizer.eos_token_id),
            )
            for row in rows
        ]


def logprobs(model: Any, pair: Pair) -> torch.Tensor:
    """log p of each token of an answer, by the model's own forward on this row alone."""
    prompt, answer = pair
    logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].float()
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack(
        [logits[place].log_softmax(-1)[token] for place, token in zip(places, answer, strict=True)]
    )


def expect(found: float, expected: float, what: str, scale: float = 1.0) -> None:
    if not math.isfinite(found) or abs(found - expected) > CLOSE * max(
        scale, abs(expected) if scale > 1 else scale
    ):
        raise Wrong(f"{what} is {found:.4f}, and {expected:.4f} by the library")


def expect_scores(engine: HFEngine, model: Any, pairs: list[Pair]) -> None:
    with torch.no_grad():
        for pair, score in zip(pairs, engine.score(pairs), strict=True):
            expect(
                float(score.logprob.sum()), float(logprobs(model, pair).sum()), "log p of an answer"
            )


def check_scores(trial: Trial) -> bool:
    expect_scores(
        HFEngine(trial.loaded.model, trial.loaded.tokenizer),
        trial.plain(trial.policy),
        trial.pairs(),
    )
    return get_capabilities(trial.loaded.model).right_padding


def check_training(trial: Trial) -> bool:
    """The loss and the gradient's norm of SFT: the mean over all answer tokens."""
    loss, norm = method_loss("SFT", {}, trial.policy, trial.policy, ROWS, [], RAW)
    model = trial.plain(trial.policy)
    expected = -torch.cat([logprobs(model, pair) for pair in trial.pairs()]).mean()
    expected.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    by_hand = float(torch.stack([grad.double().norm() for grad in grads]).norm())
    expect(loss, float(expected), "the loss")
    expect(norm / by_hand, 1.0, "the gradient's norm, as a share of the right one,")
    return get_capabilities(trial.loaded.model).right_padding


def check_npo(trial: Trial) -> bool:
    """-2/beta log sigmoid(-beta (log p - log p of the reference)), and the retain rows' mean."""
    beta = 0.5
    loss, _ = method_loss("NPO", {"beta": beta}, trial.policy, trial.reference, ROWS, OTHERS, RAW)
    with torch.no_grad():
        policy, reference = trial.plain(trial.policy), trial.plain(trial.reference)
        ratios = torch.stack(
            [(logprobs(policy, p) - logprobs(reference, p)).sum() for p in trial.pairs()]
        )
        forget = -2 / beta * torch.nn.functional.logsigmoid(-beta * ratios).mean()
        retain = -torch.cat([logprobs(policy, pair) for pair in trial.pairs(OTHERS)]).mean()
    expect(loss, float(forget + retain), "the loss", scale=max(1.0, abs(float(forget))))
    return get_capabilities(trial.loaded.model).right_padding


def find_layers(plain: Any) -> str:
    """The name of the list of layers: the first list that is in no other, and of no picture or
    sound."""
    lists = [
        name for name, module in plain.named_modules() if isinstance(module, torch.nn.ModuleList)
    ]
    names = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return next(name for name in names if "vision" not in name and "audio" not in name)


def check_layer_names(trial: Trial) -> bool:
    """`layers.1`, and by depth, are the second layer of the library's list."""
    causal = unwrap_model(trial.loaded.model)
    name = find_layers(causal)
    depth = len(causal.get_submodule(name))
    for pattern in ("layers.1", f"layers.{min(100, 250 / depth):.2f}%"):
        address = find_layer(causal, pattern)
        if address.name != f"{name}.1":
            raise Wrong(f"{pattern} is {address.name}")
    return True


def check_modules(trial: Trial) -> bool:
    """What the first layer gets, what it and its MLP give, by hooks on the library's own pass over
    each row alone."""
    model, plain = trial.loaded.model, trial.plain(trial.policy)
    layer = plain.get_submodule(f"{find_layers(plain)}.0")
    modules = ["embedding", "layers.0"]
    refuse_no_states(unwrap_model(model), modules)
    (mlp,) = find_modules(unwrap_model(model), r"layers\.0\.mlp")
    refuse_no_states(unwrap_model(model), [r"layers\.0\.mlp"])
    seen: dict[str, torch.Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple | list) else output

        return hook

    def note_input(_: Any, args: Any, kwargs: Any) -> None:
        seen["embedding"] = args[0] if args else kwargs["hidden_states"]

    layer.register_forward_hook(note("layers.0"))
    layer.register_forward_pre_hook(note_input, with_kwargs=True)
    layer.get_submodule(mlp.inner).register_forward_hook(note("layers.0.mlp"))
    rows = [[*prompt, *answer] for prompt, answer in trial.pairs()]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids,
        "weight": torch.ones(len(rows)),
        "rows": {"a": (0, len(rows))},
    }
    spec = OutputSpec(fn=None, positions="real", modules=(*modules, r"layers\.0\.mlp"))
    with torch.no_grad():
        found = model(batch=batch, want={"a": spec})["a"]
        for index, row in enumerate(rows):
            plain(input_ids=torch.tensor([row]), use_cache=False)
            for name, states in found.states.items():
                own, expected = states[found.row == index], seen[name].reshape(len(row), -1)
                distance = float((own - expected).norm() / expected.norm().clamp(min=1e-9))
                expect(distance, 0.0, f"the distance of the states at {name}")
    return get_capabilities(model).right_padding


def check_rmu(trial: Trial) -> bool:
    """States at the second layer, by a hook on the library's own pass: their distance from the
    steering direction."""
    plain = trial.plain(trial.policy)
    name = find_layers(plain)
    seen: list[torch.Tensor] = []

    def note(module: Any, given: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple | list) else output)

    plain.get_submodule(f"{name}.1").register_forward_hook(note)
    layer = f"{re.escape(name)}\\.1"
    args = {"module_regex": layer, "steering_coeff": 2.0, "gamma": 1.0, "alpha": 0.0}
    width = plain.config.get_text_config().hidden_size
    direction = torch.arange(1.0, width + 1)
    loss, norm = method_loss(
        "RMU", args, trial.policy, trial.policy, ROWS, OTHERS, RAW, control_vector=direction
    )
    distances = []
    with torch.no_grad():
        for prompt, answer in trial.pairs():
            plain(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False)
            states = seen[-1].reshape(-1, width)[len(prompt) :]
            distances.append((states - 2 * direction / direction.norm()).square().mean(-1).mean())
    expected = float(torch.stack(distances).mean())
    expect(loss, expected, "the loss", scale=max(1.0, expected))
    if not 0 < norm < math.inf:
        raise Wrong(f"the gradient's norm is {norm}")
    return get_capabilities(trial.loaded.model).right_padding


def adapted(trial: Trial) -> LoadedModel:
    """The policy under an adapter that changes what it says."""
    peft_args = {"r": 2, "target_modules": "all-linear"}
    config = ModelConfig({PATH: str(trial.policy), "dtype": "float32"}, peft_args=peft_args)
    loaded = load(config, training=False)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    return loaded


def check_lora(trial: Trial) -> bool:
    loaded = adapted(trial)
    loaded.model.eval()
    expect_scores(HFEngine(loaded.model, loaded.tokenizer), loaded.model, trial.pairs())
    with torch.no_grad():
        moved = [
            logprobs(loaded.model, pair).sum() - logprobs(trial.loaded.model, pair).sum()
            for pair in trial.pairs()
        ]
    if max(map(abs, moved)) < 10 * CLOSE:
        raise Wrong("the adapter changes nothing")
    return get_capabilities(loaded.model).right_padding


def check_merging(trial: Trial) -> bool:
    """The merged model, saved and loaded again, against the adapter on its base."""
    loaded = adapted(trial)
    loaded.model.eval()
    with torch.no_grad():
        expected = [float(logprobs(loaded.model, pair).sum()) for pair in trial.pairs()]
    folder = trial.policy.with_name("merged")
    shutil.rmtree(folder, ignore_errors=True)
    merge_adapter.merge(loaded.model.float()).save_pretrained(folder)
    merged = trial.plain(folder)
    with torch.no_grad():
        for pair, value in zip(trial.pairs(), expected, strict=True):
            expect(
                float(logprobs(merged, pair).sum()), value, "log p of an answer by the merged model"
            )
    return True


def check_packing(trial: Trial) -> bool:
    """Two documents in a row, none of which sees the other."""
    model, documents = (
        trial.loaded.model,
        [[*prompt, *answer] for prompt, answer in trial.pairs()[:2]],
    )
    ids = torch.tensor([[*documents[0], *documents[1]]])
    segment = torch.tensor([[1] * len(documents[0]) + [2] * len(documents[1])])
    ones = torch.ones_like(ids)
    batch = {
        "input_ids": ids,
        "attention_mask": ones,
        "labels": ids,
        SEGMENT: segment,
        "rows": {"a": (0, 1)},
    }
    with torch.no_grad():
        found = model(
            batch={**batch, "weight": torch.ones(1)}, want={"a": OutputSpec(positions="all")}
        )["a"].value
        plain = trial.plain(trial.policy)
        expected = [
            logprobs(plain, (tuple(document[:1]), tuple(document[1:]))) for document in documents
        ]
    expect(
        float((found - torch.cat(expected)).abs().max()), 0.0, "the distance of log p of a token"
    )
    return get_capabilities(model).packing


def check_evaluation(trial: Trial) -> bool:
    """Several answers to a prompt, in one row where the model takes such."""
    engine = HFEngine(trial.loaded.model, trial.loaded.tokenizer)
    pairs = trial.pairs()
    prompt = pairs[1][0]
    pairs = [*pairs, (prompt, pairs[0][1]), (prompt, pairs[2][1])]
    expect_scores(engine, trial.plain(trial.policy), pairs)
    return (
        engine._max_shared_width is not None and get_capabilities(trial.loaded.model).right_padding
    )


def check_greedy_text(trial: Trial) -> bool:
    """Rows of unequal lengths together, against the library's own continuation of each alone."""
    loaded, plain = trial.loaded, trial.plain(trial.policy)
    prompts = [prompt for prompt, _ in trial.pairs(ROWS + OTHERS)]
    stops = [loaded.tokenizer.eos_token_id]
    found = HFEngine(loaded.model, loaded.tokenizer).generate(prompts, 10)
    for prompt, ids in zip(prompts, found, strict=True):
        given = torch.tensor([prompt])
        made = plain.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=stops,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        expected = made[: next((i for i, token in enumerate(made) if token in stops), len(made))]
        if ids != expected:
            raise Wrong(f"{ids} is continued, and {expected} by the library alone")
    return get_capabilities(loaded.model).continuing


CHECKS: dict[str, Callable[[Trial], bool]] = {
    "score": check_scores,
    "train": check_training,
    "NPO": check_npo,
    "RMU": check_rmu,
    "layer names": check_layer_names,
    "modules": check_modules,
    "LoRA": check_lora,
    "merge": check_merging,
    "packing": check_packing,
    "evaluation": check_evaluation,
    "greedy text": check_greedy_text,
}
"""Each says whether the way is as fast as any, and raises where it is wrong or refused."""


def try_family(family: str, folder: Path) -> dict[str, str]:
    """Try every capability: right, slower, refused with the reason, wrong or crashing, by its
    name."""
    trial = Trial(family, folder)
    return {name: judge(check, trial) for name, check in CHECKS.items()}


def judge(check: Callable[[Trial], bool], trial: Trial) -> str:
    try:
        return "right" if check(trial) else "slower"
    except UserError as error:
        return f"refused: {str(error).splitlines()[0]}"
    except Wrong as error:
        return f"wrong: {error}"
    except Exception as error:  # what else a family may do is what the page is about
        return f"crash: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
