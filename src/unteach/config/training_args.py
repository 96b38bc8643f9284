"""The fields of transformers.TrainingArguments, read from its source so that a check needs no
import of torch.

Also here: their old names, and those that have no meaning in unteach because it does the thing by a
rule of its own.
"""

import ast
import functools
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

from unteach.errors import UserError, find_nearest
from unteach.wording import quote_value

OWN = {
    "warmup_epochs": "float | None",
    "keep_checkpoints": "bool",
    "save_at_steps": "list[int] | None",
    "early_stopping_patience": "int | None",
    "early_stopping_threshold": "float | None",
}
"""Fields that unteach adds: warm-up in epochs of the anchor stream, as OpenUnlearning's experiments
have it; whether checkpoints outlive the end of a run; steps after which one is written, whatever
save_strategy says; evaluations without a better
metric_for_best_model after which it stops, and by how much one must be better to count."""

SAVE_AT_STEPS = "save_at_steps"

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "evaluate_before_training": "eval_on_start",
    "warmup_ratio": "warmup_steps",  # a float below 1 is a share of all steps
}
DROPPED = {
    "save_safetensors": "weights are always written as safetensors",
    "overwrite_output_dir": "set resume=never to move an old folder aside",
    "logging_dir": "TensorBoard files go to <run>/logs",
    "bf16_full_eval": "suites run in model.model_args.dtype",
    "fp16_full_eval": "suites run in model.model_args.dtype",
    "per_device_eval_batch_size": "suites choose their batches by length, up to "
    "eval.<suite>.batch_size, and rows held "
    "out are measured in batches of per_device_train_batch_size",
}
ROWS = "the rows of a step are drawn from (seed, epoch, step) alone"
SUITES = "evaluation is done by suites: set eval"
HUB = "upload the finished model: unteach export <run> push=REPO"
SPREAD = (
    "how a run is spread is said when it is started: launch=fsdp2|zero2|zero3, or your own "
    "accelerate file"
)
REFUSED = {
    "group_by_length": ROWS,
    "train_sampling_strategy": ROWS,
    "length_column_name": ROWS,
    "accelerator_config": ROWS,
    "dataloader_in_order": ROWS,
    "ignore_data_skip": "a run always goes on with the rows that come next",
    "dataloader_drop_last": "no row is dropped: a short step is filled with rows of weight zero",
    "data_seed": "one seed rules a run: set seed",
    "auto_find_batch_size": "set per_device_train_batch_size; the step is the same for every split "
    "of it",
    "label_smoothing_factor": "a method says its own loss",
    "label_names": "a method says its own loss",
    "average_tokens_across_devices": "a term is always divided by its count over all processes",
    "use_liger_kernel": "its forward would take the place of ours, which makes logits in chunks "
    "already",
    "liger_kernel_config": "its forward would take the place of ours, which makes logits in chunks "
    "already",
    "use_cache": "training keeps no keys and values; generation always does",
    "prediction_loss_only": SUITES,
    "include_for_metrics": SUITES,
    "eval_accumulation_steps": "evaluation is done by suites: set eval.<suite>.batch_size",
    "batch_eval_metrics": SUITES,
    "eval_use_gather_object": SUITES,
    "eval_do_concat_batches": SUITES,
    "do_predict": "evaluation and generation are done by suites: set eval",
    "remove_unused_columns": "batches are built from streams",
    "output_dir": "set paths.output_dir",
    "save_on_each_node": "all processes of a run share its folder",
    "enable_jit_checkpoint": "asked to stop (SIGTERM), a run always saves itself between two steps",
    "restore_callback_states_from_checkpoint": "all that a run needs to go on is always restored",
    "logging_nan_inf_filter": "a loss that is not finite ends the run and is never hidden",
    "disable_tqdm": "progress is shown by the run itself",
    "parallelism_config": "it is an object of accelerate, and a configuration cannot hold one",
    "local_rank": "the launcher says it to each process",
    "fsdp": SPREAD,
    "fsdp_config": f"{SPREAD} with an fsdp_config",
    "deepspeed": f"{SPREAD} with a deepspeed_config_file",
    "push_to_hub": HUB,
    "hub_model_id": HUB,
    "hub_strategy": HUB,
    "hub_token": HUB,
    "hub_private_repo": HUB,
    "hub_always_push": HUB,
    "hub_revision": HUB,
}

DONE_ANYWAY = {"remove_unused_columns": (False, REFUSED["remove_unused_columns"])}
"""Refused ones whose one value asks for what is done here: it is accepted and said."""

LEAST = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "gradient_accumulation_steps", "save_total_limit"), 1
    ),
    **dict.fromkeys(
        ("early_stopping_patience", "dataloader_prefetch_factor", "torch_empty_cache_steps"), 1
    ),
    **dict.fromkeys(
        ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "warmup_epochs"), 0
    ),
    **dict.fromkeys(
        ("adam_beta1", "adam_beta2", "adam_epsilon", "eval_delay", "dataloader_num_workers"), 0
    ),
    "early_stopping_threshold": 0,
}
ABOVE_ZERO = (
    "ddp_timeout",
    "num_train_epochs",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "neftune_noise_alpha",
)
BELOW_ONE = ("adam_beta1", "adam_beta2")
OF_WORKERS = (
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_multiprocessing_context",
)
WITHOUT_ARGS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "adafactor",
    "lomo",
)
WARMUPS = ("warmup_steps", "warmup_epochs")
"""Two ways to say one thing: where a stronger layer says it in one, the other does not reach the
run."""


OTHER_NAMES = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "n_epochs": "num_train_epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "max_train_steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "bs": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "accumulation_steps": "gradient_accumulation_steps",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "wd": "weight_decay",
    "optimizer": "optim",
    "optimiser": "optim",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "grad_clip": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "save_every": "save_steps",
    "log_every": "logging_steps",
    "eval_every": "eval_steps",
    "evaluation_strategy": "eval_strategy",
    "patience": "early_stopping_patience",
    "logger": "report_to",
}
"""What other tools call fields of TrainingArguments -> the field; nothing of it is accepted."""


@functools.cache
def declared_fields() -> dict[str, str]:
    """Name -> annotation of every field of TrainingArguments, and of unteach's own."""
    for node in ast.parse(_source("training_args.py")).body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            declared = {
                line.target.id: ast.unparse(line.annotation)
                for line in node.body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            }
            return {name: kind for name, kind in declared.items() if not name.startswith("_")} | OWN
    raise AssertionError("transformers has no TrainingArguments where it used to be")


def _source(file: str) -> str:
    found = importlib.util.find_spec("transformers")
    assert found is not None and found.origin is not None, "transformers is a dependency of unteach"
    return (Path(found.origin).parent / file).read_text(encoding="utf-8")


@functools.cache
def enums() -> dict[str, list[str]]:
    """Name -> values of the enums that annotate fields of TrainingArguments."""
    values_by_name = {}
    for file in ("training_args.py", "trainer_utils.py"):
        for node in ast.parse(_source(file)).body:
            if not isinstance(node, ast.ClassDef):
                continue
            if [ast.unparse(base) for base in node.bases] != ["ExplicitEnum"]:
                continue
            values_by_name[node.name] = [
                str(line.value.value)
                for line in node.body
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
            ]
    return values_by_name


@functools.cache
def trackers() -> list[str]:
    """What `report_to` may name."""
    found = re.search(
        r"INTEGRATION_TO_CALLBACK = \{(.*?)\}",
        _source("integrations/integration_utils.py"),
        re.DOTALL,
    )
    assert found is not None, "transformers has no INTEGRATION_TO_CALLBACK where it used to be"
    return [*re.findall(r'"(\w+)":', found[1]), "none", "all"]


def accepts(annotation: str, value: object) -> bool:
    """Whether a value fits an annotation of TrainingArguments; enums take their names as
    strings."""
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


def find_fault(name: str, value: object) -> str | None:
    """What is wrong with the value of one argument; None where it may stand."""
    kind = declared_fields()[name]
    if name == SAVE_AT_STEPS:
        return _find_fault_in_steps(value)
    if not accepts(kind, value):
        return f"must be {kind}, got {quote_value(value)}"
    allowed = (
        trackers()
        if name == "report_to"
        else [one for enum in kind.split(" | ") for one in enums().get(enum, ())]
    )
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and allowed and one not in allowed:
            guess = find_nearest(one, allowed)
            return (
                f"there is no {one!r}{f'; did you mean {guess}?' if guess else '.'} Allowed: "
                f"{', '.join(allowed)}"
            )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return f"must be a finite number, got {value}"
    if name in LEAST and value < LEAST[name]:
        return f"must be {LEAST[name]} or more, got {value}"
    if name in ABOVE_ZERO and value <= 0:
        return f"must be above 0, got {value}"
    if name in BELOW_ONE and value >= 1:
        return f"must be below 1, got {value}"
    if name == "max_steps" and value != -1 and value < 1:
        return f"must be 1 or more, or -1 where num_train_epochs counts, got {value}"
    return None


def _find_fault_in_steps(value: object) -> str | None:
    """What is wrong with a list of steps; None where it may stand."""
    if value is None:
        return None
    fault = f"must be a list of steps, each 1 or more, got {quote_value(value)}"
    if not isinstance(value, list):
        return fault
    for step in value:
        if isinstance(step, bool) or not isinstance(step, int) or step < 1:
            return fault
    return None


def find_clashes(args: dict[str, Any]) -> list[tuple[str, str]]:
    """(argument, what is wrong with it) where two arguments cannot stand together."""
    found = []
    for name in OF_WORKERS:
        if args.get(name) and not args.get("dataloader_num_workers"):
            found.append((name, "needs dataloader_num_workers above 0"))
    if args.get("bf16") and args.get("fp16"):
        found.append(("fp16", "bf16 is set too, and there is one precision: leave one out"))
    optim = args.get("optim", "adamw_torch_fused")
    if args.get("optim_args") and optim in WITHOUT_ARGS:
        found.append(
            (
                "optim_args",
                f"{optim} takes none; betas and epsilon are adam_beta1, adam_beta2, adam_epsilon",
            )
        )
    if args.get("optim_target_modules") and not str(optim).startswith(("galore", "apollo")):
        found.append(
            ("optim_target_modules", f"{optim} has no use for it; galore_… and apollo_… have")
        )
    evaluated = args.get("eval_strategy", "no")
    saved = args.get("save_strategy", "steps")
    if args.get("load_best_model_at_end") and saved != "best" and evaluated != saved:
        found.append(
            (
                "load_best_model_at_end",
                f"needs eval_strategy={saved}, as save_strategy, or save_strategy=best",
            )
        )
    last_step = max(args.get(SAVE_AT_STEPS) or [0])
    max_steps = args.get("max_steps") or -1
    if 0 < max_steps < last_step:
        found.append((SAVE_AT_STEPS, f"step {last_step} is after the last one, {max_steps}"))
    if (
        args.get("early_stopping_threshold") is not None
        and args.get("early_stopping_patience") is None
    ):
        found.append(("early_stopping_threshold", "needs early_stopping_patience"))
    return found


def translate_old_names(args: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Translates old names and spellings; gives the new mapping and one sentence for each old
    name."""
    current, said = {}, []
    for name, value in args.items():
        if name == "warmup_ratio" and isinstance(value, int | float) and value >= 1:
            raise UserError(
                f"trainer.args.warmup_ratio={value}: must be below 1, a share of all steps; "
                f"warmup_steps is a count"
            )
        if name in RENAMED:
            said.append(f"trainer.args.{name} is called {RENAMED[name]} now")
        is_done_anyway = name in DONE_ANYWAY and value is DONE_ANYWAY[name][0]
        if is_done_anyway:
            said.append(
                f"trainer.args.{name}={str(value).lower()} is what is done anyway: "
                f"{DONE_ANYWAY[name][1]}"
            )
        elif name in DROPPED:
            said.append(f"trainer.args.{name} has no effect any more: {DROPPED[name]}")
        else:
            current_name = RENAMED.get(name, name)
            current[current_name] = _translate_value(current_name, value)
    return current, said


def _translate_value(name: str, value: object) -> Any:
    if value is False and name.endswith("_strategy"):  # what YAML makes of a bare `no`
        return "no"
    return None if value == "None" else value
