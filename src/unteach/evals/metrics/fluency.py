"""Whether what the model says is still language."""

from dataclasses import dataclass

from unteach.errors import UserError, nearest
from unteach.evals.base import Classed, Classes, Metric, Need, Value, mean_of
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
        by_index = {
            one.index: {"score": self.of(name, one.probabilities), "text": one.text}
            for one in classed
        }
        value = mean_of(name, by_index, "score")
        value.extra = {"empty": sum(not one.text for one in classed)}
        return value

    def of(self, name: str, probabilities: dict[str, float]) -> float:
        labels = list(probabilities)
        if isinstance(self.label, int):
            if not 0 <= self.label < len(labels):
                raise UserError(
                    f"{name}: the classifier has no class {self.label}; it has {len(labels)}"
                )
            return probabilities[labels[self.label]]
        folded = {label.lower(): label for label in labels}
        if self.label.lower() not in folded:
            guess = nearest(self.label, labels)
            hint = f"; did you mean {guess}?" if guess else ""
            raise UserError(
                f"{name}: the classifier has no class {self.label!r}; it has "
                f"{', '.join(labels)}{hint} Set the metric's `label` to its class of clean text"
            )
        return probabilities[folded[self.label.lower()]]
