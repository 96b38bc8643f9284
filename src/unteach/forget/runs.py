"""The runs that a request is made of: an audit of the model as it is, and for each method a run of
`unlearn` that lands on the budget and an audit of what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unteach import run_dir
from unteach.config.forget import AUDIT_WORDS, RUN_WORDS, ForgetConfig
from unteach.config.overrides import spell_value
from unteach.forget.known_rows import ASKED, TAUGHT
from unteach.forget.recipes import BATCH_SIZE, NUM_STEPS, Recipe, choose_settings
from unteach.forget.texts import Texts

BEFORE, CANDIDATES = "before", "candidates"
LOOKS = "[rank,clean,prefill]"
"""The attacks by which the model is asked what it knows."""


@dataclass(frozen=True)
class Run:
    """One command of a request: its verb, its words, and its folder."""

    verb: str
    words: list[str]
    folder: Path


def plan_look(config: ForgetConfig, folder: Path) -> Run:
    """Plan the audit of the model before anything is changed."""
    to = folder / BEFORE
    words = [
        f"model={config.model}",
        f"forget={config.rows}",
        *_spell_beside(config),
        "audit=quick",
        f"audit.only={LOOKS}",
        *_select(config.words, AUDIT_WORDS),
        *_place(to),
    ]
    return Run("audit", words, to)


def plan_audit(config: ForgetConfig, folder: Path, model: str, to: Path) -> Run:
    """Plan an audit of a model on the rows that were known, with the model before as original."""
    words = [
        f"model={model}",
        f"forget={folder / ASKED}",
        *_spell_beside(config),
        f"original={config.model}",
        f"audit={config.level}",
        *_select(config.words, AUDIT_WORDS),
        *_place(to),
    ]
    return Run("audit", words, to)


def plan_candidate(
    config: ForgetConfig,
    folder: Path,
    recipe: Recipe,
    texts: Texts,
    num_parameters: int,
    has_adapter: bool,
) -> Run:
    """Plan the run of one method: past the budget, and landed on it."""
    to = folder / CANDIDATES / recipe.trainer
    words = [
        f"model={config.model}",
        f"forget={folder / TAUGHT}",
        f"retain={texts.retain}",
        f"trainer={recipe.trainer}",
        f"trainer.land.budget={config.budget}",
        f"trainer.args.max_steps={NUM_STEPS}",
        f"trainer.args.per_device_train_batch_size={BATCH_SIZE}",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.lr_scheduler_type=constant_with_warmup",
        "trainer.args.warmup_steps=5",
        "trainer.args.save_strategy=no",
        *choose_settings(recipe, num_parameters, has_adapter),
        *recipe.words,
    ]
    if texts.prompts is not None:
        words.append(f"data.landing_file={texts.prompts}")
    words += [*_select(config.words, RUN_WORDS), *_place(to)]
    return Run("unlearn", words, to)


def find_model(run: Run) -> Path:
    """Find the model that a run of `unlearn` left."""
    return run.folder / run_dir.FINAL


def _spell_beside(config: ForgetConfig) -> list[str]:
    """Spell what stands beside the facts in an audit."""
    beside = {
        "retain": config.retain,
        "holdout": config.holdout,
        "retain_model": config.retain_model,
    }
    return [f"{key}={value}" for key, value in beside.items() if value is not None]


def _place(folder: Path) -> list[str]:
    return [f"task_name={folder.name}", f"paths.output_dir={spell_value(str(folder))}"]


def _select(words: Sequence[str], beginnings: Sequence[str]) -> list[str]:
    """Select the words whose first part is one of some."""
    return [word for word in words if word.lstrip("+~").split("=")[0].split(".")[0] in beginnings]
