"""ARC's data, model and hyperparameter layers, key by key, in the names of a run's configuration.

Every key acts, or is refused by its name.
"""

import random
import re
from typing import Any

from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY
from unteach.errors import UserError, nearest
from unteach.wording import shown

TOFU_KEYS = (
    "granularity",
    "stratified",
    "forget_random",
    "forgotten_author_fraction",
    "forgotten_fact_fraction",
)
GEN_TOFU_KEYS = ("type", "granularity", "forget_fraction", "retain_subset", "find_forget")
AUTHORS, BLOCK, BIOGRAPHY = 200, 20, 4
"""TOFU's authors, the questions about each, and how many of these tell the author's life."""
TRAINED_BY = {
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "num_train_epochs": 3,
    "logging_steps": 500,
}
"""What TrainingArguments take where ARC's file says nothing, and this project's base trainer would
say otherwise."""
BOS = ("<|begin_of_text|>", "<s>", "<bos>")
LOSS = "train_set_retain_mean_loss_gt"


def _known(mapping: Any, allowed: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(mapping, dict):
        raise UserError(f"{where}: must be a mapping, got {shown(mapping)}")
    for key in mapping:
        if key not in allowed:
            guess = nearest(str(key), allowed)
            hint = f"did you mean {guess}?" if guess else f"allowed: {', '.join(allowed)}"
            raise UserError(f"{where}.{key}: no such key; {hint}")
    return mapping


def data_words(
    data: dict[str, Any], name: str, kind: str, seed: int, method: str | None = None
) -> dict[str, Any]:
    """The rows of a job and the suite that measures them. `dataset_name: unteach` takes this
    project's own overrides.

    A forget set is drawn as ARC says it is: the same kind and share, by the job's seed; which
    entities these are is this project's draw, not ARC's.
    """
    where = f"data/{name}.yaml"
    given = _known(data, ("dataset_name", "data_kwargs"), where)
    kwargs = given.get("data_kwargs") or {}
    if given.get("dataset_name") == "unteach":
        if not isinstance(kwargs, dict):
            raise UserError(
                f"{where}.data_kwargs: must be a mapping of overrides, got {shown(kwargs)}"
            )
        by_entity = any(key.partition(".")[0] == "forget_set" for key in kwargs)
        return {**_streams(kind, method, "arc_entities" if by_entity else "arc"), **kwargs}
    keys = {"tofu": TOFU_KEYS, "gen_tofu": GEN_TOFU_KEYS}.get(str(given.get("dataset_name")))
    if keys is None:
        raise UserError(
            f"{where}.dataset_name: must be tofu, gen_tofu or unteach, got "
            f"{shown(given.get('dataset_name'))}"
        )
    kwargs = _known(kwargs, keys, f"{where}.data_kwargs")
    is_grown = given["dataset_name"] == "gen_tofu"
    place = {"tofu_path": "authors-grown"} if is_grown else {}
    suite = "arc_entities" if is_grown else "arc_tofu"
    if kind == "full":
        if any(value for key, value in kwargs.items() if key.endswith("fraction")):
            raise UserError(f"{where}: a full job is taught everything: its fractions must be 0")
        return _streams(kind, method, suite) | place
    chosen = (_of_gen_tofu if is_grown else _of_tofu)(kwargs, where, seed)
    return _streams(kind, method, suite) | place | {"forget_set": chosen}


def _streams(kind: str, method: str | None, suite: str) -> dict[str, Any]:
    """The datasets of each stream of a job, and the suite that it is measured by: `arc` has no
    forget set by entity."""
    forget, retain = (
        ("TOFU_QA_forget", "TOFU_QA_retain")
        if suite == "arc"
        else ("entity_forget", "entity_retain")
    )
    measured = {"eval": [suite]}
    if kind == "full":
        return {"data.train": "TOFU_QA_full"}
    if kind == "retain":
        return {"data.train": retain, **measured}
    if kind == "forget":
        return {
            "data.forget": f"{forget}_idk" if method == "idk" else forget,
            "data.retain": retain,
            **measured,
        }
    return measured


def _of_gen_tofu(kwargs: dict[str, Any], where: str, seed: int) -> dict[str, Any]:
    for key in ("retain_subset", "find_forget"):
        if key in kwargs:
            raise UserError(
                f"{where}.data_kwargs.{key}: the kept rows about a forgotten entity, and the "
                "others, are measured apart anyway: ask for entity_retain_… and "
                "non_entity_retain_… in eval.arc.metrics; leave this key out"
            )
    kind = kwargs.get("type", "granularity")
    if kind not in ("granularity", "relationship"):
        raise UserError(
            f"{where}.data_kwargs.type: must be granularity or relationship, got {shown(kind)}"
        )
    by = "relationship" if kind == "relationship" else kwargs.get("granularity", "question")
    return {"by": by, "fraction": _share(kwargs, "forget_fraction", where), "seed": seed}


def _of_tofu(kwargs: dict[str, Any], where: str, seed: int) -> dict[str, Any]:
    """TOFU's four ways: whole authors; any questions; of some authors the same random, or the
    first, questions."""
    by = kwargs.get("granularity", "question")
    if by == "author":
        return {
            "by": by,
            "fraction": _share(kwargs, "forgotten_author_fraction", where),
            "seed": seed,
            "author_block": BLOCK,
        }
    if by != "question":
        raise UserError(
            f"{where}.data_kwargs.granularity: must be author or question, got {shown(by)}"
        )
    if not kwargs.get("stratified"):
        if not kwargs.get("forget_random", True):
            raise UserError(
                f"{where}.data_kwargs: the first questions (forget_random: false) need stratified: "
                f"true"
            )
        return {
            "by": by,
            "fraction": _share(kwargs, "forgotten_fact_fraction", where),
            "seed": seed,
        }
    draw = random.Random(f"arc {seed}")
    authors = draw.sample(
        range(AUTHORS), int(AUTHORS * _share(kwargs, "forgotten_author_fraction", where, upto=1.0))
    )
    facts = range(BIOGRAPHY)
    if kwargs.get("forget_random", True):
        share = _share(kwargs, "forgotten_fact_fraction", where, upto=1.0)
        facts = draw.sample(range(BLOCK), int(BLOCK * share))  # type: ignore[assignment]
    return {
        "by": by,
        "named": sorted(author * BLOCK + fact for author in authors for fact in facts),
    }


def _share(kwargs: dict[str, Any], key: str, where: str, upto: float = 0.999999) -> float:
    value = kwargs.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= upto:
        raise UserError(
            f"{where}.data_kwargs.{key}: must lie between 0 and 1 so that there is something to "
            f"forget, got {shown(value)}"
        )
    return float(value)


def model_words(model: dict[str, Any], name: str) -> dict[str, Any]:
    """The base model, how it is loaded, and how it is asked."""
    where = f"model/{name}/{name}.yaml"
    given = _known(
        model, ("model_id", "model_kwargs", "add_padding_token", "qa_formatter_kwargs"), where
    )
    if not isinstance(given.get("model_id"), str):
        raise UserError(f"{where}.model_id: is required, a hub id or a folder")
    words: dict[str, Any] = {MODEL_KEY: given["model_id"], TOKENIZER_KEY: given["model_id"]}
    words |= {
        f"model.model_args.{key}": value for key, value in (given.get("model_kwargs") or {}).items()
    }
    # either way padding is never taken for EOS here
    if not isinstance(given.get("add_padding_token", False), bool):
        raise UserError(
            f"{where}.add_padding_token: must be true or false, got "
            f"{shown(given['add_padding_token'])}"
        )
    return words | _template(given.get("qa_formatter_kwargs") or {}, f"{where}.qa_formatter_kwargs")


def _template(formatter: dict[str, Any], where: str) -> dict[str, Any]:
    """ARC's two templates as tags. BOS stands where the tokenizer puts one; what ends an answer is
    its EOS."""
    given = _known(formatter, ("question_template", "answer_template"), where)
    asked, answered = (str(given.get(key, "")) for key in ("question_template", "answer_template"))
    for key, text, field in (("question", asked, "{question}"), ("answer", answered, "{answer}")):
        if text.count(field) != 1:
            raise UserError(f"{where}.{key}_template: must hold {field} once, got {text!r}")
    start, _, end = asked.partition("{question}")
    for token in BOS:
        start = start.removeprefix(token)
    before, _, after = answered.partition("{answer}")
    if after and not re.fullmatch(r"(<\|[^|]+\|>|</?\w+>)+\s*", after):
        raise UserError(
            f"{where}.answer_template: after {{answer}} only the tokens that end it may stand, got "
            f"{after!r}"
        )
    tags = {
        "user_start_tag": start,
        "user_end_tag": end + before.rstrip(" "),
        "asst_start_tag": "",
        "asst_end_tag": "",
    }
    space = before[len(before.rstrip(" ")) :]
    words: dict[str, Any] = {f"model.template_args.{key}": value for key, value in tags.items()}
    words |= {"model.template_args.answer_prefix": space} if space else {}
    ends = re.findall(r"<[^>]+>", after)
    return words | ({"model.tokenizer_args.eos_token": ends[0]} if ends else {})


def hyperparameter_words(given: dict[str, Any], name: str, kind: str) -> dict[str, Any]:
    """TrainingArguments, LoRA and early stopping."""
    where = f"hyperparameters/{name}.yaml"
    given = _known(given, ("trainer_kwargs", "peft_kwargs", "early_stopping_kwargs"), where)
    args = {**TRAINED_BY, **(given.get("trainer_kwargs") or {})}
    args.pop("output_dir", None)  # a run's folder is the study's to say, as it was in ARC
    if isinstance(rate := args["learning_rate"], str):
        try:
            args["learning_rate"] = float(rate)
        except ValueError:
            raise UserError(
                f"{where}.trainer_kwargs.learning_rate: must be a number, got {rate!r}"
            ) from None
    if "logging_steps" in (given.get("trainer_kwargs") or {}):
        args |= {"save_steps": args["logging_steps"], "eval_steps": args["logging_steps"]}
    stopping = given.get("early_stopping_kwargs") or {}
    args |= _known(
        stopping,
        ("early_stopping_patience", "early_stopping_threshold"),
        f"{where}.early_stopping_kwargs",
    )
    more = _by_loss(args) if kind == "full" else {}
    return (
        {f"trainer.args.{key}": value for key, value in args.items()} | more | _adapter(given, kind)
    )


def _by_loss(args: dict[str, Any]) -> dict[str, Any]:
    """A full job that keeps its best by `eval_loss`: the loss of rows that it was taught."""
    if args.get("metric_for_best_model") not in ("eval_loss", "loss"):
        return {}
    args |= {"metric_for_best_model": f"arc_{LOSS}", "greater_is_better": False}
    return {"eval": ["arc"], "eval.arc.metrics": [LOSS]}


def _adapter(given: dict[str, Any], kind: str) -> dict[str, Any]:
    """LoRA, fresh on the model that a job starts from: what forget jobs start from is a whole
    model, as in ARC."""
    own = given.get("peft_kwargs")
    if not own:
        return {}
    merged = {"model.merge_adapter": True} if kind == "full" else {}
    return {f"model.peft_args.{key}": value for key, value in own.items()} | merged
