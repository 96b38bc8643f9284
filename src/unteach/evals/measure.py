"""The plan of a whole evaluation: the union of what all metrics need, without duplicates, in one pass of each kind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unteach.data import sources
from unteach.data.template import Template
from unteach.engines.base import Engine, Ids
from unteach.errors import UserError
from unteach.evals.base import Generated, ScoredRow, Scores, Texts
from unteach.schema import SuiteConfig

Progress = Callable[[str, int], Callable[[int], None]]
"""progress(what, total) -> a function told how many more are done."""


@dataclass
class Asked:
    """One column of one set of rows, tokenised: per row its number, its prompt, and its answers."""

    index: list[int]
    prompts: list[Ids]
    prompt_texts: list[str]
    answers: list[list[Ids]]
    texts: list[list[str]]
    several: bool


@dataclass
class Measured:
    """The measurements of one suite: by need."""

    scores: dict[Scores, list[ScoredRow]] = field(default_factory=dict)
    texts: dict[Texts, list[Generated]] = field(default_factory=dict)


class Rows:
    """The rows of one suite, loaded when first asked for, tokenised once a column."""

    def __init__(self, config: SuiteConfig, template: Template):
        self.config, self.template = config, template
        self._rows: dict[str, list[sources.Row]] = {}
        self._asked: dict[str, Asked] = {}
        self.skipped: dict[str, int] = {}

    def rows(self, name: str) -> list[sources.Row]:
        """Raises AbsentData where the corpus does not have them."""
        if name not in self._rows:
            if name not in self.config.rows:
                raise UserError(f"eval.{self.config.suite}.rows has no {name!r}; it has {', '.join(self.config.rows)}")
            hf_args = {k: v for k, v in self.config.rows[name].items() if k != "question_key"}
            self._rows[name] = sources.load_rows(hf_args)
        return self._rows[name]

    def asked(self, of: str) -> Asked:
        """`rows.column` tokenised; rows whose answer is empty or does not fit are skipped and counted."""
        if of not in self._asked:
            name, _, column = of.partition(".")
            rows = self.rows(name)
            where = (
                f"eval.{self.config.suite}: {self.config.rows[name].get('path')}/{self.config.rows[name].get('name')}"
            )
            questions = sources.column(
                rows, self.config.rows[name].get("question_key", self.config.question_key), where
            )
            self._asked[of] = self._tokenise(of, questions, sources.column(rows, column, where))
        return self._asked[of]

    def _tokenise(self, of: str, questions: list[str], answers: list[Any]) -> Asked:
        asked = Asked([], [], [], [], [], any(isinstance(answer, list) for answer in answers))
        for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            texts = answer if isinstance(answer, list) else [answer]
            encoded = [self.template.encode(question, text, max_length=self.config.max_length) for text in texts]
            if not texts or any(not text.strip() or not one.answer for text, one in zip(texts, encoded, strict=True)):
                self.skipped[of] = self.skipped.get(of, 0) + 1
                continue
            asked.index.append(index)
            asked.prompts.append(encoded[0].prompt)
            asked.prompt_texts.append(self.template.prompt(question))
            asked.answers.append([one.answer for one in encoded])
            asked.texts.append(texts)
        if not asked.index:
            raise UserError(f"eval.{self.config.suite}: {of}: every answer is empty or does not fit into max_length")
        return asked


def measure(
    needs: dict[str, tuple[Rows, list[Scores], list[Texts]]], engine: Engine, progress: Progress
) -> dict[str, Measured]:
    """Runs one scoring pass and one generation pass for all suites; gives back each suite's measurements."""
    pairs: dict[tuple[Ids, Ids], int] = {}
    prompts: dict[tuple[tuple[str, Any], ...], dict[Ids, int]] = {}
    for rows, scores, texts in needs.values():
        for need in scores:
            asked = rows.asked(need.of)
            for prompt, answers in zip(asked.prompts, asked.answers, strict=True):
                for answer in answers:
                    pairs.setdefault((prompt, answer), len(pairs))
        for text_need in texts:
            generation = prompts.setdefault(tuple(sorted(rows.config.generation.items())), {})
            for prompt in rows.asked(text_need.of).prompts:
                generation.setdefault(prompt, len(generation))
    scored = engine.score(list(pairs), progress("scoring", len(pairs))) if pairs else []
    generated = {
        arguments: engine.generate(list(wanted), said=progress("generating", len(wanted)), **dict(arguments))
        for arguments, wanted in prompts.items()
    }
    found = {}
    for suite, (rows, scores, texts) in needs.items():
        measured = Measured()
        for need in scores:
            asked = rows.asked(need.of)
            measured.scores[need] = [
                ScoredRow(i, [scored[pairs[prompt, answer]] for answer in answers], words, asked.several)
                for i, prompt, answers, words in zip(
                    asked.index, asked.prompts, asked.answers, asked.texts, strict=True
                )
            ]
        arguments = tuple(sorted(rows.config.generation.items()))
        for text_need in texts:
            asked = rows.asked(text_need.of)
            measured.texts[text_need] = [
                Generated(
                    i, shown, words[0], rows.template.text(generated[arguments][prompts[arguments][prompt]]).strip()
                )
                for i, prompt, shown, words in zip(
                    asked.index, asked.prompts, asked.prompt_texts, asked.texts, strict=True
                )
            ]
        found[suite] = measured
    return found
