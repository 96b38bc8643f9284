"""From command-line words to a checked Config: Hydra composes the groups, we apply the values and check the whole tree.

Who wins, weakest first: the base trainer (`layers.base`), the experiment's common arguments (`layers.common`), the
method's own file (`trainer=`), the experiment's block for that method (`layers.tuned.<method>`), the user's values.
Values are applied after composition, so a key of the schema never needs `+`.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from unteach import layering, plugins, reading, registry, schema, training_args
from unteach.errors import UserError, nearest, unknown

CONFIGS = Path(__file__).parent / "configs"
PARTIAL = {"variables", "base_trainer"}
"""Files beside the primary configs that only complete them."""
GROUPS = {"model", "trainer", "data", "collator", "eval", "paths", "experiment"}
RENAMED = {
    "model.model_args.torch_dtype": "model.model_args.dtype",
    "model.template_args.asst_tag": "model.template_args.asst_start_tag",
}
T = TypeVar("T")
ANSWERS = {"experiment": "unteach list experiments", "model": "unteach list models", "trainer": "unteach list methods"}


@dataclass
class Words:
    """The words of a command line, sorted by what they do."""

    groups: list[str]
    values: list[tuple[str, Any]]
    removed: list[str]
    eval_off: bool = False
    said: list[str] = field(default_factory=list)
    """a sentence for each old name among the values"""

    def keys(self) -> set[str]:
        return {key for key, _ in self.values}


def compose(config_name: str, overrides: Iterable[str] = (), config_dirs: Iterable[str] = ()) -> schema.Config:
    """Composes `configs/<config_name>.yaml` with the overrides and reads it strictly.

    Raises UserError with every mistake found. Needs no torch.
    """
    return composed(config_name, overrides, config_dirs, reading.read)


def composed(
    config_name: str,
    overrides: Iterable[str],
    config_dirs: Iterable[str],
    read: Callable[[dict[str, Any], set[str]], T],
) -> T:
    """The same for a tree that `read` reads, given the resolved tree and the names that files declare for it."""
    words = sort_words(overrides)
    homes = (*config_dirs, *map(str, plugins.config_folders()))
    with plugins.of_files(path for key, value in words.values if key == "plugins" for path in plugins.named(value)):
        bare = _bare_method(words, homes)
    tree, choices = _hydra(config_name.removesuffix(".yaml"), words, homes)
    if bare:
        tree.trainer, choices["trainer"] = {"handler": bare}, bare
    variables = {
        name for name in tree if name not in ("layers", "trainer", "data", "model", "eval", "collator", "paths")
    }
    if words.eval_off:
        tree.eval = {}
    said = layering.layer_trainer(tree, choices.get("trainer")) + words.said
    layering.choose_checkpoint(tree, choices.get("model"), words.keys())
    tree.pop("layers", None)
    for name in words.removed:
        _remove(tree, name)
    layering.one_warmup(tree, words.keys())
    _apply(tree, words.values)
    problems = _missing(tree)
    if problems:
        raise UserError(reading.mistakes(problems))
    plain = _resolve(tree)
    for sentence in dict.fromkeys(said):
        print(f"note: {sentence}")
    with plugins.of_files(plugins.named(plain.get("plugins"))):
        _settle(plain, words.values)
        return read(plain, variables)


def _bare_method(words: Words, homes: tuple[str, ...]) -> str | None:
    """`trainer=X` where no file says more of X than that it is a method: its name, taken out of the words."""
    for word in words.groups:
        key, _, name = word.partition("=")
        if key == "trainer" and name not in options("trainer", homes) and name in registry.method:
            words.groups.remove(word)
            return name
    return None


def sort_words(overrides: Iterable[str]) -> Words:
    """Splits overrides into group choices (Hydra's work) and values (ours), and mends the short forms."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, words = OverridesParser.create(), Words([], [], [])
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException:
            raise UserError(_unreadable(word)) from None
        key = override.key_or_group
        if override.is_sweep_override():
            raise UserError(f"{word!r} asks for several runs: put them under `vary` in a study (unteach study …)")
        value = None if override.is_delete() else override.value()
        stream = re.fullmatch(r"data\.(\w+)", key)
        if not key:
            raise UserError(_unreadable(word))
        if key.startswith(("hydra.", "hydra/")):
            raise UserError(f"{word!r}: a run's folder is paths.output_dir; unteach uses Hydra for composition only")
        if key.partition(".")[0] == "layers":
            raise UserError(
                f"{word!r}: layers are for configuration files; set trainer.args.… or trainer.method_args.…"
            )
        if key == "eval" and value is None and not override.is_delete():
            words.eval_off = True
        elif key == "experiment" and value is None:
            continue
        elif value is None and (override.is_delete() or key in GROUPS):
            words.removed.append(key)
        elif stream and _names(value) and stream[1] not in ("anchor", *schema.FILE_KEYS, *schema.RENAMED_FILE_KEYS):
            words.groups.append(f"data/datasets@data.{stream[1]}={str(value).replace(chr(39), '')}")
        elif override.package is not None or key in GROUPS or "/" in key:
            if not _names(value):
                raise UserError(f"{word}: takes a name, of {', '.join(options(key)) or 'a file of that group'}")
            words.groups.append(re.sub(r"\.yaml$", "", word.lstrip("+")))
        else:
            _add_value(words, key, value)
    return words


def _names(value: Any) -> bool:
    """Whether a value names a file of a group, or several."""
    many = value if isinstance(value, list) else [value]
    return bool(many) and all(isinstance(name, str) for name in many)


def _unreadable(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals and re.fullmatch(r"[\w.@/+]+", key) and not re.search(r"^[\[{]|['\"]", value):
        return f"cannot read {word!r}: put the value in quotes, and all of it in others: \"{key}='{value}'\""
    return f"cannot read {word!r}: write key=value, with every bracket and quote closed"


def _add_value(words: Words, key: str, value: Any) -> None:
    """Adds a value under today's name of its key."""
    section, _, name = key.rpartition(".")
    if section == "trainer.args":
        current, said = training_args.modernise({name: value})
        words.values += [(f"trainer.args.{new}", item) for new, item in current.items()]
        words.said += said
        return
    if key in RENAMED:
        words.said.append(f"{key} is called {RENAMED[key].rpartition('.')[2]} now")
    words.values.append((RENAMED.get(key, key), value))


def _hydra(config_name: str, words: Words, config_dirs: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from yaml import YAMLError

    _resolvers()
    primary = sorted({file.stem for home in (CONFIGS, *map(Path, config_dirs)) for file in home.glob("*.yaml")})
    if config_name not in primary:
        raise UserError(unknown("config name", config_name, [name for name in primary if name not in PARTIAL]))
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose(
                config_name, overrides=[*words.groups, *search_path(config_dirs)], return_hydra_config=True
            )
    except HydraException as error:
        absent = re.match(r"Could not override '(data/datasets@data\.\w+)'", str(error))
        if absent and f"+{absent[1]}" not in "".join(words.groups):  # a stream that no file has
            groups = [f"+{word}" if word.startswith(f"{absent[1]}=") else word for word in words.groups]
            return _hydra(config_name, replace(words, groups=groups), config_dirs)
        raise UserError(_said_plainly(str(error), words.groups, config_dirs)) from None
    except (YAMLError, OSError, ValueError, TypeError) as error:
        raise UserError(f"a configuration file cannot be read: {' '.join(str(error).split())}") from None
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return composed, choices


def search_path(config_dirs: tuple[str, ...]) -> list[str]:
    """Hydra's word for folders that join the shipped groups."""
    folders = ",".join(f"file://{Path(folder).resolve()}" for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if folders else []


def _resolvers() -> None:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("partner", partner, replace=True)


def partner(kind: str, forget_split: Any) -> str:
    """The partner of a TOFU forget split: partner("retain", "forget05") is "retain95", "holdout" gives "holdout05"."""
    found = re.fullmatch(r"forget(\d\d)", str(forget_split))
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
        key = key.lstrip("+")
        group = key.partition("@")[0]
        for name in chosen.strip("[]").split(","):
            allowed = options(group, config_dirs)
            if allowed and name not in allowed:
                kind = {"data/datasets": "dataset", "eval": "suite", "trainer": "method"}.get(group, group)
                file = nearest(key.rpartition("data.")[2], schema.FILE_KEYS) if kind == "dataset" else None
                also = f"; or did you mean data.{file}?" if file else ""
                return f"{key}={name}: " + unknown(kind, name, allowed) + also
    where = f" ({ANSWERS[groups[0].partition('=')[0]]})" if groups and groups[0].partition("=")[0] in ANSWERS else ""
    return re.split("\nSet the environment|\n+Config search path", message)[0].strip() + where


def flat(cls: type, words: Iterable[str], where: str) -> Any:
    """key=value words of a verb that composes nothing, as the dataclass `cls`; read as strictly as a configuration."""
    from omegaconf import OmegaConf

    told = sort_words(words)
    if told.groups or told.removed:
        raise UserError(f"{where}: takes key=value words, not {', '.join([*told.groups, *told.removed])}")
    tree = OmegaConf.create({})
    _apply(tree, told.values)
    reader = reading.Reader()
    read = reader.record(cls, OmegaConf.to_container(tree), "")
    if reader.problems:
        raise UserError(f"{where}: {reading.mistakes(reader.problems)}")
    return read


def _remove(tree: Any, key: str) -> None:
    from omegaconf import DictConfig, OmegaConf

    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig) or leaf not in node:
        raise UserError(f"~{key}: there is no such key to remove")
    del node[leaf]


def _apply(tree: Any, values: list[tuple[str, Any]]) -> None:
    from omegaconf import DictConfig, ListConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in values:
        try:
            OmegaConf.update(tree, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            there = OmegaConf.select(tree, key, throw_on_missing=False)
            why = f"cannot be set ({str(error).splitlines()[0]})"
            if isinstance(there, DictConfig | ListConfig):
                why = "must be a mapping" if isinstance(there, DictConfig) else "must be a list"
            raise UserError(f"{key}: {why}, got {value}") from None


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
    except (OmegaConfBaseException, RecursionError) as error:
        said = str(error).splitlines()[0]
        of_ours, _, refused = said.rpartition("UserError raised while resolving interpolation: ")
        if of_ours or refused != said:
            raise UserError(refused) from None
        absent = re.search(r"'(.*)'", said) if isinstance(error, InterpolationKeyError) else None
        guess = nearest(absent[1], map(str, tree)) if absent else None
        key = getattr(error, "full_key", None)
        said = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", said)
        raise UserError((f"{key}: " if key else "") + said + (f"; did you mean {guess}?" if guess else "")) from None
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def _settle(plain: dict[str, Any], values: list[tuple[str, Any]]) -> None:
    """Brings old names, the one seed, the template's kind and `compat` to where they are read."""
    model = plain.get("model")
    if isinstance(model, dict):
        _settle_model(model, plain.get("template"))
    if plain.get("compat") not in (None, "openunlearning"):
        raise UserError(f"compat: must be openunlearning (the published quirks) or null, got {plain['compat']!r}")
    trainer = plain.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("args"), dict | None):
        _settle_trainer(plain, trainer, dict(values))
    if isinstance(paths := plain.get("paths"), dict):
        _settle_caches(plain, paths)


def _settle_caches(plain: dict[str, Any], paths: dict[str, Any]) -> None:
    """`paths.model_cache_dir` and `paths.data_cache_dir` reach whatever loads from the hub and says nothing else."""
    model, name = plain.get("model"), "pretrained_model_name_or_path"
    for section in (model.get("model_args"), model.get("tokenizer_args")) if isinstance(model, dict) else ():
        if paths.get("model_cache_dir") and isinstance(section, dict) and section.get(name):
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
            print("note: trainer.args.eval_strategy has nothing to run: this run has no suite (eval=null) and no rows "
                  "held out (data.validation)")  # fmt: skip
        args |= {"eval_strategy": "no", "eval_on_start": False}
    if "seed" in args:
        asked = args.pop("seed")
        if {"seed", "trainer.args.seed"} <= given.keys() and asked != plain.get("seed"):
            raise UserError("seed and trainer.args.seed are one value, and two different ones were given; give one")
        plain["seed"] = given.get("seed", asked)
    if "resume_from_checkpoint" in args:
        asked = args.pop("resume_from_checkpoint")
        meant = {True: "auto", False: "never"}.get(asked, asked) if isinstance(asked, bool) else asked
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
