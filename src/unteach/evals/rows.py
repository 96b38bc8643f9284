"""The rows of a suite, tokenised: what the model is asked about each, and what is true."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unteach import fingerprints
from unteach.config.suites import RowsConfig, SuiteConfig
from unteach.data.handlers import qa
from unteach.data.io import sources
from unteach.data.rows import Row, locate_row
from unteach.data.template import Encoded, Template
from unteach.engines.base import Ids
from unteach.errors import AbsentData, UserError
from unteach.evals import own_rows, wrong_answers
from unteach.evals.own_rows import OwnRows
from unteach.seeds import permutation, subseed

IDK, KEYS = "idk", "keys"
"""Columns: a refusal to each question; the entities that a row is about."""
LEAST, MORE = 50, 10
"""Tokens of a continuation as long as its answer calls for: LEAST, or MORE than the true answer
has."""
WHERE_ROLES_COME_FROM = {
    "train": "data.train_file, or data.train",
    "forget": "data.forget_file, a column forget in data.train_file, or data.forget",
    "retain": "data.retain_file, a column forget in data.train_file, or data.retain",
    "holdout": "data.holdout_file, rows held out of training (data.validation_file, "
    "data.validation_fraction), or "
    "data.holdout",
}


@dataclass
class Asked:
    """One column of one set of rows: per usable row its number, its prompt, and its answers, each
    with what it follows.

    questions: the words of the rows themselves, without template and without examples shown before
    them. count, digest, where: of all the rows, also those that were skipped or not drawn.
    """

    several: bool
    count: int
    digest: str
    where: str
    index: list[int] = field(default_factory=list)
    prompts: list[Ids] = field(default_factory=list)
    prompt_texts: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    pairs: list[list[tuple[Ids, Ids]]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)


class Rows:
    """The rows of one suite, loaded when first asked for, tokenised once a column.

    context: how many tokens the model can read. own: the run's own rows, by role. drawn: how many
    rows of a set are measured, where they are not all. skipped, cut, joined: how many rows, by
    column, are left out, have a shortened answer, or whose tokenizer makes one token of the end of
    the prompt and the beginning of the answer.
    """

    def __init__(
        self,
        config: SuiteConfig,
        template: Template,
        context: int | None = None,
        own: Mapping[str, OwnRows] | None = None,
    ):
        self.config, self.template, self.context = config, template, context or 1 << 62
        self.own = own or {}
        self.plain = template.as_raw()
        self._rows: dict[str, list[Row]] = {}
        self._asked: dict[str, Asked] = {}
        self.drawn: dict[str, tuple[int, int]] = {}
        self.skipped: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.joined: dict[str, int] = {}

    def settings(self, of: str) -> RowsConfig:
        """How the rows of `rows.column` are configured."""
        name = of.partition(".")[0]
        if name not in self.config.rows:
            raise UserError(
                f"eval.{self.config.suite}.rows has no {name!r}; it has "
                f"{', '.join(self.config.rows)}"
            )
        return self.config.rows[name]

    def generation(self, of: str) -> dict[str, Any]:
        """The generation arguments of these rows: the suite's, and over them their own."""
        layers = (self.config.generation, self.settings(of).generation)
        given = {
            name: value
            for layer in layers
            for name, value in vars(layer).items()
            if value is not None
        }
        if "max_new_tokens" not in given:
            raise UserError(
                f"eval.{self.config.suite}.generation.max_new_tokens: is required for the texts of "
                f"{of}"
            )
        if self.settings(of).role is not None:
            longest = max(len(answer) for [(_, answer)] in self.asked(of).pairs)
            given["max_new_tokens"] = min(given["max_new_tokens"], max(LEAST, MORE + longest))
        return given

    def has_questions(self, of: str) -> bool:
        """Whether the model is asked something before these answers; plain text follows on nothing
        but BOS."""
        return any(len(prompt) > 1 for prompt in self.asked(of).prompts)

    def asked(self, of: str) -> Asked:
        """`rows.column` tokenised; rows whose answer is empty or does not fit are skipped and
        counted.

        Raises AbsentData where the corpus does not have them.
        """
        if of not in self._asked:
            settings, column = self.settings(of), of.partition(".")[2]
            if settings.role is not None:
                self._asked[of] = self._ask_own(of, settings.role)
                return self._asked[of]
            assert settings.hf_args is not None
            where = sources.describe_source(settings.hf_args)
            rows, shots = self._load(settings.hf_args), self._shots(settings, column)
            chosen = self._draw(of.partition(".")[0], self._chosen(settings, rows, where))
            named = f"eval.{self.config.suite}: {where}"
            answers = (
                self._refusals(settings, rows)
                if column == IDK
                else sources.read_column(rows, column, named)
            )
            questions = [""] * len(rows)
            if settings.kind != "text":
                questions = sources.read_column(rows, settings.question_key, named)
            several = any(isinstance(answer, list) for answer in answers)
            told = [questions, answers, shots, *([chosen] if len(chosen) < len(rows) else [])]
            asked = Asked(several, len(rows), fingerprints.hash_value(told), where)
            for index in chosen:
                answer = answers[index]
                texts = answer if isinstance(answer, list) else [answer]
                try:
                    self._add(asked, of, index, questions[index], texts, shots)
                except UserError as error:
                    place = locate_row(rows, index, where)
                    raise UserError(f"eval.{self.config.suite}: {place}: {error}") from None
            if not asked.index:
                room = f"max_length={self.config.max_length}"
                if self.context < self.config.max_length:
                    room = f"the {self.context} tokens that the model reads"
                raise UserError(
                    f"eval.{self.config.suite}: {of}: every answer is empty, or does not fit into "
                    f"{room}"
                )
            self._asked[of] = asked
        return self._asked[of]

    def _ask_own(self, of: str, role: str) -> Asked:
        """The run's own rows of a role, each asked about as it is trained on."""
        name, _, column = of.partition(".")
        if column != own_rows.ANSWER:
            raise UserError(
                f"eval.{self.config.suite}: the run's own rows have the one column answer: "
                f"{name}.answer"
            )
        if role not in self.own:
            raise AbsentData(
                f"this run has no {role} rows; they come from {WHERE_ROLES_COME_FROM[role]}"
            )
        rows = self.own[role]
        chosen = self._draw(name, list(rows.row_numbers))
        read = [own_rows.read_row(rows, number, self.template) for number in chosen]
        told = [[row.question, row.answer_text] for row in read]
        asked = Asked(
            False, len(rows.row_numbers), fingerprints.hash_value([told, chosen]), rows.where
        )
        for number, row in zip(chosen, read, strict=True):
            asked.index.append(number)
            asked.prompts.append(row.prompt)
            asked.prompt_texts.append(row.prompt_text)
            asked.questions.append(row.question)
            asked.pairs.append([(row.prompt, row.answer)])
            asked.texts.append([row.answer_text])
        return asked

    def _draw(self, name: str, row_numbers: list[int]) -> list[int]:
        """At most max_rows of the rows called `name`, drawn by the seed, in their order."""
        most = self.config.max_rows
        if most is None or len(row_numbers) <= most:
            return row_numbers
        self.drawn[name] = (most, len(row_numbers))
        order = permutation(len(row_numbers), self.config.seed, "measured rows", name)
        return [row_numbers[place] for place in sorted(order[:most])]

    def _load(self, hf_args: dict[str, Any]) -> list[Row]:
        key = fingerprints.hash_value(hf_args)
        if key not in self._rows:
            load_rows = (
                wrong_answers.load_rows if wrong_answers.KEY in hf_args else sources.load_rows
            )
            self._rows[key] = load_rows(hf_args)
        return self._rows[key]

    def _refusals(self, settings: RowsConfig, rows: list[Row]) -> list[str]:
        """A refusal to each row, by its number; the rows' own where they have a column of them."""
        if rows and IDK in rows[0]:
            return sources.read_column(rows, IDK, f"eval.{self.config.suite}")
        lines = qa.read_lines(settings.idk_path)
        return [
            random.Random(subseed(0, IDK, 0, index)).choice(lines) for index in range(len(rows))
        ]

    def _chosen(self, settings: RowsConfig, rows: list[Row], where: str) -> list[int]:
        """The numbers of the rows that are asked about: all, or those that do, or do not, share a
        key with others."""
        shared, apart = settings.keys_shared_with, settings.keys_apart_from
        if not shared and not apart:
            return list(range(len(rows)))

        def keys(of: list[Row]) -> list[set[str]]:
            if any(KEYS not in row for row in of):
                raise AbsentData(
                    f"{where}: the rows have no column {KEYS!r} that says what they are about"
                )
            return [set(row[KEYS]) for row in of]

        own, chosen = keys(rows), set(range(len(rows)))
        for other, wanted in ((shared, True), (apart, False)):
            if other:
                others = self.settings(other).hf_args
                if others is None:
                    raise UserError(
                        f"eval.{self.config.suite}.rows.{other}: the run's own rows have no keys"
                    )
                theirs = set[str]().union(*keys(self._load(others)))
                chosen &= {i for i, mine in enumerate(own) if bool(mine & theirs) is wanted}
        if not chosen:
            raise AbsentData(
                f"{where}: no row is left of those that {'share' if shared else 'do not share'} a "
                f"key"
            )
        return sorted(chosen)

    def _shots(self, settings: RowsConfig, column: str) -> list[tuple[str, str]]:
        if settings.few_shot_dataset_hf_args is None:
            return []
        shown = self._load(settings.few_shot_dataset_hf_args)
        keys = (settings.question_key, column)
        where = f"eval.{self.config.suite}: few-shot rows"
        return list(zip(*(sources.read_column(shown, key, where) for key in keys), strict=True))

    def _add(
        self,
        asked: Asked,
        of: str,
        index: int,
        question: str,
        texts: list[str],
        shots: list[tuple[str, str]],
    ) -> None:
        kind, limit = self.settings(of).kind, min(self.config.max_length, self.context)
        if kind == "qa":
            encoded = [self.template.encode(question, text, shots, limit) for text in texts]
            opening = (
                self.template.encode_prompt(question, shots)
                if self.template.args.boundary == "joint"
                else None
            )
        else:
            encoded = [
                self._plain(question, f" {text}" if kind == "completion" else text)
                for text in texts
            ]
            opening = self.plain.encode_prompt(question) if question else None
        # published code scores these too
        empty = not self.config.compat and any(not text.strip() for text in texts)
        if not texts or empty or not all(one.answer for one in encoded):
            self.skipped[of] = self.skipped.get(of, 0) + 1
            return
        if any(one.cut for one in encoded):
            self.cut[of] = self.cut.get(of, 0) + 1
        if opening is not None and any(one.prompt != opening for one in encoded):
            self.joined[of] = self.joined.get(of, 0) + 1
        asked.index.append(index)
        asked.prompts.append(encoded[0].prompt)
        asked.prompt_texts.append(
            self.template.write_prompt(question, shots) if kind == "qa" else question
        )
        asked.questions.append(question)
        asked.pairs.append([(one.prompt, one.answer) for one in encoded])
        asked.texts.append(
            [self.template.decode(one.answer) for one in encoded] if kind == "text" else texts
        )

    def _plain(self, opening: str, rest: str) -> Encoded:
        """One text tokenised as one, without EOS, asked from where it goes on; `max_length` counts
        from there.

        Its first token is never asked, because nothing stands before it.
        """
        ids = self.plain.encode_prompt(opening + rest)
        opened = len(self.plain.encode_prompt(opening))
        kept, start = ids[: min(opened + self.config.max_length, self.context)], max(1, opened)
        return Encoded(kept[:start], kept[start:], len(ids) - len(kept))
