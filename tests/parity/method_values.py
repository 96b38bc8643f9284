"""Losses and gradient norms of methods: the blocks `goldens` and `formula_only`."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comparison import Compared, NotOffered, Outcomes, Reference, find_difference

from unteach import registry
from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.errors import UserError
from unteach.methods.decode.whp import HoldBackReinforced
from unteach.models.decoding import Decoding
from unteach.models.hub import PATH
from unteach.models.layers import keep_first_layers
from unteach.models.loading import load
from unteach.testing import build_method, method_loss
from unteach.testing.examples import build_examples

TOLERANCE = 1e-4
DIVERGENCES = {"Total-Variation": "TV", "Jenson-Shannon": "JS"}
"""Divergences of FLAT by their names in the file."""

Rows = list[dict[str, Any]]


@dataclass
class Call:
    """How unteach is asked for the value of an entry."""

    method: str
    args: dict[str, Any]
    forget: Rows
    retain: Rows
    others: dict[str, Rows] = field(default_factory=dict)
    """rows with other answers, by stream"""
    num_layers: int | None = None
    """of how many of the policy's first layers the model is that trains; None: all"""


def compare_goldens(reference: Reference, block: list[dict[str, Any]]) -> Outcomes:
    """The corrected value where there is one, else the published one and its second witness."""
    for entry in block:
        corrected = entry.get("corrected")
        witnesses = [corrected] if corrected else [entry, entry["derived"]]
        yield compare_entry(reference, entry, witnesses)


def compare_formulas(reference: Reference, block: list[dict[str, Any]]) -> Outcomes:
    """Methods whose authors' code could not be run: the value of a formula."""
    for entry in block:
        yield compare_entry(reference, entry, [entry["derived"]])


def compare_entry(
    reference: Reference, entry: dict[str, Any], witnesses: list[dict[str, float]]
) -> Compared | NotOffered:
    """unteach's loss and gradient norm on an entry's batch; the greatest difference counts."""
    name = f"{entry['method']} {entry['args']} on {entry['batch']}"
    call = build_call(reference, entry)
    if entry["method"] == "WHP":
        found = compute_decoded(reference, HoldBackReinforced(**call.args), call)
        return compare_found(name, found, witnesses)
    if call.method not in registry.method:
        return NotOffered(name, f"there is no method {call.method}")
    try:
        build_method(call.method, call.args)
    except UserError as error:
        return NotOffered(name, " ".join(str(error).split()))
    with open_policy(reference, call.num_layers) as policy:
        found = method_loss(
            call.method,
            call.args,
            policy,
            reference.reference,
            call.forget,
            call.retain,
            reference.values["template"],
            all_tokens=entry["batch"] == "one_row_all_tokens",
            **call.others,  # type: ignore[arg-type]
        )
    return compare_found(name, found, witnesses)


@contextlib.contextmanager
def open_policy(reference: Reference, num_layers: int | None) -> Iterator[Path]:
    """The folder of the policy, or of a model of its first layers."""
    if num_layers is None:
        yield reference.policy
        return
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        model = transformers.AutoModelForCausalLM.from_pretrained(reference.policy)
        keep_first_layers(model, num_layers)
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(reference.policy).save_pretrained(folder)
        yield Path(folder)


def compare_found(
    name: str, found: tuple[float, float], witnesses: list[dict[str, float]]
) -> Compared:
    """A loss and a gradient norm beside each witness of them."""
    differences = []
    for witness in witnesses:
        differences += map(find_difference, found, (witness["loss"], witness["grad_norm"]))
    return Compared(name, max(differences), TOLERANCE)


def compute_decoded(reference: Reference, rule: Decoding, call: Call) -> tuple[float, float]:
    """The CE of the answers to forget under two models whose logits are combined, and its gradient
    norm over the weights of the first; the second is the kit's reference."""
    models = []
    for folder in (reference.policy, reference.reference):
        config = ModelConfig(
            {PATH: str(folder), "dtype": "float32"},
            template_args=TemplateArgs(**reference.values["template"]),
        )
        models.append(load(config, training=True))
    base, second = (loaded.model for loaded in models)
    examples = build_examples(models[0].template, call.forget, False, "forget")
    total, num_tokens = torch.zeros(()), 0
    for example in examples:
        ids = torch.tensor(example["input_ids"])[None]
        labels = torch.tensor(example["labels"])[1:]
        with torch.no_grad():
            theirs = second(input_ids=ids).logits[0, :-1]
        logits = rule.combine(base(input_ids=ids).logits[0, :-1], theirs)
        total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        num_tokens += int((labels != -100).sum())
    loss = total / num_tokens
    loss.backward()
    squares = [p.grad.double().square().sum() for p in base.parameters() if p.grad is not None]
    return float(loss), float(torch.stack(squares).sum().sqrt())


def build_call(reference: Reference, entry: dict[str, Any]) -> Call:
    """What an entry asks for, in unteach's names; a method that is called the same takes its
    arguments as they are."""
    count = 1 if entry["batch"] == "one_row_all_tokens" else None
    forget, retain = reference.rows("forget10", count), reference.rows("retain90", count)
    method = entry["method"].split("-")[0]
    call = Call(method, dict(entry["args"]), forget, retain)
    if entry["method"] in TRANSLATIONS:
        method = entry["method"]
    if method in TRANSLATIONS:
        TRANSLATIONS[method](reference, entry, call)
    return call


def translate_me(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    """What the prompts of the forget rows count, the file's batch says."""
    whole_rows = entry["batch"] == "rows_all_tokens_padded"
    call.args["loss_on"] = "all" if whole_rows else "completion"


def translate_idk_ap(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    call.others = {
        "alternate": give_refusals(reference, call.forget),
        "retain_alternate": give_refusals(reference, call.retain),
    }


def translate_flat(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    call.args["divergence"] = DIVERGENCES.get(call.args["divergence"], call.args["divergence"])
    call.others = {"alternate": give_refusals(reference, call.forget)}


def translate_jensun(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    """The words that the file has as tokens."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(reference.policy)
    call.method = "JensUn"
    call.args["target"] = tokenizer.decode(call.args.pop("target_ids"))


def translate_uld(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    """The assistant that trains is the model's first layers."""
    call.num_layers = call.args.pop("layers")
    call.args = {
        "num_layers": call.num_layers,
        "uniform_weight": call.args.pop("retain_weight"),
        **call.args,
    }


def translate_jensunpp(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    call.others = {"alternate": give_refusals(reference, call.forget)}


def translate_llmu(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    """Each forget question with the answer of the retain row beside it."""
    call.args = {
        "gamma": call.args["bad_weight"],
        "random_weight": call.args["random_weight"],
        "alpha": call.args["normal_weight"],
    }
    pairs = zip(call.forget, call.retain, strict=True)
    mismatched = [{**asked, "alternate": kept["answer"]} for asked, kept in pairs]
    call.others = {"alternate": mismatched}


def translate_circuit_breaker(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    """Hidden states by number, and the share of the schedule that is done; away from the reference
    nothing is nudged."""
    args = entry["args"]
    weights = {"gamma": args.get("gamma"), "alpha": args.get("alpha")}
    if "progress" in args:
        weights["gamma"] = args["coeff"] * (1 - args["progress"])
        weights["alpha"] = args["coeff"] * args["progress"]
    config = json.loads((reference.policy / "config.json").read_text(encoding="utf-8"))
    num_layers = config["num_hidden_layers"]
    call.args = {
        **weights,
        "target_layers": [name_state(i, num_layers) for i in args["hidden_states"]],
        "retain_layers": [name_state(i, num_layers) for i in args["retain_hidden_states"]],
        "square_norm": args.get("square_norm", False),
        "ramp_steps": None,
        "nudge": 0.0,
    }


def name_state(index: int, num_layers: int) -> str:
    """The name of one of the library's `hidden_states`."""
    if index == 0:
        return "embedding"
    return "last" if index == num_layers else f"layers.{index - 1}"


def translate_rep_noise(reference: Reference, entry: dict[str, Any], call: Call) -> None:
    """Which noise the value was computed with the file does not say: it moves the loss by less than
    a tenth of the tolerance."""
    call.others = {"alternate": give_refusals(reference, call.forget)}


TRANSLATIONS: dict[str, Callable[[Reference, dict[str, Any], Call], None]] = {
    "ME": translate_me,
    "IdkAP": translate_idk_ap,
    "FLAT": translate_flat,
    "JensUn": translate_jensun,
    "JensUnPP": translate_jensunpp,
    "JensUnPP-fixed": translate_jensun,
    "LLMU": translate_llmu,
    "CircuitBreaker": translate_circuit_breaker,
    "RepNoise": translate_rep_noise,
    "ULD": translate_uld,
}


def give_refusals(reference: Reference, rows: Rows) -> Rows:
    """The rows, each with the other answer that the file names before its note in brackets."""
    refusal = reference.values["other_answers"].partition(" (")[0]
    return [{**row, "alternate": refusal} for row in rows]
