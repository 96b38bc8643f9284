"""Whether what the model says is still language."""

from dataclasses import dataclass

from unteach.errors import UserError, find_nearest
from unteach.evals.base import Classed, Classes, Metric, Need, Value, average_rows
from unteach.registry import metric


@metric("gibberish")
@dataclass
class Gibberish(Metric):
    """A classifier's probability that a continuation is clean text, in the mean. Source:
    arXiv:2506.12618.

    label: the classifier's class of clean text, by its name or number; it is the suite's
    classifier_path.
    """

    texts: str
    label: str | int = "clean"

    def needs(self) -> dict[str, Need]:
        return {"classed": Classes(self.texts)}

    def compute(self, name: str, classed: list[Classed], **_: object) -> Value:
        by_index = {}
        for row in classed:
            probability = self.read_probability(name, row.probabilities)
            by_index[row.index] = {"score": probability, "text": row.text}
        value = average_rows(name, by_index, "score")
        num_empty = sum(not row.text for row in classed)
        value.extra = {"empty": num_empty}
        return value

    def read_probability(self, name: str, probabilities: dict[str, float]) -> float:
        """Read the probability of clean text; `name` is the metric's, for messages."""
        labels = list(probabilities)
        if isinstance(self.label, int):
            if not 0 <= self.label < len(labels):
                raise UserError(
                    f"{name}: the classifier has no class {self.label}; it has {len(labels)}"
                )
            return probabilities[labels[self.label]]

        # Classifiers spell their classes in any case.
        by_lower_case = {label.lower(): label for label in labels}
        label = by_lower_case.get(self.label.lower())
        if label is None:
            known = ", ".join(labels)
            guess = find_nearest(self.label, labels)
            hint = f"; did you mean {guess}?" if guess else ""
            raise UserError(
                f"{name}: the classifier has no class {self.label!r}; it has "
                f"{known}{hint} Set the metric's `label` to its class of clean text"
            )
        return probabilities[label]
