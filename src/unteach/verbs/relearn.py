"""Teach a copy of an audited model for a few steps, as a run of its own that keeps what it was at
each look: stopped, it goes on."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

from unteach import run_dir
from unteach.audits.audited_model import AuditedModel
from unteach.audits.lessons import TRAINING, Lesson, OwnTexts, hash_lesson, hash_own_texts
from unteach.config.compose import compose
from unteach.config.schema import PATH, ModelConfig, TrainConfig
from unteach.data.user_files import resolve_files
from unteach.errors import UserError
from unteach.json_files import write_lines
from unteach.training import checkpoint
from unteach.training.own_rows import Row, sample_rows
from unteach.verbs import train

FOLDER = "relearn"
"""Where in an audit's folder its trainings are."""
RUN, ROWS, LOG = "run", "rows.jsonl", "train.log"


def teach_copy(folder: Path, model: AuditedModel, lesson: Lesson) -> dict[int, ModelConfig]:
    """Train a LoRA on a copy of a model, or its own adapter where it is one, in one run that keeps
    the adapter at each look.

    Args:
        folder: of the trainings; each has a folder of its own there, by the model and the lesson.
        model: is not changed.

    Returns:
        What the copy was at each look, by the number of steps.
    """
    home = folder / hash_lesson(model, lesson)
    run = home / RUN
    last = max(lesson.looks)
    looks = {}
    for steps in lesson.looks:
        looks[steps] = run / (run_dir.FINAL if steps == last else f"checkpoint-{steps}")
    if run_dir.is_done(run) and any(map(checkpoint.find_model_fault, looks.values())):
        shutil.rmtree(run)
    if not run_dir.is_done(run):
        _train(home, folder, model, lesson)
    copies = {}
    for steps, look in looks.items():
        model_args = {**model.config.model_args, PATH: str(look)}
        copies[steps] = replace(
            model.config, model_args=model_args, template_args=model.template.args
        )
    return copies


def _train(home: Path, folder: Path, model: AuditedModel, lesson: Lesson) -> None:
    """Train in a folder, from where it was cut off there."""
    if isinstance(lesson.rows, OwnTexts):
        rows = _load_own_texts(folder, model, lesson.rows, lesson.seed)
    else:
        rows = list(lesson.rows)
    home.mkdir(parents=True, exist_ok=True)
    write_lines(home / ROWS, rows)
    with (home / LOG).open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        train.run(_compose(home, model, lesson, has_texts="text" in rows[0]))


def _load_own_texts(folder: Path, model: AuditedModel, own_texts: OwnTexts, seed: int) -> list[Row]:
    """Load the texts that a model wrote itself; where there are none yet, it writes them.

    Raises:
        UserError: it writes nothing.
    """
    path = folder / f"texts-{hash_own_texts(model, own_texts, seed)}.jsonl"
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
    *earlier, last = sorted(lesson.looks)
    words = [
        "model=auto",
        f"model.model_args.{PATH}={home}",
        f"data.train_file={json.dumps(str(home / ROWS))}",
        "task_name=relearn",
        f"paths.output_dir={home / RUN}",
        f"paths.cache_dir={model.cache}",
        f"seed={lesson.seed}",
        *TRAINING,
        f"trainer.args.max_steps={last}",
        f"trainer.args.learning_rate={lesson.learning_rate}",
        f"trainer.args.per_device_train_batch_size={lesson.batch_size}",
        f"trainer.args.save_at_steps={earlier}",
        f"trainer.args.save_total_limit={last}",
        "trainer.args.keep_checkpoints=true",
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
