"""The rows of a suite, tokenised: what the model is asked about each, and what is true."""

from dataclasses import dataclass, field
from typing import Any

from unteach import runs
from unteach.data import sources
from unteach.data.template import Encoded, Template
from unteach.engines.base import Ids
from unteach.errors import UserError
from unteach.schema import RowsConfig, SuiteConfig, TemplateArgs


@dataclass
class Asked:
    """One column of one set of rows: per usable row its number, its prompt, and its answers.

    count, digest, where: of all the rows, also those that were skipped.
    """

    several: bool
    count: int
    digest: str
    where: str
    index: list[int] = field(default_factory=list)
    prompts: list[Ids] = field(default_factory=list)
    prompt_texts: list[str] = field(default_factory=list)
    answers: list[list[Ids]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)


class Rows:
    """The rows of one suite, loaded when first asked for, tokenised once a column."""

    def __init__(self, config: SuiteConfig, template: Template):
        self.config, self.template = config, template
        self.plain = Template(template.tokenizer, TemplateArgs(kind="raw"))
        self._rows: dict[str, list[sources.Row]] = {}
        self._asked: dict[str, Asked] = {}
        self.skipped: dict[str, int] = {}
        self.cut: dict[str, int] = {}

    def settings(self, of: str) -> RowsConfig:
        """How the rows of `rows.column` are configured."""
        name = of.partition(".")[0]
        if name not in self.config.rows:
            raise UserError(f"eval.{self.config.suite}.rows has no {name!r}; it has {', '.join(self.config.rows)}")
        return self.config.rows[name]

    def generation(self, of: str) -> dict[str, Any]:
        """The generation arguments of these rows: the suite's, and over them their own."""
        layers = (self.config.generation, self.settings(of).generation)
        given = {name: value for layer in layers for name, value in vars(layer).items() if value is not None}
        if "max_new_tokens" not in given:
            raise UserError(f"eval.{self.config.suite}.generation.max_new_tokens: is required for the texts of {of}")
        return given

    def asked(self, of: str) -> Asked:
        """`rows.column` tokenised; rows whose answer is empty or does not fit are skipped and counted.

        Raises AbsentData where the corpus does not have them.
        """
        if of not in self._asked:
            settings, column = self.settings(of), of.partition(".")[2]
            where = "/".join(str(settings.hf_args[k]) for k in ("path", "name", "split") if settings.hf_args.get(k))
            rows = self._load(settings.hf_args)
            answers = sources.column(rows, column, f"eval.{self.config.suite}: {where}")
            questions = [""] * len(rows)
            if settings.kind != "text":
                questions = sources.column(rows, settings.question_key, f"eval.{self.config.suite}: {where}")
            shots = self._shots(settings, column)
            several = any(isinstance(answer, list) for answer in answers)
            asked = Asked(several, len(rows), runs.digest([questions, answers, shots]), where)
            for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
                self._add(asked, of, index, question, answer if isinstance(answer, list) else [answer], shots)
            if not asked.index:
                raise UserError(
                    f"eval.{self.config.suite}: {of}: every answer is empty or does not fit into max_length"
                )
            self._asked[of] = asked
        return self._asked[of]

    def _load(self, hf_args: dict[str, Any]) -> list[sources.Row]:
        key = runs.digest(hf_args)
        if key not in self._rows:
            self._rows[key] = sources.load_rows(hf_args)
        return self._rows[key]

    def _shots(self, settings: RowsConfig, column: str) -> list[tuple[str, str]]:
        if settings.few_shot_dataset_hf_args is None:
            return []
        shown = self._load(settings.few_shot_dataset_hf_args)
        keys = (settings.question_key, column)
        where = f"eval.{self.config.suite}: few-shot rows"
        return list(zip(*(sources.column(shown, key, where) for key in keys), strict=True))

    def _add(
        self, asked: Asked, of: str, index: int, question: str, texts: list[str], shots: list[tuple[str, str]]
    ) -> None:
        kind, limit = self.settings(of).kind, self.config.max_length
        if kind == "qa":
            encoded = [self.template.encode(question, text, shots, limit) for text in texts]
        else:
            encoded = [self._plain(question, f" {text}" if kind == "completion" else text) for text in texts]
        empty = not self.config.compat and any(not text.strip() for text in texts)  # published code scores these too
        if not texts or empty or not all(one.answer for one in encoded):
            self.skipped[of] = self.skipped.get(of, 0) + 1
            return
        if any(one.cut for one in encoded):
            self.cut[of] = self.cut.get(of, 0) + 1
        asked.index.append(index)
        asked.prompts.append(encoded[0].prompt)
        asked.prompt_texts.append(self.template.prompt(question, shots) if kind == "qa" else question)
        asked.answers.append([one.answer for one in encoded])
        asked.texts.append([self.template.text(one.answer) for one in encoded] if kind == "text" else texts)

    def _plain(self, opening: str, rest: str) -> Encoded:
        """One text tokenised as one, without EOS, asked from where it goes on; `max_length` counts from there.

        Its first token is never asked, because nothing stands before it.
        """
        ids, opened = self.plain.encode_prompt(opening + rest), len(self.plain.encode_prompt(opening))
        kept, start = ids[: opened + self.config.max_length], max(1, opened)
        return Encoded(kept[:start], kept[start:], len(ids) - len(kept))
