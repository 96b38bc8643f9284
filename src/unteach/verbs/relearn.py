"""Teach a copy of an audited model for a few steps, as a run of its own: stopped, it goes on."""

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from unteach import fingerprints, run_dir
from unteach.audits.audited_model import AuditedModel
from unteach.audits.lessons import Lesson, OwnTexts
from unteach.config.compose import compose
from unteach.config.schema import PATH, ModelConfig, TrainConfig
from unteach.data.user_files import resolve_files
from unteach.errors import UserError
from unteach.json_files import write_lines
from unteach.training.own_rows import Row, sample_rows
from unteach.verbs import train

FOLDER = "relearn"
"""Where in an audit's folder its trainings are."""
ROWS, LOG = "rows.jsonl", "train.log"


def teach_copy(folder: Path, model: AuditedModel, lesson: Lesson) -> ModelConfig:
    """Train a LoRA on a copy of a model, or its own adapter where it is one.

    Args:
        folder: of the trainings; each has a folder of its own there, by the model and the lesson.
        model: is not changed.

    Returns:
        The model that came of it.
    """
    if isinstance(lesson.rows, OwnTexts):
        rows = _load_own_texts(folder, model, lesson.rows, lesson.seed)
    else:
        rows = list(lesson.rows)
    key = fingerprints.hash_value(
        [model.identity, asdict(lesson), rows, asdict(model.template.args)]
    )
    home = folder / key[:16]
    home.mkdir(parents=True, exist_ok=True)
    write_lines(home / ROWS, rows)
    config = _compose(home, model, lesson, has_texts="text" in rows[0])
    if not run_dir.is_done(Path(config.paths.output_dir)):
        with (home / LOG).open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            train.run(config)
    final = str(Path(config.paths.output_dir) / run_dir.FINAL)
    return ModelConfig(
        {PATH: final}, template_args=model.template.args, base_path=model.config.base_path
    )


def _load_own_texts(folder: Path, model: AuditedModel, own_texts: OwnTexts, seed: int) -> list[Row]:
    """Load the texts that a model wrote itself; where there are none yet, it writes them.

    Raises:
        UserError: it writes nothing.
    """
    key = fingerprints.hash_value(
        [model.identity, asdict(own_texts), seed, asdict(model.template.args)]
    )
    path = folder / f"texts-{key[:16]}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        loaded = replace(model.empty, model=model.model)
        write_lines(path, sample_rows(loaded, own_texts.count, own_texts.max_tokens, seed))
        model.release()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows:
        raise UserError(
            "relearn_benign: there are no rows to retain, and the model writes no text of its own "
            "to be taught; give retain=FILE, or leave the attack out "
            "(audit.attacks.relearn_benign=null)"
        )
    return rows


def _compose(home: Path, model: AuditedModel, lesson: Lesson, has_texts: bool) -> TrainConfig:
    """Compose the training run of a lesson.

    Args:
        has_texts: whether its rows are texts, and no questions.
    """
    words = [
        "model=auto",
        f"model.model_args.{PATH}={home}",
        f"data.train_file={json.dumps(str(home / ROWS))}",
        "trainer=finetune",
        "task_name=relearn",
        f"paths.output_dir={home / 'run'}",
        f"paths.cache_dir={model.cache}",
        f"seed={lesson.seed}",
        "eval=null",
        f"trainer.args.max_steps={lesson.steps}",
        f"trainer.args.learning_rate={lesson.learning_rate}",
        f"trainer.args.per_device_train_batch_size={lesson.batch_size}",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.lr_scheduler_type=constant",
        "trainer.args.warmup_steps=0",
        "trainer.args.weight_decay=0",
        "trainer.args.save_strategy=no",
    ]
    if has_texts:
        words.append("data.packing=apart")  # a row for each text, however short
    if lesson.turns == "last":
        words.append("data.turns=last")
    config = compose("train", words)
    assert isinstance(config, TrainConfig)
    own_model = model.config
    if not model.empty.adapter:
        lora = {"r": lesson.rank, "lora_alpha": 2 * lesson.rank, "target_modules": "all-linear"}
        own_model = replace(own_model, peft_args=lora)
    return resolve_files(
        replace(config, model=replace(own_model, template_args=model.template.args))
    )
