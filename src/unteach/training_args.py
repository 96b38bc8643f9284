"""The fields of transformers.TrainingArguments, read from its source so that a check needs no import of torch.

Also here: their old names, and those that have no meaning in unteach because it does the thing by a rule of its own.
"""

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

OWN = {"warmup_epochs": "float | None", "keep_checkpoints": "bool", "early_stopping_patience": "int | None"}
"""Fields that unteach adds: warm-up in epochs of the anchor stream, as OpenUnlearning's experiments have it; whether
checkpoints outlive the end of a run; evaluations without a better metric_for_best_model after which it stops."""

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",  # a float below 1 is a share of all steps
}
DROPPED = {
    "save_safetensors": "weights are always written as safetensors",
    "overwrite_output_dir": "set resume=never to move an old folder aside",
    "logging_dir": "TensorBoard files go to <run>/logs",
}
REFUSED = {
    "group_by_length": "the rows of a step are drawn from (seed, epoch, step) alone",
    "train_sampling_strategy": "the rows of a step are drawn from (seed, epoch, step) alone",
    "data_seed": "one seed rules a run: set seed",
    "dataloader_drop_last": "no row is dropped: a short step is filled with rows of weight zero",
    "auto_find_batch_size": "set per_device_train_batch_size; the step is the same for every split of it",
    "label_smoothing_factor": "a method says its own loss",
    "label_names": "a method says its own loss",
    "prediction_loss_only": "evaluation is done by suites: set eval",
    "include_for_metrics": "evaluation is done by suites: set eval",
    "eval_accumulation_steps": "evaluation is done by suites: set eval.<suite>.batch_size",
    "batch_eval_metrics": "evaluation is done by suites: set eval",
    "remove_unused_columns": "batches are built from streams",
    "output_dir": "set paths.output_dir",
    "logging_nan_inf_filter": "a loss that is not finite ends the run and is never hidden",
    "disable_tqdm": "progress is shown by the run itself",
}


@functools.cache
def fields() -> dict[str, str]:
    """Name -> annotation of every field of TrainingArguments, and of unteach's own."""
    found = importlib.util.find_spec("transformers")
    assert found is not None and found.origin is not None, "transformers is a dependency of unteach"
    tree = ast.parse((Path(found.origin).parent / "training_args.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            declared = {
                line.target.id: ast.unparse(line.annotation)
                for line in node.body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            }
            return {name: kind for name, kind in declared.items() if not name.startswith("_")} | OWN
    raise AssertionError("transformers has no TrainingArguments where it used to be")


def accepts(annotation: str, value: Any) -> bool:
    """Whether a value fits an annotation of TrainingArguments; enums take their names as strings."""
    kinds = set(re.findall(r"\w+", annotation))
    if value is None:
        return bool(kinds & {"None", "Optional"})
    if isinstance(value, bool):
        return "bool" in kinds or not kinds <= {"int", "float", "str", "None", "Optional", "Union"}
    if isinstance(value, int):
        return bool(kinds & {"int", "float"})
    if isinstance(value, float):
        return "float" in kinds
    if isinstance(value, str):
        return not kinds <= {"int", "float", "bool", "None", "Optional", "Union"}
    return bool(kinds & {"dict", "list", "Dict", "List"})


def modernise(args: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Translates old names; gives the new mapping and one sentence for each translation."""
    current, said = {}, []
    for name, value in args.items():
        if name in RENAMED:
            said.append(f"trainer.args.{name} is called {RENAMED[name]} now")
            current[RENAMED[name]] = value
        elif name in DROPPED:
            said.append(f"trainer.args.{name} has no effect any more: {DROPPED[name]}")
        elif value == "None":
            current[name] = None
        else:
            current[name] = value
    return current, said
