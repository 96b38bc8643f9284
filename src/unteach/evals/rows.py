"""The rows of a suite, tokenized: what the model is asked about each, and what is true."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unteach import fingerprints
from unteach.config.suites import RowsConfig, SuiteConfig
from unteach.data.handlers import qa
from unteach.data.io import sources
from unteach.data.rows import Row, locate_row
from unteach.data.template import Template
from unteach.engines.base import Ids
from unteach.errors import AbsentData, UserError
from unteach.evals import own_rows, wrong_answers
from unteach.evals.own_rows import OwnRows
from unteach.evals.row_encoder import FewShotExamples, RowEncoder
from unteach.seeds import derive_seed, permutation

IDK = "idk"
"""The column of a refusal to each question."""
KEYS = "keys"
"""The column of the entities that a row is about."""
MIN_CONTINUATION = 50
"""Tokens that a continuation may always have."""
MORE_THAN_ANSWER = 10
"""Tokens that a continuation may have beyond those of its true answer."""
WHERE_ROLES_COME_FROM = {
    "train": "data.train_file, or data.train",
    "forget": "data.forget_file, a column forget in data.train_file, or data.forget",
    "retain": "data.retain_file, a column forget in data.train_file, or data.retain",
    "holdout": "data.holdout_file, rows held out of training (data.validation_file, "
    "data.validation_fraction), or "
    "data.holdout",
}


def limit_continuation(num_answer_tokens: int) -> int:
    """Compute how many tokens a continuation needs to say an answer of some length."""
    return max(MIN_CONTINUATION, MORE_THAN_ANSWER + num_answer_tokens)


@dataclass
class TokenizedColumn:
    """Hold one column of one set of rows, an entry of each list for each usable row.

    Attributes:
        source: where the rows come from, as messages call it.
        num_rows: of all the rows, also those that were skipped or not selected.
        has_alternatives: whether the column has a list of answers for each row.
        fingerprint: of all the rows, and of which were selected.
        row_indices: the rows' numbers in their set.
        prompts: what the model reads before it answers.
        prompt_texts: the same as text.
        questions: the words of the rows themselves, without template and few-shot examples.
        pairs: of each row, its answers, each with the prompt that it follows.
        answer_texts: of each row, the texts of its answers.
    """

    source: str
    num_rows: int
    has_alternatives: bool
    fingerprint: str = ""
    row_indices: list[int] = field(default_factory=list)
    prompts: list[Ids] = field(default_factory=list)
    prompt_texts: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    pairs: list[list[tuple[Ids, Ids]]] = field(default_factory=list)
    answer_texts: list[list[str]] = field(default_factory=list)


class EvalRows:
    """Load the rows of one suite when they are first needed, and tokenize them once a column.

    A column is named `<rows>.<column>`, by the names in the suite's `rows`.

    Attributes:
        context: how many tokens the model can read.
        own: the run's own rows, by role.
        subset_sizes: of rows that are measured in part, how many are, and how many there are.
        num_skipped: by column, rows that are left out.
        num_cut: by column, rows with a shortened answer.
        num_joined: by column, rows whose tokenizer makes one token of the end of the prompt and the
            beginning of the answer.
    """

    def __init__(
        self,
        config: SuiteConfig,
        template: Template,
        context: int | None = None,
        own: Mapping[str, OwnRows] | None = None,
    ):
        self.config = config
        self.template = template
        self.raw_template = template.as_raw()
        self.context = context or 1 << 62
        self.encoder = RowEncoder(
            template,
            self.raw_template,
            config.max_length,
            self.context,
        )
        self.own = own or {}
        self.subset_sizes: dict[str, tuple[int, int]] = {}
        self.num_skipped: dict[str, int] = {}
        self.num_cut: dict[str, int] = {}
        self.num_joined: dict[str, int] = {}
        self._rows: dict[str, Sequence[Row]] = {}
        self._columns: dict[str, TokenizedColumn] = {}

    def get_config(self, column_name: str) -> RowsConfig:
        """Give the configuration of the rows that a column is of."""
        rows_name = column_name.partition(".")[0]
        if rows_name not in self.config.rows:
            known = ", ".join(self.config.rows)
            raise UserError(f"eval.{self.config.suite}.rows has no {rows_name!r}; it has {known}")
        return self.config.rows[rows_name]

    def build_generation_args(self, column_name: str) -> dict[str, Any]:
        """Merge the suite's generation arguments with those of the column's rows, which win."""
        config = self.get_config(column_name)
        arguments: dict[str, Any] = {}
        for layer in (self.config.generation, config.generation):
            for name, value in vars(layer).items():
                if value is not None:
                    arguments[name] = value
        if "max_new_tokens" not in arguments:
            raise UserError(
                f"eval.{self.config.suite}.generation.max_new_tokens: is required for the texts of "
                f"{column_name}"
            )
        if config.role is not None:
            # No continuation need be much longer than the longest true answer.
            pairs = self.load_column(column_name).pairs
            longest = max(len(answer) for [(_, answer)] in pairs)
            limit = limit_continuation(longest)
            arguments["max_new_tokens"] = min(arguments["max_new_tokens"], limit)
        return arguments

    def has_questions(self, column_name: str) -> bool:
        """Say whether the model is asked something before these answers; plain text follows on
        nothing but BOS."""
        prompts = self.load_column(column_name).prompts
        return any(len(prompt) > 1 for prompt in prompts)

    def load_column(self, column_name: str) -> TokenizedColumn:
        """Tokenize a column; rows whose answer is empty or does not fit are skipped and counted.

        Raises:
            AbsentData: the corpus does not have these rows.
        """
        if column_name not in self._columns:
            role = self.get_config(column_name).role
            if role is None:
                column = self._tokenize_dataset(column_name)
            else:
                column = self._tokenize_own_rows(column_name, role)
            self._columns[column_name] = column
        return self._columns[column_name]

    def _tokenize_dataset(self, column_name: str) -> TokenizedColumn:
        """Tokenize a column of rows that `hf_args` name."""
        config = self.get_config(column_name)
        assert config.hf_args is not None
        rows_name, _, key = column_name.partition(".")
        source = sources.describe_source(config.hf_args)
        where = f"eval.{self.config.suite}: {source}"

        rows = self._load_rows(config.hf_args)
        examples = self._load_few_shot_examples(config, key)
        usable = self._select_by_keys(config, rows, source)
        selected = self._draw_subset(rows_name, usable)
        if key == IDK:
            answers = self._choose_refusals(config, rows)
        else:
            answers = sources.read_column(rows, key, where)
        questions = [""] * len(rows)
        if config.kind != "text":
            questions = sources.read_column(rows, config.question_key, where)

        # Which rows are measured tells two columns apart only where it is not all of them.
        content: list[object] = [questions, answers, examples]
        if len(selected) < len(rows):
            content.append(selected)
        column = TokenizedColumn(
            source=source,
            num_rows=len(rows),
            has_alternatives=any(isinstance(answer, list) for answer in answers),
            fingerprint=fingerprints.hash_value(content),
        )
        for row_index in selected:
            answer = answers[row_index]
            candidates = answer if isinstance(answer, list) else [answer]
            try:
                self._tokenize_row(
                    column, column_name, row_index, questions[row_index], candidates, examples
                )
            except UserError as error:
                row_name = locate_row(rows, row_index, source)
                raise UserError(f"eval.{self.config.suite}: {row_name}: {error}") from None
        if not column.row_indices:
            self._refuse_empty_column(column_name)
        return column

    def _refuse_empty_column(self, column_name: str) -> None:
        room = f"max_length={self.config.max_length}"
        if self.context < self.config.max_length:
            room = f"the {self.context} tokens that the model reads"
        raise UserError(
            f"eval.{self.config.suite}: {column_name}: every answer is empty, or does not fit into "
            f"{room}"
        )

    def _tokenize_own_rows(self, column_name: str, role: str) -> TokenizedColumn:
        """Tokenize the run's own rows of a role, each asked about as it is trained on."""
        rows_name, _, key = column_name.partition(".")
        if key != own_rows.ANSWER:
            raise UserError(
                f"eval.{self.config.suite}: the run's own rows have the one column answer: "
                f"{rows_name}.answer"
            )
        if role not in self.own:
            raise AbsentData(
                f"this run has no {role} rows; they come from {WHERE_ROLES_COME_FROM[role]}"
            )
        rows = self.own[role]
        selected = self._draw_subset(rows_name, list(rows.row_numbers))
        column = TokenizedColumn(
            source=rows.where,
            num_rows=len(rows.row_numbers),
            has_alternatives=False,
            row_indices=selected,
        )
        questions_and_answers = []
        for row_number in selected:
            row = own_rows.read_row(rows, row_number, self.template)
            column.prompts.append(row.prompt)
            column.prompt_texts.append(row.prompt_text)
            column.questions.append(row.question)
            column.pairs.append([(row.prompt, row.answer)])
            column.answer_texts.append([row.answer_text])
            questions_and_answers.append([row.question, row.answer_text])
        column.fingerprint = fingerprints.hash_value([questions_and_answers, selected])
        return column

    def _draw_subset(self, rows_name: str, row_numbers: list[int]) -> list[int]:
        """Draw at most max_rows of some rows by the suite's seed, in the order of the rows."""
        max_rows = self.config.max_rows
        if max_rows is None or len(row_numbers) <= max_rows:
            return row_numbers
        self.subset_sizes[rows_name] = (max_rows, len(row_numbers))
        order = permutation(len(row_numbers), self.config.seed, "measured rows", rows_name)
        positions = sorted(order[:max_rows])
        return [row_numbers[position] for position in positions]

    def _load_rows(self, hf_args: dict[str, Any]) -> Sequence[Row]:
        """Load rows, once for all columns of them."""
        key = fingerprints.hash_value(hf_args)
        if key not in self._rows:
            if wrong_answers.KEY in hf_args:
                self._rows[key] = wrong_answers.load_rows(hf_args)
            else:
                self._rows[key] = sources.load_rows(hf_args)
        return self._rows[key]

    def _load_few_shot_examples(self, config: RowsConfig, key: str) -> FewShotExamples:
        """Load the (question, answer) pairs that stand before every question."""
        if config.few_shot_dataset_hf_args is None:
            return []
        rows = self._load_rows(config.few_shot_dataset_hf_args)
        where = f"eval.{self.config.suite}: few-shot rows"
        questions = sources.read_column(rows, config.question_key, where)
        answers = sources.read_column(rows, key, where)
        return list(zip(questions, answers, strict=True))

    def _choose_refusals(self, config: RowsConfig, rows: Sequence[Row]) -> list[str]:
        """Choose a refusal for each row by its number, or take the rows' own column of them."""
        if rows and IDK in rows[0]:
            return sources.read_column(rows, IDK, f"eval.{self.config.suite}")
        refusals = qa.read_lines(config.idk_path)
        chosen = []
        for row_index in range(len(rows)):
            generator = random.Random(derive_seed(0, IDK, 0, row_index))
            chosen.append(generator.choice(refusals))
        return chosen

    def _select_by_keys(
        self,
        config: RowsConfig,
        rows: Sequence[Row],
        source: str,
    ) -> list[int]:
        """Select all rows, or those that share a key with other rows, or that share none."""
        row_indices = list(range(len(rows)))
        if not config.keys_shared_with and not config.keys_apart_from:
            return row_indices
        keys = _read_keys(rows, source)
        if config.keys_shared_with:
            their_keys = self._collect_keys(config.keys_shared_with, source)
            row_indices = [i for i in row_indices if not keys[i].isdisjoint(their_keys)]
        if config.keys_apart_from:
            their_keys = self._collect_keys(config.keys_apart_from, source)
            row_indices = [i for i in row_indices if keys[i].isdisjoint(their_keys)]
        if not row_indices:
            relation = "share" if config.keys_shared_with else "do not share"
            raise AbsentData(f"{source}: no row is left of those that {relation} a key")
        return row_indices

    def _collect_keys(self, rows_name: str, source: str) -> set[str]:
        """Collect the keys of all rows of another set; `source` is the set that asks for them."""
        hf_args = self.get_config(rows_name).hf_args
        if hf_args is None:
            raise UserError(
                f"eval.{self.config.suite}.rows.{rows_name}: the run's own rows have no keys"
            )
        rows = self._load_rows(hf_args)
        return set().union(*_read_keys(rows, source))

    def _tokenize_row(
        self,
        column: TokenizedColumn,
        column_name: str,
        row_index: int,
        question: str,
        answers: list[str],
        examples: FewShotExamples,
    ) -> None:
        """Add one row to a column, or count it as skipped.

        Args:
            column: gets the row.
            column_name: where the row is counted.
            row_index: its number in its set.
            question: what the row asks.
            answers: its answers, one or several.
            examples: the few-shot examples that stand before it.
        """
        kind = self.get_config(column_name).kind
        pairs: list[tuple[Ids, Ids]] = []
        is_usable = bool(answers)
        is_cut = False
        for answer in answers:
            encoded = self.encoder.encode(kind, question, answer, examples)
            pairs.append((encoded.prompt, encoded.answer))
            is_cut = is_cut or encoded.cut > 0
            # Published code scores empty answers too.
            is_empty = not self.config.compat and not answer.strip()
            if is_empty or not encoded.answer:
                is_usable = False
        if not is_usable:
            _count(self.num_skipped, column_name)
            return
        if is_cut:
            _count(self.num_cut, column_name)
        bare_prompt = self.encoder.encode_bare_prompt(kind, question, examples)
        if bare_prompt is not None and any(prompt != bare_prompt for prompt, _ in pairs):
            _count(self.num_joined, column_name)

        prompt_text = question
        if kind == "qa":
            prompt_text = self.template.write_prompt(question, examples)
        if kind == "text":
            answers = [self.template.decode(answer_ids) for _, answer_ids in pairs]
        first_prompt, _ = pairs[0]
        column.row_indices.append(row_index)
        column.prompts.append(first_prompt)
        column.prompt_texts.append(prompt_text)
        column.questions.append(question)
        column.pairs.append(pairs)
        column.answer_texts.append(answers)


def _read_keys(rows: Sequence[Row], source: str) -> list[set[str]]:
    """Read what each row is about."""
    keys = []
    for row in rows:
        if KEYS not in row:
            raise AbsentData(
                f"{source}: the rows have no column {KEYS!r} that says what they are about"
            )
        keys.append(set(row[KEYS]))
    return keys


def _count(counts: dict[str, int], column_name: str) -> None:
    counts[column_name] = counts.get(column_name, 0) + 1
