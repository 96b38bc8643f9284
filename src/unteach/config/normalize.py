"""Bring old names, the seed, the template's kind, caches and `compat` to where they are read."""

from collections.abc import Iterator
from typing import Any

from unteach import registry
from unteach.config.overrides import RENAMED
from unteach.config.schema import PATH, has_held_out_rows
from unteach.errors import UserError

HUB_ARGUMENTS = ("hf_args", "few_shot_dataset_hf_args")
"""Mappings that are given to `datasets.load_dataset`."""


def normalize_config(
    plain: dict[str, Any],
    values: list[tuple[str, Any]],
) -> list[str]:
    """Normalize a resolved tree in place; give what there is to say about it.

    Args:
        plain: the tree, whose sections need not be well-formed yet.
        values: what the user set, by dotted key.

    Raises:
        UserError: where one thing is said in two ways that differ.
    """
    notes: list[str] = []
    model = plain.get("model")
    if isinstance(model, dict):
        _normalize_model(model, plain.get("template"))
    trainer = plain.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("args"), dict | None):
        args = trainer.get("args") or {}
        trainer["args"] = args
        given = dict(values)
        notes += _switch_off_idle_evaluation(plain, args, given)
        _unite_seeds(plain, args, given)
        _move_resume(plain, args)
        if plain.get("compat"):
            _add_quirks(trainer)
    paths = plain.get("paths")
    if isinstance(paths, dict):
        _spread_caches(plain, paths)
    return notes


def _normalize_model(model: dict[str, Any], template: object) -> None:
    """Bring the template's kind and the old names of a model's keys to where they are read."""
    if template:
        template_args = model.setdefault("template_args", {})
        if isinstance(template_args, dict):
            template_args["kind"] = template
    for old, new in RENAMED.items():
        _, section_name, old_name = old.split(".")
        new_name = new.rpartition(".")[2]
        section = model.get(section_name)
        if isinstance(section, dict) and old_name in section:
            value = section.pop(old_name)
            section.setdefault(new_name, value)


def _switch_off_idle_evaluation(
    plain: dict[str, Any],
    args: dict[str, Any],
    given: dict[str, Any],
) -> list[str]:
    """Evaluate nothing while training where a run has no suite and holds no rows out."""
    if plain.get("eval") or has_held_out_rows(plain.get("data")):
        return []
    is_asked_for = args.get("eval_strategy", "no") != "no"
    args["eval_strategy"] = "no"
    args["eval_on_start"] = False
    if is_asked_for and "trainer.args.eval_strategy" in given:
        return [
            "trainer.args.eval_strategy has nothing to run: this run has no suite (eval=null) and "
            "no rows held out (data.validation)"
        ]
    return []


def _unite_seeds(
    plain: dict[str, Any],
    args: dict[str, Any],
    given: dict[str, Any],
) -> None:
    """Make `seed` and `trainer.args.seed` one value; the user's own wins."""
    if "seed" not in args:
        return
    seed = args.pop("seed")
    has_both = "seed" in given and "trainer.args.seed" in given
    if has_both and seed != plain.get("seed"):
        raise UserError(
            "seed and trainer.args.seed are one value, and two different ones were given; give one"
        )
    plain["seed"] = given.get("seed", seed)


def _move_resume(plain: dict[str, Any], args: dict[str, Any]) -> None:
    """Move what transformers calls resume_from_checkpoint to `resume`."""
    if "resume_from_checkpoint" not in args:
        return
    value = args.pop("resume_from_checkpoint")
    if isinstance(value, bool):
        value = "auto" if value else "never"
    if value is None:
        value = plain.get("resume", "auto")
    plain["resume"] = value


def _add_quirks(trainer: dict[str, Any]) -> None:
    """Set the published quirks of the method, where the user says nothing else."""
    handler = trainer.get("handler")
    if not isinstance(handler, str) or handler not in registry.method:
        return
    method_args = trainer.get("method_args") or {}
    if isinstance(method_args, dict):
        method = registry.method.get(handler)
        quirks = getattr(method, "QUIRKS", {})
        trainer["method_args"] = {**quirks, **method_args}


def _spread_caches(plain: dict[str, Any], paths: dict[str, Any]) -> None:
    """Let `paths.model_cache_dir` and `paths.data_cache_dir` reach whatever loads from the hub and
    says nothing else."""
    model = plain.get("model")
    model_cache = paths.get("model_cache_dir")
    data_cache = paths.get("data_cache_dir")
    if model_cache and isinstance(model, dict):
        for name in ("model_args", "tokenizer_args"):
            section = model.get(name)
            if isinstance(section, dict) and section.get(PATH):
                section.setdefault("cache_dir", model_cache)
    if data_cache:
        sections = [plain.get("data"), plain.get("eval")]
        for hub_arguments in _find_hub_arguments(sections):
            hub_arguments.setdefault("cache_dir", data_cache)


def _find_hub_arguments(node: object) -> Iterator[dict[str, Any]]:
    """Find every mapping of arguments of `datasets.load_dataset` within a section."""
    if isinstance(node, list):
        for item in node:
            yield from _find_hub_arguments(item)
    elif isinstance(node, dict):
        for key, item in node.items():
            if key in HUB_ARGUMENTS and isinstance(item, dict):
                yield item
            yield from _find_hub_arguments(item)
