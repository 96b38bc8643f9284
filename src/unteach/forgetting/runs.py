"""The runs that a request is made of: an audit of the model as it is, and for each method a run of
`unlearn` that lands on the budget and an audit of what came of it."""

from collections.abc import Sequence
from pathlib import Path

from unteach import run_dir
from unteach.config.compose import compose
from unteach.config.forget import AUDIT_WORDS, LOOK_WORDS, RUN_WORDS, ForgetConfig
from unteach.config.overrides import spell_value
from unteach.config.schema import AuditConfig
from unteach.data.user_files import resolve_files
from unteach.forgetting.known_rows import ASKED, TAUGHT
from unteach.forgetting.leak_by_budget import list_other_budgets
from unteach.forgetting.recipes import BATCH_SIZE, Recipe, choose_num_steps, choose_settings
from unteach.forgetting.texts import Texts
from unteach.json_files import read_log
from unteach.studies.plan import AUDIT, PlannedRun

BEFORE, CANDIDATES = "before", "candidates"
FORGET = "forget"
"""The kind of a run of a method."""
MEASURED = "[forget_prob,retain_prob]"
"""What is measured of the rows before and after a method: its audit asks for them in every way."""
LOOKS = "[rank,clean,prefill]"
"""The attacks by which the model is asked what it knows."""


def plan_look(config: ForgetConfig, folder: Path) -> PlannedRun:
    """Plan the audit of the model before anything is changed."""
    words = [
        f"model={spell_value(config.model)}",
        f"forget={spell_value(config.rows)}",
        *_spell_beside(config.retain, config.holdout, config.retain_model),
        "audit=quick",
        f"audit.only={LOOKS}",
        *_select(config.words, LOOK_WORDS),
        *_place(folder / BEFORE),
    ]
    return PlannedRun(BEFORE, AUDIT, AUDIT, tuple(words))


def compose_audit(planned: PlannedRun) -> AuditConfig:
    """Compose an audit as its run will, with its files found."""
    composed = compose("audit", planned.overrides)
    assert isinstance(composed, AuditConfig)
    return resolve_files(composed)


def plan_audit_of_rows(config: ForgetConfig, folder: Path) -> PlannedRun:
    """Plan an audit of the model before at the level of the request: what each method's model will
    be asked, of the rows as they were given."""
    words = [
        f"model={spell_value(config.model)}",
        f"forget={spell_value(config.rows)}",
        *_spell_beside(config.retain, config.holdout, config.retain_model),
        f"audit={config.level}",
        *_select(config.words, (*LOOK_WORDS, AUDIT)),
        *_place(folder / BEFORE),
    ]
    return PlannedRun(BEFORE, AUDIT, AUDIT, tuple(words))


def plan_audit(
    config: ForgetConfig, folder: Path, audited: Path, texts: Texts, after: tuple[str, ...] = ()
) -> PlannedRun:
    """Plan the audit of a model that forgot, on the rows that were known, with the model before as
    original.

    Args:
        audited: the folder whose final model is audited.
        after: the runs that it waits for.
    """
    words = [
        f"model={spell_value(str(audited / run_dir.FINAL))}",
        f"forget={spell_value(str(folder / ASKED))}",
        *_spell_beside(texts.kept, texts.unseen, config.retain_model),
        f"original={spell_value(config.model)}",
        f"audit={config.level}",
        *_select_turns(config.words),
        *_select(config.words, AUDIT_WORDS),
        *_place(audited / run_dir.AUDIT),
    ]
    return PlannedRun(f"{audited.name}-{run_dir.AUDIT}", AUDIT, AUDIT, tuple(words), after)


def plan_candidate(
    config: ForgetConfig,
    folder: Path,
    recipe: Recipe,
    texts: Texts,
    num_parameters: int,
    has_adapter: bool,
) -> PlannedRun:
    """Plan the run of one method: past the budget, and landed on it."""
    words = [
        f"model={spell_value(config.model)}",
        f"forget={spell_value(str(folder / TAUGHT))}",
        f"retain={spell_value(str(texts.retain))}",
        f"trainer={recipe.trainer}",
        f"trainer.land.budget={config.budget}",
        f"trainer.land.other_budgets={spell_value(list_other_budgets(config.budget))}",
        f"trainer.args.max_steps={choose_num_steps(num_parameters)}",
        f"trainer.args.per_device_train_batch_size={BATCH_SIZE}",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.lr_scheduler_type=constant_with_warmup",
        "trainer.args.warmup_steps=5",
        "trainer.args.save_strategy=no",
        f"eval.rows.metrics={MEASURED}",
        *choose_settings(recipe, num_parameters, has_adapter),
        *recipe.words,
    ]
    if texts.prompts is not None:
        words.append(f"data.landing_file={spell_value(str(texts.prompts))}")
    words += list_reading_words(folder / TAUGHT)
    words += _select_turns(config.words)
    words += _select(config.words, RUN_WORDS)
    words += _place(folder / CANDIDATES / recipe.trainer)
    return PlannedRun(recipe.trainer, FORGET, "unlearn", tuple(words))


def list_reading_words(taught: Path) -> list[str]:
    """List the words by which rows to forget are read: each document is a row of its own."""
    rows, _ = read_log(taught)
    return ["data.packing=apart"] if "text" in rows[0] else []


def _select_turns(words: Sequence[str]) -> list[str]:
    """Select the word that says which answers of a conversation are trained on."""
    return [word for word in words if word.lstrip("+~").startswith("data.turns=")]


def _spell_beside(
    retain: str | Path | None, holdout: str | Path | None, retain_model: str | None
) -> list[str]:
    """Spell what stands beside the facts in an audit."""
    beside = {"retain": retain, "holdout": holdout, "retain_model": retain_model}
    return [
        f"{key}={spell_value(str(value))}" for key, value in beside.items() if value is not None
    ]


def _place(folder: Path) -> list[str]:
    return [f"task_name={spell_value(folder.name)}", f"paths.output_dir={spell_value(str(folder))}"]


def _select(words: Sequence[str], beginnings: Sequence[str]) -> list[str]:
    """Select the words whose first part is one of some."""
    return [word for word in words if word.lstrip("+~").split("=")[0].split(".")[0] in beginnings]
