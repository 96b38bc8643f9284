"""ARC's data, model and hyperparameter layers, key by key, in the names of a run's configuration.

Every key acts, or is refused by its name.
"""

import random
import re
from typing import Any

from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError, find_nearest
from unteach.wording import quote_value

TOFU_KEYS = (
    "granularity",
    "stratified",
    "forget_random",
    "forgotten_author_fraction",
    "forgotten_fact_fraction",
)
GEN_TOFU_KEYS = ("type", "granularity", "forget_fraction", "retain_subset", "find_forget")
NUM_AUTHORS = 200
"""Authors that TOFU asks about."""
AUTHOR_BLOCK = 20
"""Questions about each author, one after the other."""
NUM_BIOGRAPHY = 4
"""How many of these, the first, are about the author's life."""
BELOW_ONE = 0.999999
"""The largest share of a forget set that leaves something to retain."""
TRAINING_DEFAULTS = {
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "num_train_epochs": 3,
    "logging_steps": 500,
}
"""What TrainingArguments take where ARC's file says nothing, and this project's base trainer would
say otherwise."""
BOS = ("<|begin_of_text|>", "<s>", "<bos>")
BEST_LOSS = "train_set_retain_mean_loss_gt"
"""The metric that stands for `eval_loss`: the loss of rows that a full job was taught."""


def _check_keys(
    mapping: object,
    allowed: tuple[str, ...],
    where: str,
) -> dict[str, Any]:
    """Give a mapping; refuse other values, and keys that are not allowed."""
    if not isinstance(mapping, dict):
        raise UserError(f"{where}: must be a mapping, got {quote_value(mapping)}")
    for key in mapping:
        if key not in allowed:
            guess = find_nearest(str(key), allowed)
            hint = f"did you mean {guess}?" if guess else f"allowed: {', '.join(allowed)}"
            raise UserError(f"{where}.{key}: no such key; {hint}")
    return mapping


def build_data_settings(
    data: dict[str, Any],
    name: str,
    kind: str,
    seed: int,
    method: str | None = None,
) -> dict[str, Any]:
    """Give the rows of a job and the suite that measures them.

    A forget set is drawn as ARC says it is: the same kind and share, by the job's seed; which
    entities these are is this project's draw, not ARC's.

    Args:
        data: the data layer; `dataset_name: unteach` takes this project's own overrides.
        name: of the layer.
        kind: of the job.
        seed: of the job.
        method: ARC's name of the way to forget.
    """
    where = f"data/{name}.yaml"
    layer = _check_keys(data, ("dataset_name", "data_kwargs"), where)
    dataset_name = layer.get("dataset_name")
    kwargs = layer.get("data_kwargs") or {}
    if dataset_name == "unteach":
        return _build_own_data_settings(kwargs, where, kind, method)
    if dataset_name not in ("tofu", "gen_tofu"):
        raise UserError(
            f"{where}.dataset_name: must be tofu, gen_tofu or unteach, got "
            f"{quote_value(dataset_name)}"
        )
    is_grown = dataset_name == "gen_tofu"
    kwargs = _check_keys(kwargs, GEN_TOFU_KEYS if is_grown else TOFU_KEYS, f"{where}.data_kwargs")
    settings = _build_streams(kind, method, "arc_entities" if is_grown else "arc_tofu")
    if is_grown:
        settings["tofu_path"] = "authors-grown"
    if kind == "full":
        for key, value in kwargs.items():
            if value and key.endswith("fraction"):
                raise UserError(
                    f"{where}: a full job is taught everything: its fractions must be 0"
                )
        return settings
    if is_grown:
        settings["forget_set"] = _build_gen_tofu_forget_set(kwargs, where, seed)
    else:
        settings["forget_set"] = _build_tofu_forget_set(kwargs, where, seed)
    return settings


def _build_own_data_settings(
    kwargs: object,
    where: str,
    kind: str,
    method: str | None,
) -> dict[str, Any]:
    """Give the rows of a data layer that has this project's own overrides."""
    if not isinstance(kwargs, dict):
        raise UserError(
            f"{where}.data_kwargs: must be a mapping of overrides, got {quote_value(kwargs)}"
        )
    by_entity = any(key.partition(".")[0] == "forget_set" for key in kwargs)
    streams = _build_streams(kind, method, "arc_entities" if by_entity else "arc")
    return {**streams, **kwargs}


def _build_streams(kind: str, method: str | None, suite: str) -> dict[str, Any]:
    """Give the datasets of each stream of a job, and the suite that it is measured by.

    Args:
        kind: of the job.
        method: ARC's name of the way to forget.
        suite: `arc` has no forget set by entity.
    """
    forget = "entity_forget"
    retain = "entity_retain"
    if suite == "arc":
        forget = "TOFU_QA_forget"
        retain = "TOFU_QA_retain"
    if method == "idk":
        forget = f"{forget}_idk"
    if kind == "full":
        return {"data.train": "TOFU_QA_full"}
    settings: dict[str, Any] = {}
    if kind == "retain":
        settings["data.train"] = retain
    if kind == "forget":
        settings["data.forget"] = forget
        settings["data.retain"] = retain
    settings["eval"] = [suite]
    return settings


def _build_gen_tofu_forget_set(
    kwargs: dict[str, Any],
    where: str,
    seed: int,
) -> dict[str, Any]:
    for key in ("retain_subset", "find_forget"):
        if key in kwargs:
            raise UserError(
                f"{where}.data_kwargs.{key}: the kept rows about a forgotten entity, and the "
                "others, are measured apart anyway: ask for entity_retain_… and "
                "non_entity_retain_… in eval.arc.metrics; leave this key out"
            )
    by = kwargs.get("type", "granularity")
    if by not in ("granularity", "relationship"):
        raise UserError(
            f"{where}.data_kwargs.type: must be granularity or relationship, got {quote_value(by)}"
        )
    if by == "granularity":
        by = kwargs.get("granularity", "question")
    share = _read_share(kwargs, "forget_fraction", where)
    return {
        "by": by,
        "fraction": share,
        "seed": seed,
    }


def _build_tofu_forget_set(
    kwargs: dict[str, Any],
    where: str,
    seed: int,
) -> dict[str, Any]:
    """Build one of TOFU's four forget sets: whole authors; any questions; of some authors the same
    random, or the first, questions."""
    by = kwargs.get("granularity", "question")
    if by == "author":
        share = _read_share(kwargs, "forgotten_author_fraction", where)
        return {
            "by": by,
            "fraction": share,
            "seed": seed,
            "author_block": AUTHOR_BLOCK,
        }
    if by != "question":
        raise UserError(
            f"{where}.data_kwargs.granularity: must be author or question, got {quote_value(by)}"
        )
    is_random = kwargs.get("forget_random", True)
    if kwargs.get("stratified"):
        questions = _draw_stratified_questions(kwargs, where, seed, is_random)
        return {"by": by, "named": questions}
    if not is_random:
        raise UserError(
            f"{where}.data_kwargs: the first questions (forget_random: false) need stratified: true"
        )
    share = _read_share(kwargs, "forgotten_fact_fraction", where)
    return {"by": by, "fraction": share, "seed": seed}


def _draw_stratified_questions(
    kwargs: dict[str, Any],
    where: str,
    seed: int,
    is_random: bool,
) -> list[int]:
    """Draw some authors, and the same questions about each.

    Args:
        kwargs: the shares of authors and questions.
        where: the layer, for messages.
        seed: of the draw.
        is_random: draw the questions too; else they are those about the author's life.

    Returns:
        The numbers of the rows, in order.
    """
    generator = random.Random(f"arc {seed}")
    author_share = _read_share(kwargs, "forgotten_author_fraction", where, largest=1.0)
    authors = generator.sample(range(NUM_AUTHORS), int(NUM_AUTHORS * author_share))
    questions = list(range(NUM_BIOGRAPHY))
    if is_random:
        share = _read_share(kwargs, "forgotten_fact_fraction", where, largest=1.0)
        questions = generator.sample(range(AUTHOR_BLOCK), int(AUTHOR_BLOCK * share))
    row_numbers = []
    for author in authors:
        first_row = author * AUTHOR_BLOCK
        row_numbers += [first_row + question for question in questions]
    return sorted(row_numbers)


def _read_share(
    kwargs: dict[str, Any],
    key: str,
    where: str,
    largest: float = BELOW_ONE,
) -> float:
    value = kwargs.get(key, 0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= largest:
        raise UserError(
            f"{where}.data_kwargs.{key}: must lie between 0 and 1 so that there is something to "
            f"forget, got {quote_value(value)}"
        )
    return float(value)


def build_model_settings(model: dict[str, Any], name: str) -> dict[str, Any]:
    """Give the base model, how it is loaded, and its template.

    Args:
        model: the model layer.
        name: of the layer.
    """
    where = f"model/{name}/{name}.yaml"
    keys = ("model_id", "model_kwargs", "add_padding_token", "qa_formatter_kwargs")
    layer = _check_keys(model, keys, where)
    if not isinstance(layer.get("model_id"), str):
        raise UserError(f"{where}.model_id: is required, a hub id or a folder")
    # Either way padding is never taken for EOS here.
    if not isinstance(layer.get("add_padding_token", False), bool):
        raise UserError(
            f"{where}.add_padding_token: must be true or false, got "
            f"{quote_value(layer['add_padding_token'])}"
        )
    settings: dict[str, Any] = {
        MODEL_KEY: layer["model_id"],
        TOKENIZER_KEY: layer["model_id"],
    }
    for key, value in (layer.get("model_kwargs") or {}).items():
        settings[f"model.model_args.{key}"] = value
    formatter = layer.get("qa_formatter_kwargs") or {}
    settings.update(_build_template_settings(formatter, f"{where}.qa_formatter_kwargs"))
    return settings


def _build_template_settings(formatter: dict[str, Any], where: str) -> dict[str, Any]:
    """Turn ARC's two templates into tags. BOS stands where the tokenizer puts one; what ends an
    answer is its EOS."""
    formatter = _check_keys(formatter, ("question_template", "answer_template"), where)
    before_question, after_question = _split_template(formatter, "question", where)
    before_answer, after_answer = _split_template(formatter, "answer", where)
    for token in BOS:
        before_question = before_question.removeprefix(token)
    if after_answer and not re.fullmatch(r"(<\|[^|]+\|>|</?\w+>)+\s*", after_answer):
        raise UserError(
            f"{where}.answer_template: after {{answer}} only the tokens that end it may stand, got "
            f"{after_answer!r}"
        )
    # Spaces right before the answer are part of it, as tokenizers join the two.
    opening = before_answer.rstrip(" ")
    spaces = before_answer[len(opening) :]
    settings: dict[str, Any] = {
        "model.template_args.user_start_tag": before_question,
        "model.template_args.user_end_tag": after_question + opening,
        "model.template_args.asst_start_tag": "",
        "model.template_args.asst_end_tag": "",
    }
    if spaces:
        settings["model.template_args.answer_prefix"] = spaces
    end_tokens = re.findall(r"<[^>]+>", after_answer)
    if end_tokens:
        settings["model.tokenizer_args.eos_token"] = end_tokens[0]
    return settings


def _split_template(
    formatter: dict[str, Any],
    field: str,
    where: str,
) -> tuple[str, str]:
    """Split a template into what stands before and after its field."""
    text = str(formatter.get(f"{field}_template", ""))
    if text.count(f"{{{field}}}") != 1:
        raise UserError(f"{where}.{field}_template: must hold {{{field}}} once, got {text!r}")
    before, _, after = text.partition(f"{{{field}}}")
    return before, after


def build_training_settings(layer: dict[str, Any], name: str, kind: str) -> dict[str, Any]:
    """Give TrainingArguments, LoRA and early stopping.

    Args:
        layer: the hyperparameter layer.
        name: of the layer.
        kind: of the job.
    """
    where = f"hyperparameters/{name}.yaml"
    layer = _check_keys(layer, ("trainer_kwargs", "peft_kwargs", "early_stopping_kwargs"), where)
    trainer_kwargs = layer.get("trainer_kwargs") or {}
    args = {**TRAINING_DEFAULTS, **trainer_kwargs}
    args.pop("output_dir", None)  # a run's folder is the study's to say, as it was in ARC
    args["learning_rate"] = _read_number(args["learning_rate"], where)
    if "logging_steps" in trainer_kwargs:
        args["save_steps"] = args["logging_steps"]
        args["eval_steps"] = args["logging_steps"]
    stopping_keys = ("early_stopping_patience", "early_stopping_threshold")
    stopping = layer.get("early_stopping_kwargs") or {}
    args.update(_check_keys(stopping, stopping_keys, f"{where}.early_stopping_kwargs"))

    settings: dict[str, Any] = {}
    # A full job that keeps its best by `eval_loss` means the loss of rows that it was taught.
    if kind == "full" and args.get("metric_for_best_model") in ("eval_loss", "loss"):
        args["metric_for_best_model"] = f"arc_{BEST_LOSS}"
        args["greater_is_better"] = False
        settings = {"eval": ["arc"], "eval.arc.metrics": [BEST_LOSS]}
    training = {f"trainer.args.{key}": value for key, value in args.items()}
    adapter = _build_adapter_settings(layer, kind)
    return {**training, **settings, **adapter}


def _read_number(value: object, where: str) -> object:
    """Read a learning rate that may be written as 1e-5, which YAML takes for text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        raise UserError(
            f"{where}.trainer_kwargs.learning_rate: must be a number, got {value!r}"
        ) from None


def _build_adapter_settings(layer: dict[str, Any], kind: str) -> dict[str, Any]:
    """Give LoRA, fresh on the model that a job starts from: what forget jobs start from is a whole
    model, as in ARC."""
    peft_kwargs = layer.get("peft_kwargs")
    if not peft_kwargs:
        return {}
    settings = {f"model.peft_args.{key}": value for key, value in peft_kwargs.items()}
    if kind == "full":
        settings["model.merge_adapter"] = True
    return settings
