"""What the model says, against what is true: ROUGE of greedy continuations. Source: Lin 2004."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unteach.evals.base import Generated, Metric, Need, Texts, Value, average_rows
from unteach.lazy import rouge_scorer
from unteach.registry import metric


@metric("rouge")
@dataclass
class Rouge(Metric):
    """ROUGE-1 and ROUGE-L of the continuation against the answer; the mean of `rouge_type`. Source:
    TOFU.

    adaptive: a continuation counts up to ten tokens more than the answer has, or fifty, as ARC has
    it.
    """

    texts: str
    rouge_type: Literal["rougeL_recall", "rougeL_f1", "rouge1_recall"] = "rougeL_recall"
    rouge_stemmer: bool = True
    adaptive: bool = False

    def needs(self) -> dict[str, Need]:
        return {"generated": Texts(self.texts, adaptive=self.adaptive)}

    def compute(self, name: str, generated: list[Generated], **_: object) -> Value:
        scorer = rouge_scorer.RougeScorer(
            ["rouge1", "rougeL"],
            use_stemmer=self.rouge_stemmer,
        )
        by_index = {}
        for row in generated:
            value: dict[str, Any] = {
                "rouge1_recall": [],
                "rougeL_f1": [],
                "rougeL_recall": [],
                "ground_truth": row.truths,
            }
            for truth in row.truths:
                score = scorer.score(truth, row.text)
                value["rouge1_recall"].append(score["rouge1"].recall)
                value["rougeL_f1"].append(score["rougeL"].fmeasure)
                value["rougeL_recall"].append(score["rougeL"].recall)
            # A row with one answer has its bare value, not a list of one.
            if not row.has_alternatives:
                value = {key: alternatives[0] for key, alternatives in value.items()}
            value["input"] = row.prompt
            value["question"] = row.question
            value["generation"] = row.text
            by_index[row.index] = value
        return average_rows(name, by_index, self.rouge_type)


@metric("knowmem")
@dataclass
class KnowMem(Rouge):
    """ROUGE-L F1, without stemmer, of short answers to questions about the text. Source: MUSE,
    arXiv:2407.06460."""

    QUIRKS: ClassVar[dict[str, Any]] = {"rouge_stemmer": True}

    rouge_type: Literal["rougeL_recall", "rougeL_f1", "rouge1_recall"] = "rougeL_f1"
    rouge_stemmer: bool = False


@metric("verbmem")
@dataclass
class VerbMem(KnowMem):
    """As knowmem, of how the text goes on after its opening; of the truth the first
    `verbmem_truncate` tokens count."""

    QUIRKS: ClassVar[dict[str, Any]] = {
        "rouge_stemmer": True,
        "verbmem_truncate": None,
    }

    verbmem_truncate: int | None = 128

    def needs(self) -> dict[str, Need]:
        texts = Texts(
            self.texts,
            truth_tokens=self.verbmem_truncate,
            adaptive=self.adaptive,
        )
        return {"generated": texts}
