"""From command-line words to a checked Config: Hydra composes the groups, we apply the values and check the whole tree.

Who wins, weakest first: the base trainer (`layers.base`), the experiment's common arguments (`layers.common`), the
method's own file (`trainer=`), the experiment's block for that method (`layers.tuned.<method>`), the user's values.
Values are applied after composition, so a key of the schema never needs `+`.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unteach import registry, schema, training_args
from unteach.errors import UserError, nearest, unknown

CONFIGS = Path(__file__).parent / "configs"
PARTIAL = {"variables", "base_trainer"}
"""Files beside the primary configs that only complete them."""
GROUPS = {"model", "trainer", "data", "collator", "eval", "paths", "experiment"}
ANSWERS = {"experiment": "unteach list experiments", "model": "unteach list models", "trainer": "unteach list methods"}


@dataclass
class Words:
    """The words of a command line, sorted by what they do."""

    groups: list[str]
    values: list[tuple[str, Any]]
    removed: list[str]
    eval_off: bool = False


def compose(config_name: str, overrides: Iterable[str] = (), config_dirs: Iterable[str] = ()) -> schema.Config:
    """Composes `configs/<config_name>.yaml` with the overrides and reads it strictly.

    Raises UserError with every mistake found. Needs no torch.
    """
    words = sort_words(overrides)
    tree, choices = _hydra(config_name.removesuffix(".yaml"), words, tuple(config_dirs))
    variables = {
        name for name in tree if name not in ("layers", "trainer", "data", "model", "eval", "collator", "paths")
    }
    for name in words.removed:
        _remove(tree, name)
    if words.eval_off:
        tree.eval = {}
    _layer_trainer(tree, choices.get("trainer"))
    _choose_checkpoint(tree, choices.get("model"), {key for key, _ in words.values})
    _apply(tree, words.values)
    tree.pop("layers", None)
    problems = _missing(tree)
    if problems:
        raise UserError(schema.mistakes(problems))
    plain = _resolve(tree)
    _settle(plain, words.values)
    return schema.read(plain, variables)


def sort_words(overrides: Iterable[str]) -> Words:
    """Splits overrides into group choices (Hydra's work) and values (ours), and mends the short forms."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, words = OverridesParser.create(), Words([], [], [])
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            raise UserError(
                f"cannot read {word!r}: write key=value, and quote what is not plain ({str(error).splitlines()[0]})"
            ) from None
        key = override.key_or_group
        if override.is_sweep_override():
            raise UserError(f"{word!r} asks for several runs: put them under `vary` in a study (unteach study …)")
        value = None if override.is_delete() else override.value()
        stream = re.fullmatch(r"data\.(\w+)", key)
        if override.is_delete():
            words.removed.append(key)
        elif key == "eval" and value is None:
            words.eval_off = True
        elif stream and isinstance(value, str) and stream[1] != "anchor":
            words.groups.append(f"data/datasets@data.{stream[1]}={value}")
        elif override.package is not None or key in GROUPS or "/" in key:
            words.groups.append(re.sub(r"\.yaml$", "", word.lstrip("+")))
        elif key.startswith("hydra."):
            raise UserError(f"{word!r}: a run's folder is paths.output_dir; unteach uses Hydra for composition only")
        else:
            words.values.append((key, value))
    return words


def _hydra(config_name: str, words: Words, config_dirs: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    _resolvers()
    primary = sorted({file.stem for home in (CONFIGS, *map(Path, config_dirs)) for file in home.glob("*.yaml")})
    if config_name not in primary:
        raise UserError(unknown("config name", config_name, [name for name in primary if name not in PARTIAL]))
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
    search = [f"hydra.searchpath=[{','.join(f'file://{Path(folder).resolve()}' for folder in config_dirs)}]"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose(
                config_name, overrides=[*words.groups, *(search if config_dirs else [])], return_hydra_config=True
            )
    except HydraException as error:
        raise UserError(_said_plainly(str(error), words.groups, config_dirs)) from None
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return composed, choices


def _resolvers() -> None:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("partner", partner, replace=True)


def partner(kind: str, forget_split: str) -> str:
    """The partner of a TOFU forget split: partner("retain", "forget05") is "retain95", "holdout" gives "holdout05"."""
    found = re.fullmatch(r"forget(\d\d)", forget_split)
    if not found:
        raise UserError(f"forget_split={forget_split}: it has no known partner; set {kind}_split as well")
    share = int(found[1])
    return f"retain{100 - share:02d}" if kind == "retain" else f"{kind}{share:02d}"


def options(group: str, config_dirs: Iterable[str] = ()) -> list[str]:
    """The names that `group=` takes, of this package and of the user's folders."""
    homes = [CONFIGS / group, *(Path(folder) / group for folder in config_dirs)]
    return sorted({str(f.relative_to(home).with_suffix("")) for home in homes for f in home.rglob("*.yaml")})


def _said_plainly(message: str, groups: list[str], config_dirs: tuple[str, ...]) -> str:
    """Hydra's composition error without its advice, and with the nearest right name."""
    for word in groups:
        key, _, chosen = word.partition("=")
        group = key.partition("@")[0]
        for name in chosen.strip("[]").split(","):
            allowed = options(group, config_dirs)
            if allowed and name not in allowed:
                kind = {"data/datasets": "dataset", "eval": "suite", "trainer": "method"}.get(group, group)
                return f"{key}={name}: " + unknown(kind, name, allowed)
    where = f" ({ANSWERS[groups[0].partition('=')[0]]})" if groups and groups[0].partition("=")[0] in ANSWERS else ""
    return re.split("\nSet the environment|\n+Config search path", message)[0].strip() + where


def _remove(tree: Any, key: str) -> None:
    from omegaconf import OmegaConf

    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if node is None or leaf not in node:
        raise UserError(f"~{key}: there is no such key to remove")
    del node[leaf]


def _layer_trainer(tree: Any, choice: str | None) -> None:
    """Puts the layers of the trainer on one another, weakest first."""
    from omegaconf import OmegaConf

    layers = tree.get("layers") or {}
    if "trainer" not in tree:
        return
    tuned = (layers.get("tuned") or {}).get(choice or "") or {}
    below = [{"args": layer.get("args") or {}} for name in ("base", "common") if (layer := layers.get(name))]
    tree.trainer = (
        OmegaConf.unsafe_merge(*below, tree.trainer, tuned) if below else OmegaConf.merge(tree.trainer, tuned)
    )


def _choose_checkpoint(tree: Any, choice: str | None, given: set[str]) -> None:
    """A benchmark starts from its own checkpoint of the chosen model; one it does not know needs a path."""
    checkpoints = (tree.get("layers") or {}).get("checkpoints")
    key = "model.model_args.pretrained_model_name_or_path"
    if not checkpoints or choice in (None, "auto", "tiny") or key in given:
        return
    if choice not in checkpoints:
        known = ", ".join(checkpoints)
        raise UserError(
            f"model={choice}: this experiment starts from a model that was taught its data and knows such a checkpoint "
            f"only for {known}; set {key}=PATH to yours"
        )
    tree.model.model_args.pretrained_model_name_or_path = checkpoints[choice]


def _apply(tree: Any, values: list[tuple[str, Any]]) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in values:
        try:
            OmegaConf.update(tree, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            raise UserError(f"{key}={value}: cannot be set ({str(error).splitlines()[0]})") from None


def _missing(tree: Any) -> list[str]:
    """One line for each required value that nobody gave."""
    from omegaconf import OmegaConf

    def walk(node: Any, path: str) -> list[str]:
        if isinstance(node, dict):
            return [key for name, item in node.items() for key in walk(item, f"{path}.{name}" if path else str(name))]
        return [path] if node == "???" else []

    told = {"task_name": ": names the run's folder saves/<mode>/<task_name>"}
    keys = walk(OmegaConf.to_container(tree, resolve=False), "")
    return [f"{key}: is required{told.get(key, '')}; set {key}=…" for key in keys]


def _resolve(tree: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(tree, resolve=True)
    except InterpolationKeyError as error:
        name = str(error.msg if hasattr(error, "msg") else error).splitlines()[0]
        guess = nearest(name.split("'")[1], tree) if "'" in name else None
        raise UserError(f"{error.full_key}: {name}" + (f"; did you mean {guess}?" if guess else "")) from None
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise UserError(said.partition("UserError raised while resolving interpolation: ")[2] or said) from None
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def _settle(plain: dict[str, Any], values: list[tuple[str, Any]]) -> None:
    """Brings old names, the one seed, the template's kind and `compat` to where they are read."""
    if template := plain.get("template"):
        plain["model"].setdefault("template_args", {})["kind"] = template
    template_args = (plain.get("model") or {}).get("template_args") or {}
    if "asst_tag" in template_args:
        template_args["asst_start_tag"] = template_args.pop("asst_tag")
    model_args = (plain.get("model") or {}).get("model_args") or {}
    if "torch_dtype" in model_args:
        model_args["dtype"] = model_args.pop("torch_dtype")
    trainer = plain.get("trainer")
    if isinstance(trainer, dict):
        _settle_trainer(plain, trainer, dict(values))


def _settle_trainer(plain: dict[str, Any], trainer: dict[str, Any], given: dict[str, Any]) -> None:
    trainer["args"], said = training_args.modernise(trainer.get("args") or {})
    for sentence in said:
        print(f"note: {sentence}")
    args = trainer["args"]
    if "seed" in given and given.get("trainer.args.seed", given["seed"]) != given["seed"]:
        raise UserError("seed and trainer.args.seed are one value, and two different ones were given; give one")
    if "seed" in args:
        plain["seed"] = given.get("seed", args.pop("seed"))
        args.pop("seed", None)
    if "resume_from_checkpoint" in args:
        asked = args.pop("resume_from_checkpoint")
        plain["resume"] = {True: "auto", False: "never", None: plain.get("resume", "auto")}.get(asked, asked)
    handler = trainer.get("handler")
    if plain.get("compat") and isinstance(handler, str) and handler in registry.method:
        quirks = getattr(registry.method.get(handler), "QUIRKS", {})
        trainer["method_args"] = {**quirks, **(trainer.get("method_args") or {})}


def to_yaml(tree: dict[str, Any]) -> str:
    """The resolved tree as it is kept in a run's folder."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def environment() -> None:
    """What must stand in the environment before torch is imported; values that the user set are left alone."""
    for name, value in {
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning OpenMP threads make shared cores 30 times slower
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():
        os.environ.setdefault(name, value)
