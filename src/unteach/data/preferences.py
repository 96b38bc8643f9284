"""Datasets of preferences: a chosen and a rejected answer to each prompt, or answers that were liked or not."""

from dataclasses import dataclass
from typing import Any

from unteach.data.chats import ASSISTANT, as_messages, encode_chat
from unteach.data.datasets import Example, RowDataset, example_of
from unteach.data.template import Encoded
from unteach.errors import UserError
from unteach.registry import dataset
from unteach.seeds import permutation

LIKED = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
"""What a cell may say, in any case, of an answer that was liked or not."""


@dataclass
class _Asked(RowDataset):
    """Rows with a prompt, asked through the model's template."""

    max_length: int = 1024

    def answered(self, prompt: str, answer: str, number: int) -> Example | None:
        return self.usable(self.template.encode(prompt, answer, max_length=self.max_length), number)


@dataset
@dataclass
class PreferenceDataset(_Asked):
    """Prompts, each with a chosen and a rejected answer: for PrefDPO, CPO, SimPO and ORPO.

    All three are text, or lists of {role, content}. prompt_key null: chosen and rejected are whole conversations that
    differ in their last turn.
    """

    prompt_key: str | None = "prompt"
    chosen_key: str = "chosen"
    rejected_key: str = "rejected"

    def __post_init__(self) -> None:
        keys = [key for key in (self.prompt_key, self.chosen_key, self.rejected_key) if key]
        pairs = []
        for number, cells in enumerate(self.load(*keys)):
            if self.prompt_key is None or any(isinstance(cell, list) for cell in cells):
                if conversations := self._conversations(number, *(() if self.prompt_key else ([],)), *cells):
                    pairs.append((number, conversations))
            elif self.faults.texts(cells, keys, number):
                pairs.append((number, cells))
        self.faults.refuse()
        self.keep([self.pair(number, *cells) for number, cells in pairs])

    def _conversations(self, number: int, prompt: Any, chosen: Any, rejected: Any) -> tuple[Any, ...] | None:
        """The turns before the answers, and the two answers as turns."""
        best_of, worst_of = as_messages(chosen), as_messages(rejected)
        before = [] if prompt == [] else as_messages(prompt)
        if before is None or best_of is None or worst_of is None:
            said = "where one of prompt, chosen and rejected is a list of {role, content}, all of them must be"
            self.faults.add(f"{said} (a conversation that holds its own prompt needs prompt_key=null)", number)
            return None
        (*asked, best), (*others, worst) = best_of, worst_of
        if asked != others or best["role"] != ASSISTANT or worst["role"] != ASSISTANT or not before + asked:
            self.faults.add("chosen and rejected must be one conversation up to a last turn of the assistant", number)
            return None
        return before + asked, best, worst

    def pair(self, number: int, prompt: Any, chosen: Any, rejected: Any) -> Example | None:
        built = {"chosen": self.answered(prompt, chosen, number), "rejected": self.answered(prompt, rejected, number)}
        return built if all(built.values()) else None

    def answered(self, prompt: Any, answer: Any, number: int) -> Example | None:
        if isinstance(prompt, str):
            return super().answered(prompt, answer, number)
        (asked, _), (learned, _) = encode_chat(self.template, [*prompt, answer], last=True)
        room = max(0, self.max_length - len(asked))
        return self.usable(Encoded(asked, learned[:room], max(0, len(learned) - room)), number)


@dataset
@dataclass
class FeedbackDataset(_Asked):
    """Prompts with one answer each and whether it was liked (1, true, yes) or not: for KTO.

    Each row also has its prompt with another row's answer, by a seeded round through all rows, which KTO compares with.
    chosen_key, rejected_key: in place of answer and label, the columns of pairs, of which each gives two rows.
    """

    prompt_key: str = "prompt"
    answer_key: str = "completion"
    label_key: str = "label"
    chosen_key: str | None = None
    rejected_key: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.chosen_key is None) != (self.rejected_key is None):
            raise UserError(f"{self.where}: chosen_key and rejected_key go together")
        told = self._of_pairs() if self.chosen_key else self._of_labels()
        if len(told) < 2:
            self.faults.refuse()
            raise UserError(f"{self.where}: KTO needs at least two rows to compare with one another, got {len(told)}")
        order = permutation(len(told), self.seed, "mismatched")
        before = {order[k]: order[k - 1] for k in range(len(order))}
        self.keep([self.build(told, k, before[k]) for k in range(len(told))])

    def build(self, told: list[tuple[int, str, str, bool]], k: int, other: int) -> Example | None:
        number, prompt, answer, liked = told[k]
        original = self.answered(prompt, answer, number)
        if original is None:
            return None
        encoded = self.template.encode(prompt, told[other][2], max_length=self.max_length)
        assert encoded.answer, "where one answer has room, another has"
        mismatched = example_of(encoded, number)  # an answer that is cut is counted where it is learned
        return {"original": {**original, "weight": 1.0 if liked else -1.0}, "mismatched": mismatched}

    def _of_labels(self) -> list[tuple[int, str, str, bool]]:
        told = []
        keys = (self.prompt_key, self.answer_key)
        for number, (prompt, answer, label) in enumerate(self.load(*keys, self.label_key)):
            liked = LIKED.get(str(label).lower().removesuffix(".0"))
            if liked is None:
                self.faults.add(f"{self.label_key} must be 1 or 0 (true or false), and is {label!r}", number)
            good = self.faults.texts((prompt, answer), keys, number)
            if good and liked is not None:
                told.append((number, prompt, answer, liked))
        self.faults.refuse()
        return told

    def _of_pairs(self) -> list[tuple[int, str, str, bool]]:
        assert self.chosen_key and self.rejected_key
        keys, told = (self.prompt_key, self.chosen_key, self.rejected_key), []
        for number, cells in enumerate(self.load(*keys)):
            if self.faults.texts(cells, keys, number):
                told += [(number, cells[0], cells[1], True), (number, cells[0], cells[2], False)]
        self.faults.refuse()
        return told
