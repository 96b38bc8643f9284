"""How one row of a suite becomes tokens, by the kind of its rows."""

from unteach.data.template import Encoded, Template
from unteach.engines.base import Ids

FewShotExamples = list[tuple[str, str]]
"""The (question, answer) pairs that stand before every question."""


class RowEncoder:
    """Tokenize questions with their answers.

    Attributes:
        template: writes questions and answers as the model's chat has them.
        raw_template: writes plain text.
        max_length: tokens of a row that are kept; of plain text, tokens that are asked.
        context: tokens that the model can read.
    """

    def __init__(
        self,
        template: Template,
        raw_template: Template,
        max_length: int,
        context: int,
    ):
        self.template = template
        self.raw_template = raw_template
        self.max_length = max_length
        self.context = context

    def encode(
        self,
        kind: str,
        question: str,
        answer: str,
        examples: FewShotExamples,
    ) -> Encoded:
        """Tokenize a question with one of its answers.

        Args:
            kind: of the rows: `qa`, `completion` or `text`.
            question: what stands before the answer.
            answer: what is scored.
            examples: stand before the question; only questions and answers have them.
        """
        if kind == "qa":
            max_length = min(self.max_length, self.context)
            return self.template.encode(question, answer, examples, max_length)
        if kind == "completion":
            return self._encode_plain(question, f" {answer}")
        return self._encode_plain(question, answer)

    def encode_bare_prompt(
        self,
        kind: str,
        question: str,
        examples: FewShotExamples,
    ) -> Ids | None:
        """Tokenize a prompt without its answer.

        Returns:
            The prompt's ids; None where it is always tokenized by itself.
        """
        if kind == "qa":
            if self.template.args.boundary != "joint":
                return None
            return self.template.encode_prompt(question, examples)
        if not question:
            return None
        return self.raw_template.encode_prompt(question)

    def _encode_plain(self, opening: str, rest: str) -> Encoded:
        """Tokenize one text as a whole, without EOS; the model is asked from where `rest` begins.

        `max_length` counts from there. The text's first token is never asked, because nothing
        stands before it.
        """
        ids = self.raw_template.encode_prompt(opening + rest)
        num_opening = len(self.raw_template.encode_prompt(opening))
        num_kept = min(num_opening + self.max_length, self.context)
        kept = ids[:num_kept]
        start = max(1, num_opening)
        num_cut = len(ids) - len(kept)
        return Encoded(kept[:start], kept[start:], num_cut)
