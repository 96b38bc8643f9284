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


def layer_trainer(tree: DictConfig, choice: str | None) -> list[str]:
    """Put the layers of the trainer on one another, weakest first; give a sentence for each old
    name in them."""
    if "trainer" not in tree:
        return []
    base = _read_mapping(tree, "layers.base")
    common = _read_mapping(tree, "layers.common")
    all_tuned = _read_mapping(tree, "layers.tuned")
    own_tuned = OmegaConf.create({"tuned": all_tuned.get(choice or "")})
    layers = [
        {"args": base.get("args") or {}},
        {"args": common.get("args") or {}},
        _read_mapping(tree, "trainer"),
        _read_mapping(own_tuned, "tuned", f"layers.tuned.{choice}"),
    ]
    merged: Any = OmegaConf.create({"args": {}})
    notes: list[str] = []
    for layer in layers:
        args = _read_mapping(OmegaConf.create(layer), "args", "trainer.args")
        for folder in FOLDERS:
            args.pop(folder, None)
        args, layer_notes = training_args.translate_old_names(args)
        notes += layer_notes
        # Warm-up said in one way replaces a weaker layer's in another.
        if not args.keys().isdisjoint(training_args.WARMUPS):
            for name in training_args.WARMUPS:
                merged.args.pop(name, None)
        merged = OmegaConf.merge(merged, OmegaConf.create({**layer, "args": args}))
    tree.trainer = merged
    return notes


def _read_mapping(
    tree: DictConfig,
    key: str,
    label: str | None = None,
) -> dict[str, Any]:
    """Give the mapping at a key as plain values with their interpolations; empty where there is
    none.

    Args:
        tree: a composed tree.
        key: a dotted key.
        label: what a message calls it, where that is not the key.
    """
    try:
        node = OmegaConf.select(tree, key)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{label or key}: {reason}") from None
    if node is not None and not isinstance(node, DictConfig):
        raise UserError(f"{label or key}: must be a mapping, got {quote_value(node)}")
    return OmegaConf.to_container(node, resolve=False) if node else {}  # type: ignore[return-value]


def keep_one_warmup(tree: DictConfig, given: set[str]) -> None:
    """Let what the user says of warm-up replace what the files say of it in another way."""
    own_names = [name for name in training_args.WARMUPS if f"trainer.args.{name}" in given]
    if len(own_names) > 1:
        both = " and ".join(own_names)
        raise UserError(f"trainer.args: {both} say one thing in two ways; give one")
    if own_names and "trainer" in tree:
        for name in training_args.WARMUPS:
            tree.trainer.args.pop(name, None)


def choose_checkpoint(
    tree: DictConfig,
    choice: str | None,
    given: set[str],
) -> None:
    """Start a benchmark from its own checkpoint of the chosen model; one it does not know needs a
    path."""
    # ${data_split} is the user's, applied after this
    checkpoints = _read_mapping(tree, "layers.checkpoints")
    has_no_choice = choice in (None, "auto", "tiny")
    if not checkpoints or has_no_choice or MODEL_KEY in given:
        return
    if choice not in checkpoints:
        known = ", ".join(checkpoints)
        raise UserError(
            f"model={choice}: this experiment starts from a model that was taught its data and "
            f"knows such a checkpoint only for {known}; set {MODEL_KEY}=PATH to yours"
        )
    OmegaConf.update(tree, MODEL_KEY, checkpoints[choice], force_add=True)


def add_own_rows_suite(
    tree: DictConfig,
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
    eval_keys = [key for key in chosen if key == "eval" or key.startswith("eval.")]
    names_another = not all(key.startswith(f"eval.{OWN_ROWS}.") for key in eval_keys)
    has_suites = from_experiment and tree.get("eval")
    if data_choice != "files" or names_another or has_suites:
        return False
    suite = OmegaConf.load(CONFIGS / "eval" / f"{OWN_ROWS}.yaml")
    tree.eval = {OWN_ROWS: suite}
    return not eval_keys


def drop_unmeasurable_suite(plain: dict[str, Any]) -> None:
    """Take the suite of own rows out again, where what the method trains on has no answers that
    could be asked for."""
    trainer = plain.get("trainer")
    handler = trainer.get("handler") if isinstance(trainer, dict) else None
    if not isinstance(handler, str) or handler not in registry.method:
        return  # which is refused later
    method = registry.method.get(handler)
    if getattr(method, "ROWS", "answers") not in MEASURED_KINDS:
        plain["eval"] = {}
