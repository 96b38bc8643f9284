"""README.md of the model that a request gives: what was forgotten, what is left, and how sure that
is, for whoever comes upon the model alone.

Beside counts and rates it names the method and the attacks, and nothing of the rows: neither their
text nor the names of their files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unteach import atomic
from unteach.audits.evidence import STATEMENT
from unteach.audits.verdict import PAST_CHANCE
from unteach.export.card import CARD, build_front_matter
from unteach.forgetting.choice import EXACT
from unteach.forgetting.exact import explain_leaks
from unteach.models import adapters
from unteach.report.table import escape_markdown
from unteach.wording import format_count

TAGS = ("unteach", "unlearning")
NO_PROOF = (
    "This is evidence for an assessment by a person, and no proof that data was deleted: another "
    "attack may find more. It holds for the files of this folder as they are. Rounded, merged or "
    "converted to another format they are other files, which were not audited."
)


def write_card(model: Path, record: Mapping[str, Any], evidence: str) -> None:
    """Write the card into the folder of a model, in the place of one that a library wrote there.

    No subject of a statement is called so: the model verifies with it and without.

    Args:
        model: the folder.
        record: of the request.
        evidence: how what it says can be checked.
    """
    is_adapter = adapters.is_adapter(str(model))
    base = adapters.read_base_path(str(model)) if is_adapter else record["done"]["model_before"]
    library = "peft" if is_adapter else "transformers"
    parts = [
        build_front_matter(library, base, TAGS),
        _describe_request(record),
        _describe_audit(record),
        _describe_gaps(record),
        f"## How sure this is\n\n{NO_PROOF}\n",
        f"## How to check it\n\n{evidence}\n",
    ]
    atomic.write_text(model / CARD, "\n".join(parts))


def explain_evidence(has_statement: bool, is_signed: bool) -> str:
    """Explain how the numbers of a card can be checked."""
    if not has_statement:
        return (
            "There is no statement of this request: the packages of unteach's extra `evidence` "
            "were not installed. Its `record.json` holds the same numbers."
        )
    key = " key=public.pem" if is_signed else ""
    signature = "It is signed" if is_signed else "No key signed it"
    return (
        f"`{STATEMENT}` of the request, which is not in this folder, holds these numbers and the "
        f"sha256 of each file of the model (this card apart). {signature}.\n\n"
        f"```bash\nunteach audit verify {STATEMENT} model=FOLDER{key}\n```"
    )


def _describe_request(record: Mapping[str, Any]) -> str:
    request = record["request"]
    num_unknown = len(request["not_known_before"])
    return (
        "# A model that was made to forget\n\n"
        f"The model before knew {format_count(request['num_known'], 'row')} that it was to forget, "
        f"and did not know {num_unknown} more. The record of the request holds a keyed hash of "
        f"each row that it knew; no text of them is here.\n\n{_describe_method(record)}\n"
    )


def _describe_method(record: Mapping[str, Any]) -> str:
    done = record["done"]
    moved = f"KL(before || after) = {done['kl']:.3g} nats a token"
    if done["method"] == EXACT:
        leak = record["candidates"][0]["leak"]
        notes = explain_leaks(leak["is_found"], leak["is_tested"])
        sentences = ["The run that taught them was taught anew without them, under no budget"]
        sentences += [f"it came to {moved}", *notes]
        return "; ".join(sentences) + "."
    if done["meets_budget_and_audit"]:
        outcome = "The result met both its budget and its audit."
    else:
        outcome = (
            "**The result did not meet both its budget and its audit:** it is the best of those "
            "that were tried."
        )
    return (
        f"They were taken out by {escape_markdown(done['method'])}, under a budget of "
        f"{done['budget']:g} nats a token: what the model says otherwise moved by {moved}, held by "
        f"{done['held_by']}. {outcome}"
    )


def _describe_audit(record: Mapping[str, Any]) -> str:
    left = record["left"]
    sentence = escape_markdown(record["sentence"])
    lines = [
        "## What an audit found",
        "",
        f"{sentence[:1].upper()}{sentence[1:]}.",
        "",
        f"Of {format_count(left['num_facts'], 'fact')} {left['worst_case']:.0%} come out by some "
        f"attack. Of rows like these up to {left['upper_bound']:.0%} could (upper bound, 95 %).",
        "",
        "| attack | brings out |",
        "|---|---|",
    ]
    for name, rate in left["attacks"].items():
        lines.append(f"| {escape_markdown(name)} | {rate:.0%} |")
    earlier = record["earlier_request"]
    if earlier is not None and earlier["worst_case"] is not None:
        facts = format_count(earlier["num_facts"], "fact")
        share = f"{earlier['worst_case']:.0%}"
        lines += ["", f"Of the {facts} that an earlier request took out {share} come out."]
    if left["forgotten_past_chance"]:
        lines += ["", f"{PAST_CHANCE[:1].upper()}{PAST_CHANCE[1:]}."]
    return "\n".join(lines) + "\n"


def _describe_gaps(record: Mapping[str, Any]) -> str:
    lines = ["## What was not tested", ""]
    for name, reason in record["left"]["not_tested"].items():
        lines.append(f"- {escape_markdown(name)}: {escape_markdown(reason)}")
    lines.append("- any attack that is not named above")
    return "\n".join(lines) + "\n"
