"""What an audit measures inside a model and in its weights: audit_values.json, whose tolerance is
absolute."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comparison import Compared, NotOffered, Outcomes, Reference, flatten

from unteach.audits.answer_tokens import build_value_pair
from unteach.audits.depth_score import PLACES, Form, compute_depth_score, compute_drops
from unteach.audits.leak_at_k import compute_leak_at_k
from unteach.audits.logit_lens import compute_logit_lens
from unteach.audits.patching import compute_patched_logprobs, record_states
from unteach.audits.quantise import quantize_weights
from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.engines.base import Pair
from unteach.engines.hf import HFEngine
from unteach.errors import UserError, has_extra
from unteach.models import loading
from unteach.models.hub import PATH
from unteach.models.loading import LoadedModel

TOLERANCE = 1e-4
NEEDS_QUANT = ("nf4", "fp4")


def load(reference: Reference, name: str) -> LoadedModel:
    """Load a model of the kit with the file's template."""
    model_args = {PATH: str(reference.kit / name), "dtype": "float32"}
    template_args = TemplateArgs(**reference.values["template"])
    return loading.load(ModelConfig(model_args, template_args=template_args), training=False)


def load_engine(reference: Reference, name: str) -> HFEngine:
    loaded = load(reference, name)
    return HFEngine(loaded.model, loaded.tokenizer)


def read_forget_rows(reference: Reference, indices: Sequence[int]) -> list[dict[str, Any]]:
    return [reference.read("forget10")[index] for index in indices]


def compare(name: str, ours: Any, theirs: Any) -> Compared:
    """Compare numbers by their greatest absolute difference."""
    mine, other = flatten(ours), flatten(theirs)
    if mine.shape != other.shape:
        return Compared(name, float("inf"), TOLERANCE)
    return Compared(name, float((mine - other).abs().max()), TOLERANCE)


def encode_answers(loaded: LoadedModel, rows: list[dict[str, Any]]) -> list[Pair]:
    pairs = []
    for row in rows:
        encoded = loaded.template.encode(row["question"], row["answer"])
        pairs.append((encoded.prompt, encoded.answer))
    return pairs


def encode_items(engine: HFEngine, items: list[dict[str, Any]], prompt_format: str) -> list[Pair]:
    """Encode the file's items as its authors do: the answer's prefix belongs to the prompt."""
    pairs = []
    for item in items:
        prompt = prompt_format.replace("\\n", "\n").format(**item)
        ids = tuple(engine.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        answer = item["answer"].removeprefix(item["prefix"])
        pair = build_value_pair(engine.tokenizer, ids, answer, item["gt_entity"])
        assert pair is not None
        pairs.append(pair)
    return pairs


def compare_uds(reference: Reference, block: dict[str, Any]) -> Outcomes:
    """Both forms of the score after both prompts, with the drops of every layer."""
    full, retain = (load_engine(reference, block[name]) for name in ("full", "retain"))
    forms: dict[Form, dict[str, Any]] = {
        "corrected": block["corrected"],
        "published": block["results"],
    }
    for prompt_name, published in block["results"].items():
        pairs = encode_items(full, block["items"], published["prompt"])
        for form, by_prompt in forms.items():
            states = record_states(retain, pairs, PLACES[form])
            retain_drops = compute_drops(full, states, pairs, form)
            for name, expected in by_prompt[prompt_name].items():
                if not isinstance(expected, dict):
                    continue
                states = record_states(load_engine(reference, name), pairs, PLACES[form])
                drops = compute_drops(full, states, pairs, form)
                score = compute_depth_score(retain_drops, drops)
                label = f"{form} {prompt_name} {name}"
                yield compare(f"{label} uds", score.value, expected["uds"])
                rows = expected["rows"]
                yield compare(f"{label} of rows", score.by_fact, [row["uds"] for row in rows])
                yield compare(f"{label} s1", retain_drops.tolist(), [row["s1"] for row in rows])
                yield compare(f"{label} s2", drops.tolist(), [row["s2"] for row in rows])


def compare_logit_lens(reference: Reference, block: dict[str, Any]) -> Outcomes:
    """The lens of answers by each model's own decoder, and of values by the full model's."""
    answers = block["answers"]["rows"]
    rows = read_forget_rows(reference, list(map(int, answers)))
    for name in ("reference", "policy", "retain"):
        loaded = load(reference, name)
        engine = HFEngine(loaded.model, loaded.tokenizer)
        found = compute_logit_lens(engine, encode_answers(loaded, rows))
        expected = [by_model[name] for by_model in answers.values()]
        yield compare(f"answers {name}", found.tolist(), expected)

    uds = reference.values["uds"]
    full = load_engine(reference, uds["full"])
    pairs = encode_items(full, uds["items"], uds["results"]["kit_prompt"]["prompt"])
    lenses: dict[str, np.ndarray] = {}
    for name, expected in block["results"]["logprobs"].items():
        states = record_states(load_engine(reference, name), pairs, "last_layer")
        lenses[name] = compute_patched_logprobs(full, states, pairs, "last_layer").patched
        yield compare(f"values {name}", lenses[name].T.tolist(), expected)
    for name, expected in block["results"]["score"].items():
        drops = {key: lenses[uds["full"]] - lens for key, lens in lenses.items()}
        score = compute_depth_score(drops[uds["retain"]], drops[name])
        yield compare(f"score {name}", score.value, expected)
    yield NotOffered("cka_with_retain", "no similarity of states is measured")


def compare_leak_at_k(reference: Reference, block: dict[str, Any]) -> Outcomes:
    """The published 0 for k > n must be a refusal here."""
    for expected in block["results"]:
        n, c, k = expected["n"], expected["c"], expected["k"]
        label = f"n={n} c={c} k={k}"
        if k <= n:
            yield compare(label, compute_leak_at_k(n, c, k), expected["value"])
            continue
        try:
            compute_leak_at_k(n, c, k)
        except UserError:
            yield NotOffered(label, "of fewer than k samples the estimator does not exist")
        else:
            yield Compared(label, float("inf"), TOLERANCE)


def compare_quantise(reference: Reference, block: dict[str, Any]) -> Outcomes:
    """How far the weights move, all together, and how likely answers are after it."""
    rows = read_forget_rows(reference, range(*block["rows"]))
    for name, by_scheme in block["results"].items():
        loaded = load(reference, name)
        engine = HFEngine(loaded.model, loaded.tokenizer)
        pairs = encode_answers(loaded, rows)
        plain = block["full_precision"][name]
        yield compare(f"{name} unchanged", compute_probabilities(engine, pairs), plain)
        before = {key: weight.clone() for key, weight in loaded.model.named_parameters()}
        for scheme, expected in by_scheme.items():
            if scheme in NEEDS_QUANT and not has_extra("quant"):
                yield NotOffered(f"{name} {scheme}", "bitsandbytes is not installed")
                continue
            with quantize_weights(loaded.model, scheme):
                error = measure_error(loaded.model, before)
                found = compute_probabilities(engine, pairs)
            yield compare(f"{name} {scheme} error", error, expected["relative_error"])
            yield compare(f"{name} {scheme} probabilities", found, expected["probabilities"])


def compute_probabilities(engine: HFEngine, pairs: list[Pair]) -> list[float]:
    """Compute exp of the mean log-prob of each answer's tokens."""
    return [float(np.exp(-score.avg_loss)) for score in engine.score(pairs)]


def measure_error(model: Any, before: dict[str, torch.Tensor]) -> float:
    """Measure the L2 norm of what all changed weights moved by, relative to theirs."""
    moved, size = 0.0, 0.0
    for name, weight in model.named_parameters():
        difference = (weight - before[name]).detach().double().square().sum()
        if difference > 0:
            moved += float(difference)
            size += float(before[name].double().square().sum())
    return float((moved / size) ** 0.5)
