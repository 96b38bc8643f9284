"""Names that commands set and files refer to (configs/variables.yaml): those a run uses, and what
goes together."""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from unteach.errors import UserError
from unteach.run_dir import UNUSED_VARIABLES
from unteach.wording import quote_value

TOFU_SPLITS = ("forget01", "forget05", "forget10")


def drop_unused(tree: DictConfig, unresolved: dict[str, Any], given: set[str]) -> None:
    """Take the variables of benchmarks out of a composed tree in which nothing refers to them and
    nobody set them.

    Args:
        unresolved: the tree's plain values, with their interpolations.
        given: the keys that the user sets.
    """
    set_by_user = {key.partition(".")[0] for key in given}
    waiting = set(UNUSED_VARIABLES) & unresolved.keys()
    waiting -= set_by_user
    referring = {key: list(_list_referring(value)) for key, value in unresolved.items()}
    kept_texts: list[str] = []
    for key, texts in referring.items():
        if key not in waiting:
            kept_texts += texts
    # A variable may refer to others, which are used then too.
    while used := {name for name in waiting if _is_named(name, kept_texts)}:
        waiting -= used
        for name in used:
            kept_texts += referring[name]
    for name in waiting:
        del tree[name]


def _list_referring(node: object) -> Iterator[str]:
    """List the texts within `node` that hold an interpolation."""
    if isinstance(node, dict):
        for value in node.values():
            yield from _list_referring(value)
    elif isinstance(node, list):
        for value in node:
            yield from _list_referring(value)
    elif isinstance(node, str) and "${" in node:
        yield node


def _is_named(name: str, texts: list[str]) -> bool:
    return any(re.search(rf"\b{name}\b", text) for text in texts)


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


def mend_split(tree: DictConfig, unresolved: dict[str, Any]) -> None:
    """Refuse a forget split whose partners are asked for and not known; what comes after it sees
    the nearest one.

    Args:
        tree: a composed tree.
        unresolved: its plain values, with their interpolations.
    """
    split = unresolved.get("forget_split")
    partners = []
    for name in ("retain_split", "holdout_split"):
        if "${partner:" in str(unresolved.get(name)):
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
