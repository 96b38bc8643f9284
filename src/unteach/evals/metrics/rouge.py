"""What the model says, against what is true: ROUGE of greedy continuations. Source: Lin 2004; arXiv:2401.06121."""

from dataclasses import dataclass
from typing import Any, Literal

from unteach.evals.base import Generated, Metric, Need, Texts, Value, mean_of
from unteach.registry import metric


@metric("rouge")
@dataclass
class Rouge(Metric):
    """ROUGE-1 and ROUGE-L of the continuation against the answer; the mean of `rouge_type`."""

    texts: str
    rouge_type: Literal["rougeL_recall", "rougeL_f1", "rouge1_recall"] = "rougeL_recall"
    stemmer: bool = True

    def needs(self) -> dict[str, Need]:
        return {"generated": Texts(self.texts)}

    def compute(self, name: str, generated: list[Generated], **_: Any) -> Value:
        from rouge_score import rouge_scorer

        scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=self.stemmer)
        by_index = {}
        for one in generated:
            scores = scorer.score(one.truth, one.text)
            by_index[one.index] = {
                "rouge1_recall": scores["rouge1"].recall,
                "rougeL_f1": scores["rougeL"].fmeasure,
                "rougeL_recall": scores["rougeL"].recall,
                "input": one.prompt,
                "ground_truth": one.truth,
                "generation": one.text,
            }
        return mean_of(name, by_index, self.rouge_type)
