"""The layers of configuration files: what a stronger one replaces, and which checkpoint a benchmark
starts from."""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unteach import registry
from unteach.config import training_args
from unteach.config.groups import CONFIGS
from unteach.config.schema import MODEL_KEY
from unteach.config.suites import MEASURED_KINDS, OWN_ROWS
from unteach.errors import UserError
from unteach.wording import quote_value

FOLDERS = ("output_dir", "logging_dir")
"""As OpenUnlearning's files have them among trainer.args; ours is paths.output_dir."""


def layer_trainer(tree: Any, choice: str | None) -> list[str]:
    """Puts the layers of the trainer on one another, weakest first; gives a sentence for each old
    name in them."""
    if "trainer" not in tree:
        return []
    layers = {name: _mapping(tree, f"layers.{name}") for name in ("base", "common", "tuned")}
    below = [
        {"args": layers["base"].get("args") or {}},
        {"args": layers["common"].get("args") or {}},
    ]
    merged: Any = OmegaConf.create({"args": {}})
    said: list[str] = []
    tuned = OmegaConf.create({"tuned": layers["tuned"].get(choice or "")})
    above = [_mapping(tree, "trainer"), _mapping(tuned, "tuned", f"layers.tuned.{choice}")]
    for layer in [*below, *above]:
        args = _mapping(OmegaConf.create(layer), "args", "trainer.args")
        args = {name: value for name, value in args.items() if name not in FOLDERS}
        args, notes = training_args.translate_old_names(args)
        said += notes
        if not args.keys().isdisjoint(training_args.WARMUPS):
            for name in training_args.WARMUPS:
                merged.args.pop(name, None)
        merged = OmegaConf.merge(merged, OmegaConf.create({**layer, "args": args}))
    tree.trainer = merged
    return said


def _mapping(tree: Any, key: str, called: str | None = None) -> dict[str, Any]:
    """The mapping at a key as plain values with their interpolations; empty where there is none."""
    try:
        node = OmegaConf.select(tree, key)
    except OmegaConfBaseException as error:
        raise UserError(f"{called or key}: {str(error).splitlines()[0]}") from None
    if node is not None and not isinstance(node, DictConfig):
        raise UserError(f"{called or key}: must be a mapping, got {quote_value(node)}")
    return OmegaConf.to_container(node, resolve=False) if node else {}  # type: ignore[return-value]


def keep_one_warmup(tree: Any, given: set[str]) -> None:
    """What the user says of warm-up replaces what the files say of it in another way."""
    said = [name for name in training_args.WARMUPS if f"trainer.args.{name}" in given]
    if len(said) > 1:
        raise UserError(f"trainer.args: {' and '.join(said)} say one thing in two ways; give one")
    if said and "trainer" in tree:
        for name in training_args.WARMUPS:
            tree.trainer.args.pop(name, None)


def choose_checkpoint(tree: Any, choice: str | None, given: set[str]) -> None:
    """A benchmark starts from its own checkpoint of the chosen model; one it does not know needs a
    path."""
    # ${data_split} is the user's, applied after this
    checkpoints = _mapping(tree, "layers.checkpoints")
    if not checkpoints or choice in (None, "auto", "tiny") or MODEL_KEY in given:
        return
    if choice not in checkpoints:
        known = ", ".join(checkpoints)
        raise UserError(
            f"model={choice}: this experiment starts from a model that was taught its data and "
            f"knows such a checkpoint only for {known}; set {MODEL_KEY}=PATH to yours"
        )
    OmegaConf.update(tree, MODEL_KEY, checkpoints[choice], force_add=True)


def add_own_rows_suite(
    tree: Any,
    data_choice: str | None,
    chosen: Iterable[str],
    from_experiment: bool,
) -> bool:
    """Give rows of the user's own the suite `rows`, where nobody names another; tells whether it
    did.

    Args:
        tree: the composed configuration.
        data_choice: the chosen file of the group `data`.
        chosen: what the user says: `eval` for a suite that is named, and keys of values.
        from_experiment: whether the suites may be an experiment's choice.
    """
    named = [key for key in chosen if key == "eval" or key.startswith("eval.")]
    others = [key for key in named if not key.startswith(f"eval.{OWN_ROWS}.")]
    if data_choice != "files" or others or (from_experiment and tree.get("eval")):
        return False
    tree.eval = {OWN_ROWS: OmegaConf.load(CONFIGS / "eval" / f"{OWN_ROWS}.yaml")}
    return not named


def drop_unmeasurable_suite(plain: dict[str, Any]) -> None:
    """Take the suite of own rows out again, where what the method trains on has no answers that
    could be asked for."""
    trainer = plain.get("trainer")
    handler = trainer.get("handler") if isinstance(trainer, dict) else None
    if not isinstance(handler, str) or handler not in registry.method:
        return  # which is refused later
    if getattr(registry.method.get(handler), "ROWS", "answers") not in MEASURED_KINDS:
        plain["eval"] = {}
