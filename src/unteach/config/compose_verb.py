"""The one path from a verb's words to its typed configuration.

overrides -> Hydra -> normalize -> TrainConfig | EvalConfig | InferConfig, alone or within what the
verb is told beside it. Verbs that need no configuration files: compose_flat.py. Nothing here
imports torch: a mistake is answered before.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from unteach.config import compose, groups, inference, provenance, schema, tree, verb_configs
from unteach.config.command import VERBS as RUN_VERBS
from unteach.config.overrides import sort_overrides
from unteach.config.reader import ConfigErrors
from unteach.config.references import is_place
from unteach.config.runfile import is_run_file
from unteach.config.verb_keys import CHECK, CHECK_INFER, OF_TWO_WORDS
from unteach.config.verb_options import Options
from unteach.errors import UserError, describe_unknown, require_extra
from unteach.strict_yaml import read_yaml, refuse_odd_values

ASK_KEYS = {
    "model",
    "template",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "repetition_penalty",
    "num_beams",
    "stop_strings",
    "quantization",
    "backend",
    "backend_args",
    "plugins",
}
"""Keys of `unteach infer` that a single question has a use for."""


VerbConfig = (
    schema.RunConfig
    | inference.InferConfig
    | verb_configs.AskConfig
    | verb_configs.CheckConfig
    | verb_configs.CheckInferConfig
    | verb_configs.DemoConfig
    | verb_configs.StudyConfig
    | verb_configs.WorldConfig
)


def compose_verb(verb: str, overrides: list[str], options: Options) -> VerbConfig:
    """Compose what a verb is told.

    Args:
        verb: its name, as on the command line.
        overrides: its words.
        options: what was said by dashes.

    Raises:
        UserError: with every mistake found.
    """
    return COMPOSERS[verb](overrides, options)


def compose_train(overrides: list[str], options: Options) -> schema.TrainConfig:
    """Compose a training run."""
    name = options.config_name or "train"
    config = compose.compose(name, overrides, options.config_dirs, starting=True)
    if not isinstance(config, schema.TrainConfig):
        raise UserError(
            "a training run needs a trainer and data; `unteach eval` evaluates without training"
        )
    return config


def compose_unlearn(overrides: list[str], options: Options) -> schema.TrainConfig:
    """Compose a training run that makes a model forget."""
    name = options.config_name or "unlearn"
    return compose_train(overrides, replace(options, config_name=name))


def compose_eval(overrides: list[str], options: Options) -> schema.EvalConfig:
    """Compose an evaluation."""
    name = options.config_name or "eval"
    config = compose.compose(name, overrides, options.config_dirs, starting=True)
    if not isinstance(config, schema.EvalConfig):
        raise UserError(f"mode={config.mode}: this configuration trains; it is for `unteach train`")
    if not config.eval:
        raise UserError("an evaluation needs a suite: set eval=tofu (see `unteach list suites`)")
    if config.model.merge_adapter:
        raise UserError(f"model.merge_adapter: {schema.NOT_SAVED}")
    return config


def compose_audit(overrides: list[str], options: Options) -> schema.AuditConfig:
    """Compose an audit."""
    name = options.config_name or "audit"
    config = compose.compose(name, overrides, options.config_dirs, starting=True)
    if not isinstance(config, schema.AuditConfig):
        raise UserError(f"mode={config.mode}: this configuration is no audit's")
    return config


def _compose_infer(overrides: list[str], options: Options) -> inference.InferConfig:
    """Compose a batch inference."""
    config = compose.compose_inference(overrides, options.config_dirs, starting=True)
    if config.modality == "vlm":
        require_extra("vision", "modality=vlm")
    return config


def _compose_check_infer(overrides: list[str], options: Options) -> verb_configs.CheckInferConfig:
    """Compose a batch inference that is to be checked."""
    return verb_configs.CheckInferConfig(_compose_infer(overrides, options))


def _compose_demo(overrides: list[str], options: Options) -> verb_configs.DemoConfig:
    """Compose the demo, which reads its own words."""
    return verb_configs.DemoConfig(tuple(overrides), options.config_dirs)


def _compose_world(overrides: list[str], options: Options) -> verb_configs.WorldConfig:
    """Compose the settings of a world: those of the file that `config` names, and words over
    them."""
    words = sort_overrides(overrides)
    problems = [*words.problems]
    for word in (*words.groups, *words.removed):
        problems.append(f"unteach world: takes key=value words, not {word}")
    given: Any = OmegaConf.create({})
    tree.set_values(given, words.values, problems)
    if problems:
        raise ConfigErrors(problems)
    path = given.pop("config", None)
    if path:
        from_file = read_yaml(Path(str(path))) or {}
        given = OmegaConf.merge(from_file, given)
    settings = tree.resolve(given)
    refuse_odd_values(settings)
    to = settings.pop("to", None)
    if not isinstance(to, str) or not to:
        raise UserError("unteach world needs a folder to write to: unteach world to=FOLDER")
    kind = str(settings.pop("kind", "authors"))
    return verb_configs.WorldConfig(to, settings, kind)


def _compose_study(overrides: list[str], options: Options) -> verb_configs.StudyConfig:
    """Compose what is to be done with which study; its own file is read by studies.study_file."""
    bare = [word for word in overrides if "=" not in word]
    action = bare.pop(0) if bare else "run"
    if action not in verb_configs.STUDY_ACTIONS:
        raise UserError(describe_unknown("study command", action, verb_configs.STUDY_ACTIONS))
    names, words = bare, []
    for word in overrides:
        key, equals, value = word.partition("=")
        if key == "study" and equals:
            names = [value, *names]
        elif equals:
            words.append(word)
    if len(names) != 1:
        studies = ", ".join(groups.list_options("study", options.config_dirs))
        raise UserError(f"name one study: study=NAME; there are {studies}")
    if options.write is not None and action != "plan":
        raise UserError(f"--write goes with `unteach study plan`, not with {action}")
    return verb_configs.StudyConfig(
        action,  # type: ignore[arg-type]
        names[0],
        tuple(words),
        options.config_dirs,
        options.write,
    )


def _compose_ask(overrides: list[str], options: Options) -> verb_configs.AskConfig:
    """Compose the configuration of `unteach infer`, without what concerns tables, and the
    question."""
    words = []
    questions = []
    for word in overrides:
        if _is_override(word):
            words.append(word)
        else:
            questions.append(word)
    names_model = any(word.lstrip("+").startswith("model") for word in words)
    first = questions[0] if questions else None
    if first and not names_model and " " not in first and is_place(first):
        rest = shlex.join(questions[1:])
        raise UserError(f"{first}: names a model: unteach ask model={first} {rest}".rstrip())
    if len(questions) > 1:
        raise UserError(
            f'ask takes one question, in quotes: unteach ask model=… "{" ".join(questions)}"'
        )
    if first is not None and not first.strip():
        raise UserError("the question is empty: there is nothing to ask")
    for word in words:
        key = re.split(r"[=.]", word.lstrip("+~"))[0]
        if key not in ASK_KEYS:
            raise UserError(describe_unknown("key of ask", key, ASK_KEYS))
    words.append("input_file=-")
    infer = compose.compose_inference(words, options.config_dirs, starting=True)
    return verb_configs.AskConfig(infer, first)


def _is_override(word: str) -> bool:
    """Whether a word is key=value; a question may hold an equals sign too."""
    return re.match(r"[+~]?[\w./@]+=|~", word) is not None


def _take_gpu(overrides: list[str]) -> tuple[list[str], int | None]:
    """Take `gpu=80GB` out of the words of `check`: the bytes of a GPU that is not here."""
    others, num_bytes = [], None
    for word in overrides:
        key, equals, value = word.partition("=")
        if key != "gpu" or not equals:
            others.append(word)
            continue
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GB|GiB)", value.strip(), re.IGNORECASE)
        if match is None:
            raise UserError(f"gpu={value}: is the memory of a GPU, as gpu=80GB or gpu=24GB")
        # What is sold as 80 GB has 80 GiB, or nearly.
        num_bytes = int(float(match[1]) * 2**30)
    return others, num_bytes


def _compose_check(overrides: list[str], options: Options) -> verb_configs.CheckConfig:
    """Compose the run that is to be checked: of `train`, or of the verb that is named first."""
    overrides, gpu_bytes = _take_gpu(overrides)
    verbs: list[str] = []
    words: list[str] = []
    for word in overrides:
        is_override = "=" in word or word.startswith("~")
        if is_override or is_run_file(word):
            words.append(word)
        else:
            verbs.append(word)
    if len(verbs) > 1 or (verbs and verbs[0] not in RUN_VERBS):
        others = [verb.split()[1] for verb in OF_TWO_WORDS if verb.startswith(CHECK)]
        allowed = (*RUN_VERBS, *others)
        raise UserError(describe_unknown("verb to check", " ".join(verbs), allowed))
    name = verbs[0] if verbs else "train"
    name = options.config_name or name
    config = compose.compose(name, words, options.config_dirs, starting=True)
    if gpu_bytes is not None:
        if not isinstance(config, schema.TrainConfig):
            raise UserError("gpu: is for a run that trains: unteach check train, or unlearn")
        config = replace(config, gpu_bytes=gpu_bytes)
    origins = None
    if options.prints_tree:
        origins = provenance.find_origins(name, words, options.config_dirs)
    return verb_configs.CheckConfig(config, options.config_dirs, origins)


COMPOSERS: dict[str, Callable[[list[str], Options], VerbConfig]] = {
    "train": compose_train,
    "unlearn": compose_unlearn,
    "eval": compose_eval,
    "audit": compose_audit,
    "infer": _compose_infer,
    "ask": _compose_ask,
    "check": _compose_check,
    CHECK_INFER: _compose_check_infer,
    "study": _compose_study,
    "demo": _compose_demo,
    "world": _compose_world,
}
"""What composes each verb; verb_keys.CONFIGS has the others."""
