"""Losses and gradient norms of methods: the blocks `goldens` and `formula_only`."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comparison import Compared, NotOffered, Outcomes, Reference, find_difference

from unteach import registry
from unteach.errors import UserError
from unteach.testing import build_method, method_loss

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
    if call.method not in registry.method:
        return NotOffered(name, f"there is no method {call.method}")
    try:
        build_method(call.method, call.args)
    except UserError as error:
        return NotOffered(name, " ".join(str(error).split()))
    found = method_loss(
        call.method,
        call.args,
        reference.policy,
        reference.reference,
        call.forget,
        call.retain,
        reference.values["template"],
        all_tokens=entry["batch"] == "one_row_all_tokens",
        **call.others,  # type: ignore[arg-type]
    )
    differences = []
    for witness in witnesses:
        differences += map(find_difference, found, (witness["loss"], witness["grad_norm"]))
    return Compared(name, max(differences), TOLERANCE)


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
}


def give_refusals(reference: Reference, rows: Rows) -> Rows:
    """The rows, each with the other answer that the file names before its note in brackets."""
    refusal = reference.values["other_answers"].partition(" (")[0]
    return [{**row, "alternate": refusal} for row in rows]
