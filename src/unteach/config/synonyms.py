"""What people type first, from other tools and from habit, and what it is called here. Nothing of
it is accepted."""

import dataclasses
from collections.abc import Iterable

from unteach import registry
from unteach.config import training_args
from unteach.config.files import FILE_KEYS
from unteach.config.overrides import spell_value
from unteach.errors import describe_unknown
from unteach.logs import VERBOSE

KEYS = {
    "output_dir": "paths.output_dir",
    "output": "paths.output_dir",
    "out": "paths.output_dir",
    "save_dir": "paths.output_dir",
    "cache_dir": "paths.model_cache_dir",
    "name": "task_name",
    "run_name": "task_name",
    "experiment_name": "task_name",
    "exp": "experiment",
    "method": "trainer",
    "loss": "trainer",
    "algorithm": "trainer",
    "model_name": "model",
    "model_path": "model",
    "model_name_or_path": "model",
    "pretrained_model_name_or_path": "model",
    "base_model": "model",
    "checkpoint": "model",
    "model_id": "model",
    "dataset": "data",
    "dataset_name": "data",
    "dataset_path": "data",
    "data_path": "data",
    "data_file": "data",
    "file": "data",
    "train_data": "data",
    "forget_data": "forget",
    "forget_set_path": "forget",
    "retain_data": "retain",
    "suite": "eval",
    "suites": "eval",
    "benchmark": "eval",
    "benchmarks": "eval",
    "tasks": "eval.lm_eval.tasks",
    "metrics": "eval.<suite>.metrics",
    "tokenizer": "model.tokenizer_args.pretrained_model_name_or_path",
    "tokenizer_path": "model.tokenizer_args.pretrained_model_name_or_path",
    "system_prompt": "model.template_args.system_prompt",
    "chat_template": "template",
    "lora_r": "model.peft_args.r",
    "lora_rank": "model.peft_args.r",
    "rank": "model.peft_args.r",
    "lora_alpha": "model.peft_args.lora_alpha",
    "lora_dropout": "model.peft_args.lora_dropout",
    "lora_target_modules": "model.peft_args.target_modules",
    "target_modules": "model.peft_args.target_modules",
    "cutoff_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "sequence_len": "data.max_length",
    "max_length": "data.max_length",
    "val_size": "data.validation_fraction",
    "random_seed": "seed",
    "gpus": "nproc",
    "num_gpus": "nproc",
    "n_gpus": "nproc",
    "num_processes": "nproc",
    "nproc_per_node": "nproc",
    "torch_dtype": "model.model_args.dtype",
    "split": "forget_split",
}
"""What stands elsewhere in a configuration, or is another word of the command line."""
LOADING = (
    "dtype",
    "device_map",
    "attn_implementation",
    "revision",
    "quantization_config",
    "trust_remote_code",
)
"""Arguments of from_pretrained that people set."""
INFER = {
    "input": "input_file",
    "file": "input_file",
    "dataset": "input_file",
    "output": "output_file",
    "output_dir": "output_file",
    "max_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "temp": "temperature",
    "n": "num_return_sequences",
    "num_samples": "num_return_sequences",
    "stop": "stop_strings",
    "beams": "num_beams",
}
EVAL = {"batch_size": "eval.<suite>.batch_size", "max_length": "eval.<suite>.max_length"}


def find_key(
    name: str,
    mode: str = "train",
    method: type | None = None,
) -> str | None:
    """The full key that a bare name most likely means; None where nothing is called so.

    Args:
        name: a key that the configuration does not have at its top.
        mode: `train`, `unlearn`, `eval` or `infer`: what the command does.
        method: the class of the run's method, whose fields are keys of `trainer.method_args`; in
            `infer` the backend's.
    """
    bare = name.lstrip("-").replace("-", "_")
    if mode == "infer":
        of_backend = method is not None and bare in _fields(method)
        named = KEYS.get(bare) if KEYS.get(bare) in ("model", "nproc", "seed") else None
        return f"backend_args.{bare}" if of_backend else INFER.get(bare, named)
    if mode == "eval" and bare in EVAL:
        return EVAL[bare]
    if mode != "eval":
        if bare == "max_length" or bare in FILE_KEYS:
            return f"data.{bare}"
        if method is not None and bare in _fields(method):
            return f"trainer.method_args.{bare}"
        if bare in KEYS:
            return KEYS[bare]
        argument = training_args.OTHER_NAMES.get(bare, bare)
        if argument in training_args.declared_fields() and argument not in training_args.REFUSED:
            return f"trainer.args.{argument}"
    if bare in LOADING:
        return f"model.model_args.{bare}"
    return KEYS.get(bare)


def _fields(method: type) -> set[str]:
    return (
        {one.name for one in dataclasses.fields(method) if one.init}
        if dataclasses.is_dataclass(method)
        else set()
    )


def suggest(
    name: str,
    value: object,
    mode: str = "train",
    method: type | None = None,
) -> str | None:
    """What to write instead of `name=value`; None where nothing is called so."""
    if name == VERBOSE:
        return "it is a word of the command, or an argument in Python, and part of no configuration"
    key = find_key(name, mode, method)
    if key:
        return f"write {key}={spell_value(value)}"
    others = (
        [entry.name for entry in registry.method.entries() if name in _fields(entry.target)]
        if method
        else []
    )
    return (
        f"is a field of the methods {', '.join(others)} (trainer=…), and not of this run's"
        if others
        else None
    )


VERBS = {
    **dict.fromkeys(
        ("finetune", "fine-tune", "sft", "pretrain", "fit", "teach", "dpo", "lora", "tune"), "train"
    ),
    "erase": "forget",
    "edit": "unlearn",
    **dict.fromkeys(
        ("evaluate", "evals", "test", "benchmark", "bench", "score", "measure"), "eval"
    ),
    **dict.fromkeys(("generate", "predict", "inference", "answer", "batch"), "infer"),
    **dict.fromkeys(("chat", "talk", "prompt", "repl", "interactive"), "ask"),
    **dict.fromkeys(
        ("lint", "validate", "dry-run", "dryrun", "inspect", "print-config", "config"), "check"
    ),
    **dict.fromkeys(("convert", "merge", "save", "push", "upload", "publish"), "export"),
    **dict.fromkeys(("download", "get", "pull"), "fetch"),
    **dict.fromkeys(("run", "sweep", "grid", "search", "multirun"), "study run"),
    **{word: f"study {word}" for word in ("plan", "submit", "status", "retry", "cancel")},
    **dict.fromkeys(
        ("show", "ls", "methods", "models", "datasets", "suites", "experiments"), "list"
    ),
    **dict.fromkeys(("plot", "table", "page", "html", "dashboard", "results", "view"), "report"),
    **dict.fromkeys(("diff", "comparison"), "compare"),
    **dict.fromkeys(("log", "logs", "metrics", "loss"), "history"),
    **dict.fromkeys(("preprocess", "prepare", "tokenise", "tokenization"), "tokenize"),
    **dict.fromkeys(("info", "doctor", "environment", "sysinfo", "versions"), "env"),
    **dict.fromkeys(("quickstart", "example", "tutorial", "start", "init"), "demo"),
}
"""What other tools call our verbs."""
INSTEAD = {
    "serve": "no model is served here; `unteach export RUN to=FOLDER` makes a folder that vLLM and "
    "others serve",
    "webui": "there is no web page to work in; `unteach report RUN…` writes one to look at",
    "clean": "no verb deletes anything; a run is the folder saves/<mode>/<task_name>, and "
    "resume=never moves it aside",
    "resume": "the same command again goes on where it was stopped",
    "login": "the hub's own command is `hf auth login`",
    "install": "packages come with pip; what is missing is named with the command that installs it",
}
INSTEAD |= dict.fromkeys(("api", "server", "deploy", "vllm-serve"), INSTEAD["serve"])
INSTEAD |= dict.fromkeys(("ui", "gui", "web", "board", "app"), INSTEAD["webui"])
INSTEAD |= dict.fromkeys(("clear", "delete", "rm", "remove", "purge", "reset"), INSTEAD["clean"])
INSTEAD |= dict.fromkeys(("continue", "restart"), INSTEAD["resume"])
"""What is not offered, or is no verb, and what to do."""
NEAR = 0.75
"""How like a verb a word must be to be taken for a slip of the hand."""


def unknown_verb(name: str, verbs: Iterable[str]) -> str:
    """What is said of a verb that there is not."""
    verbs = sorted(verbs)
    if name in VERBS:
        return (
            f"there is no verb called {name!r}; it is `unteach {VERBS[name]} …` here (`unteach "
            f"{VERBS[name]} --help`)"
        )
    if name in INSTEAD:
        return f"there is no verb called {name!r}: {INSTEAD[name]}"
    if "=" in name:
        return f"a verb comes first: unteach VERB {name} …; verbs: {', '.join(verbs)}"
    return describe_unknown("verb", name, verbs, NEAR)
