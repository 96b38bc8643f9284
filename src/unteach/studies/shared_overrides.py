"""Which words of a study's command line reach which of its runs.

A word goes to every run that has its key: what is said of training reaches no evaluation, what is
said of suites no run that is not measured, and which model a study starts from no run that starts
from another one of it.
"""

from collections.abc import Iterable

from unteach.config import groups
from unteach.config.overrides import unquote
from unteach.config.references import is_place
from unteach.config.schema import MODEL_KEY, TOKENIZER_KEY

OF_TRAINING = ("trainer", "collator", "wandb")
"""Sections that an evaluation does not have: their words are for the runs that are trained."""
OF_THE_START = (
    MODEL_KEY,
    TOKENIZER_KEY,
    "model.peft_args",
    "model.added_tokens",
    "model.base_path",
    "model.merge_adapter",
)
"""Keys of the weights that a chain of runs begins with: what follows has its parent's."""


def section_of(word: str) -> str:
    """The first part of a word's key."""
    return word.lstrip("+~").partition("=")[0].partition(".")[0]


def without_training(words: Iterable[str]) -> tuple[str, ...]:
    """The words that an evaluation on a benchmark has a use for."""
    kept = (word for word in words if section_of(word) not in (*OF_TRAINING, "data"))
    return tuple(word for word in kept if not word.lstrip("+").startswith("model.merge_adapter="))


def without_suites(words: Iterable[str]) -> tuple[str, ...]:
    """The words that a run without an evaluation has a use for. `eval=NAME` among them gives it
    one."""
    given = tuple(words)
    if any(word.partition("=")[0] == "eval" for word in given):
        return given
    return tuple(word for word in given if section_of(word) != "eval")


def without_start(words: Iterable[str]) -> tuple[str, ...]:
    """The words for a run that starts from another one of the study, whose weights it has."""
    kept = list[str]()
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if any(key == start or key.startswith(f"{start}.") for start in OF_THE_START):
            continue
        name = unquote(value)
        is_weights = key == "model" and is_place(name) and name not in groups.list_options("model")
        kept.append("model=auto" if is_weights else word)
    return tuple(kept)
