"""Old names, the one seed, the template's kind, caches and `compat`, each brought to where it is
read."""

from typing import Any

from unteach import console, registry
from unteach.config import schema
from unteach.config.overrides import RENAMED
from unteach.errors import UserError


def normalize_config(plain: dict[str, Any], values: list[tuple[str, Any]]) -> None:
    """Brings old names, the one seed, the template's kind and `compat` to where they are read."""
    model = plain.get("model")
    if isinstance(model, dict):
        _settle_model(model, plain.get("template"))
    trainer = plain.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("args"), dict | None):
        _settle_trainer(plain, trainer, dict(values))
    if isinstance(paths := plain.get("paths"), dict):
        _settle_caches(plain, paths)


def _settle_caches(plain: dict[str, Any], paths: dict[str, Any]) -> None:
    """`paths.model_cache_dir` and `paths.data_cache_dir` reach whatever loads from the hub and says
    nothing else."""
    model = plain.get("model")
    for section in (
        (model.get("model_args"), model.get("tokenizer_args")) if isinstance(model, dict) else ()
    ):
        if paths.get("model_cache_dir") and isinstance(section, dict) and section.get(schema.PATH):
            section.setdefault("cache_dir", paths["model_cache_dir"])

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, item in node.items():
                if key in ("hf_args", "few_shot_dataset_hf_args") and isinstance(item, dict):
                    item.setdefault("cache_dir", paths["data_cache_dir"])
                walk(item)

    if paths.get("data_cache_dir"):
        walk({key: plain.get(key) for key in ("data", "eval")})


def _settle_model(model: dict[str, Any], template: Any) -> None:
    if template and isinstance(model.setdefault("template_args", {}), dict):
        model["template_args"]["kind"] = template
    for old, new in RENAMED.items():
        section = model.get(old.split(".")[1])
        if isinstance(section, dict) and (name := old.split(".")[2]) in section:
            section.setdefault(new.split(".")[2], section[name])
            del section[name]


def _settle_trainer(plain: dict[str, Any], trainer: dict[str, Any], given: dict[str, Any]) -> None:
    args = trainer["args"] = trainer.get("args") or {}
    if not plain.get("eval") and not schema.holds_out(plain.get("data")):
        if args.get("eval_strategy", "no") != "no" and "trainer.args.eval_strategy" in given:
            console.say(
                "note: trainer.args.eval_strategy has nothing to run: this run has no suite "
                "(eval=null) and no rows held out (data.validation)"
            )
        args |= {"eval_strategy": "no", "eval_on_start": False}
    if "seed" in args:
        asked = args.pop("seed")
        if {"seed", "trainer.args.seed"} <= given.keys() and asked != plain.get("seed"):
            raise UserError(
                "seed and trainer.args.seed are one value, and two different ones were given; give "
                "one"
            )
        plain["seed"] = given.get("seed", asked)
    if "resume_from_checkpoint" in args:
        asked = args.pop("resume_from_checkpoint")
        meant = (
            {True: "auto", False: "never"}.get(asked, asked) if isinstance(asked, bool) else asked
        )
        plain["resume"] = plain.get("resume", "auto") if meant is None else meant
    handler, method_args = trainer.get("handler"), trainer.get("method_args") or {}
    if (
        plain.get("compat")
        and isinstance(handler, str)
        and handler in registry.method
        and isinstance(method_args, dict)
    ):
        quirks = getattr(registry.method.get(handler), "QUIRKS", {})
        trainer["method_args"] = {**quirks, **method_args}
