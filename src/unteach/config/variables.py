"""Names that commands set and files refer to (configs/variables.yaml): those a run uses, and what
goes together."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unteach.errors import UserError
from unteach.run_dir import UNUSED_VARIABLES
from unteach.wording import quote_value

TOFU_SPLITS = ("forget01", "forget05", "forget10")


def drop_unused(tree: dict[str, Any], given: set[str]) -> None:
    """Take the variables of benchmarks out of a composed tree in which nothing refers to them and
    nobody set them."""
    plain: Any = OmegaConf.to_container(tree, resolve=False)
    set_by_user = {key.partition(".")[0] for key in given}
    waiting = set(UNUSED_VARIABLES) & plain.keys()
    waiting -= set_by_user
    kept = dict(plain)
    for name in waiting:
        del kept[name]
    # A variable may refer to others, which are used then too.
    while used := {name for name in waiting if _refers(kept, name)}:
        waiting -= used
        for name in used:
            kept[name] = plain[name]
    for name in waiting:
        del tree[name]


def _refers(node: object, name: str) -> bool:
    """Whether a text within `node` holds an interpolation that names the variable."""
    if isinstance(node, dict):
        return any(_refers(value, name) for value in node.values())
    if isinstance(node, list):
        return any(_refers(value, name) for value in node)
    if not isinstance(node, str) or "${" not in node:
        return False
    return re.search(rf"\b{name}\b", node) is not None


def mend_compat(tree: DictConfig) -> None:
    """Refuse a `compat` that there is not; the suites, which refer to it, see none and do not
    refuse it again."""
    compat = tree.get("compat")
    if compat in (None, "openunlearning") or "${" in str(compat):
        return
    tree.compat = None
    raise UserError(
        f"compat: must be openunlearning (the published quirks) or null, got {quote_value(compat)}"
    )


def mend_split(tree: DictConfig) -> None:
    """Refuse a forget split whose partners are asked for and not known; what comes after it sees
    the nearest one."""
    plain: Any = OmegaConf.to_container(tree, resolve=False)
    split = plain.get("forget_split")
    partners = []
    for name in ("retain_split", "holdout_split"):
        if "${partner:" in str(plain.get(name)):
            partners.append(name)
    is_known = re.fullmatch(r"forget\d\d", str(split)) is not None
    if not partners or is_known or "${" in str(split):
        return
    guess = _nearest_split(str(split))
    tree.forget_split = guess or TOFU_SPLITS[-1]
    hint = f"did you mean {guess}? " if guess else ""
    published = ", ".join(TOFU_SPLITS)
    to_set = " and ".join(partners)
    raise UserError(
        f"forget_split={split}: {hint}TOFU has {published}; a split of your own has "
        f"no known partner: set {to_set} as well"
    )


def _nearest_split(name: str) -> str | None:
    """TOFU's split of the same share, however it is written: forget5, forget_05, 5%."""
    share = re.search(r"(\d+)%?$", name)
    if share is None:
        return None
    guess = f"forget{int(share[1]):02d}"
    return guess if guess in TOFU_SPLITS else None
