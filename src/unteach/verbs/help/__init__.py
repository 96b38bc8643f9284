"""What `unteach VERB --help` prints: a text file for each verb, 80 columns wide.

Defaults are not written into the texts. `{trainer.args.learning_rate}` stands for the value that
the shipped configuration has, and `{include NAME}` alone on a line for the text NAME.txt. Needs no
torch and no Hydra.
"""

import functools
import re
from pathlib import Path
from typing import Any

from unteach.strict_yaml import read_yaml

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
LAYERS = {
    "trainer.args": ("base_trainer.yaml", "layers.base.args"),
    "data": ("data/files.yaml", ""),
    "paths": ("paths/default.yaml", ""),
    "infer": ("infer.yaml", ""),
    "eval.rows": ("eval/rows.yaml", ""),
    "eval.tofu": ("eval/tofu.yaml", ""),
    "": ("variables.yaml", ""),
}
"""Where the default of a key stands, by the beginning of its name: the file, and the section in
it."""


def show_help(verb: str) -> str:
    """The help of a verb, with the defaults that hold today."""
    text = (HERE / f"{verb}.txt").read_text(encoding="utf-8")
    text = re.sub(
        r"^\{include (\w+)\}\n",
        lambda match: (HERE / f"{match[1]}.txt").read_text("utf-8"),
        text,
        flags=re.M,
    )
    return re.sub(r"\{([a-z_.]+)\}", lambda match: find_default(match[1]), text)


def find_default(key: str) -> str:
    """The default of a key as it is written on the command line. Raises KeyError where no shipped
    file has the key."""
    section = next(name for name in LAYERS if key.startswith(f"{name}.") or not name)
    file, place = LAYERS[section]
    value = _read(file)
    for name in (*filter(None, place.split(".")), *key.removeprefix(f"{section}.").split(".")):
        value = value[name]
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@functools.cache
def _read(file: str) -> Any:
    return read_yaml(CONFIGS / file)
