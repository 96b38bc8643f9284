"""What a request leaves to be read and signed: what was asked for, what was done, what it cost and
what is left. A person decides what that means; nothing here says that data was deleted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from unteach import atomic, run_dir
from unteach.audits.evidence import STATEMENT
from unteach.audits.files import FINDINGS
from unteach.audits.redaction import Redactor
from unteach.audits.signing_keys import load_signer
from unteach.audits.statement import (
    EXTRA,
    FORGET_PREDICATE_TYPE,
    build_statement,
    write_statement,
)
from unteach.audits.subjects import list_subjects
from unteach.audits.taught_rows import list_texts
from unteach.config.forget import ForgetConfig
from unteach.errors import has_extra
from unteach.forgetting.card import explain_evidence, write_card
from unteach.forgetting.choice import Candidate
from unteach.forgetting.earlier import EarlierRequest, measure_earlier_leak
from unteach.forgetting.exact import ExactWay
from unteach.forgetting.known_rows import KnownRows
from unteach.forgetting.leak_by_budget import LeakAtBudget, find_smallest_without_leak
from unteach.json_files import read_mapping

PACKAGES = ("unteach", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Request:
    """What was asked for, and what the model knew of it.

    Attributes:
        config: what `unteach forget` was told.
        row_hashes: a keyed hash of each row.
        redactor: that made them.
        known: how many rows the model knew, and which it did not.
        failed: methods that came to no model.
        not_tried: methods that were not needed, as nothing comes out of one before them.
        earlier: the request that the model came of, whose rows are kept out; None: none.
        exact: whether the model could be taught anew without the rows.
    """

    config: ForgetConfig
    row_hashes: Sequence[str]
    redactor: Redactor
    known: KnownRows
    failed: Sequence[str]
    not_tried: Sequence[str]
    earlier: EarlierRequest | None
    exact: ExactWay


def hash_rows(rows: Sequence[Mapping[str, Any]], redactor: Redactor) -> list[str]:
    """Hash the texts of each row under a key, by which its holder finds it again: a question and
    its answer, what the turns of a chat say, or a document, a line end between them."""
    return [redactor.redact_text("\n".join(list_texts(row))) for row in rows]


def build_record(
    request: Request,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    leaks: Sequence[LeakAtBudget],
    model: Path,
    audit: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the record of a request: plain values, and no text of a row.

    Args:
        request: what was asked for.
        candidates: what every method came to.
        chosen: which of them is given.
        leaks: what the chosen method leaves at other budgets.
        model: where.
        audit: the summary of its audit.
    """
    config = request.config
    return {
        "sentence": audit["sentence"],
        "request": {
            "rows": list(request.row_hashes),
            "redaction_key_id": request.redactor.key_id,
            "num_known": request.known.num_known,
            "not_known_before": list(request.known.unknown),
        },
        "earlier_request": _describe_earlier(request, chosen),
        "done": {
            "model_before": config.model,
            "model": str(model),
            "method": chosen.method,
            "budget": None if chosen.is_exact else config.budget,
            "kl": chosen.kl,
            "a": chosen.a,
            "held_by": _describe_held(config, chosen),
            "meets_budget_and_audit": chosen.is_good,
        },
        "exact": asdict(request.exact),
        "candidates": [_describe(candidate) for candidate in candidates],
        "failed": list(request.failed),
        "not_tried": list(request.not_tried),
        "left": {
            "worst_case": audit["worst"],
            "upper_bound": audit["upper_bound"],
            "num_facts": audit["num_asked"],
            "forgotten_past_chance": audit["over_forgotten"],
            "not_tested": dict(audit["absent"]),
            "attacks": {name: attack["rate"] for name, attack in audit["attacks"].items()},
        },
        "leak_by_budget": [asdict(one) for one in leaks],
        "smallest_budget_without_leak": find_smallest_without_leak(leaks),
        "copies_may_remain": list_copies(config, request.exact.run),
        "cost": {"training_seconds": sum(candidate.seconds for candidate in candidates)},
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "to_be_decided_by_a_person": (
            "whether this meets the request: this record says what was done and measured, and is "
            "no proof that data was deleted"
        ),
    }


def _describe_held(config: ForgetConfig, chosen: Candidate) -> str:
    if chosen.is_exact:
        return "nothing: it was taught anew"
    return "its own text" if config.retain is None else "rows to keep"


def _describe(candidate: Candidate) -> dict[str, Any]:
    return {**asdict(candidate), "folder": str(candidate.folder), "kept": candidate.kept}


def _describe_earlier(request: Request, chosen: Candidate) -> dict[str, Any] | None:
    """Describe the request that the model came of, and what is left of its facts."""
    if request.earlier is None:
        return None
    findings = chosen.folder / run_dir.AUDIT / FINDINGS
    rates = measure_earlier_leak(request.earlier, findings, request.redactor)
    return {"folder": str(request.earlier.folder), **rates}


def list_copies(config: ForgetConfig, run: str | None = None) -> list[str]:
    """List where copies of what was to be forgotten may be left, for somebody to look at.

    Args:
        run: the run that made the model before, where one is known.
    """
    copies = [
        f"{config.rows}: the rows themselves",
        f"{config.model}: the model before, which still knows them",
        "the folder of this request: the rows as the methods were taught them, and what the models "
        "said under attack",
        "the cache of measurements (paths.cache_dir): what models said, as tokens",
    ]
    if run is not None:
        copies.append(
            f"{run}: its checkpoints, results and samples, and the data it was trained on"
        )
    if config.keep:
        copies.append("candidates/: models that were tried, with their weights (keep=true)")
    copies.append("backups, logs, indexes for retrieval, and models made from the model before")
    return copies


def write_record(
    folder: Path,
    request: Request,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    leaks: Sequence[LeakAtBudget],
    model: Path,
) -> None:
    """Write the record of a request, a statement that binds it to the files of the model, and the
    model's card; the record last.

    Args:
        folder: of the request.
        leaks: what the chosen method leaves at other budgets.
        model: the folder of the chosen one.
    """
    file = chosen.folder / run_dir.AUDIT / run_dir.AUDIT_SUMMARY
    audit = read_mapping(file, "the summary of an audit")
    record = build_record(request, candidates, chosen, leaks, model, audit)
    key = request.config.sign_key
    has_statement = key is not None or has_extra(EXTRA)
    if has_statement:
        subjects = list_subjects(str(model))
        payload = build_statement(subjects, record, FORGET_PREDICATE_TYPE)
        signer = load_signer(Path(key)) if key is not None else None
        write_statement(folder / STATEMENT, payload, signer)
    write_card(model, record, explain_evidence(has_statement, is_signed=key is not None))
    atomic.write_json(folder / run_dir.FORGET_RECORD, record)
