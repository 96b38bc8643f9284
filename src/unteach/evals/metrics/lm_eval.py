"""Tasks of lm-evaluation-harness as metrics."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unteach.errors import UserError
from unteach.evals import bootstrap
from unteach.evals.base import Metric, Need, Task, TaskResult, Value
from unteach.registry import metric


@metric("lm_eval")
@dataclass
class HarnessTask(Metric):
    """What lm-evaluation-harness finds on a task or a group of tasks: `measure`, or its accuracy,
    or what it has first.

    Source: the harness, https://github.com/EleutherAI/lm-evaluation-harness; WMDP,
    arXiv:2403.03218.
    """

    task: str
    measure: str | None = None

    def needs(self) -> dict[str, Need]:
        return {"results": Task(self.task)}

    def compute(self, name: str, results: list[TaskResult], **_: object) -> Value:
        [result] = results
        measure = self._choose_measure(name, result.values)
        value = result.values[measure]
        documents = [document for document in result.documents if measure in document]
        extra: dict[str, Any] = {
            "task": self.task,
            "measure": measure,
            "all": result.values,
        }
        if result.num_cut_prompts:
            extra["prompts_cut"] = result.num_cut_prompts
        return Value(
            value,
            by_index=dict(enumerate(documents)),
            n=len(documents),
            replicates=self.compute_replicates(name, value, documents, measure),
            extra=extra,
        )

    def _choose_measure(self, name: str, values: dict[str, float]) -> str:
        """Choose the harness's metric: `measure`, or accuracy, or the first."""
        measure = self.measure
        if not measure:
            first = next(iter(values), None)
            measure = "acc" if "acc" in values else first
        if measure not in values:
            raise UserError(
                f"{name}: {self.task} has no measure {measure!r}; it has {', '.join(values)}"
            )
        return measure

    def compute_replicates(
        self,
        name: str,
        value: float,
        documents: list[dict[str, Any]],
        measure: str,
    ) -> np.ndarray | None:
        """Compute replicates of a mean over documents, or of the mean over a group's tasks.

        Args:
            name: the metric's, which seeds them.
            value: what the harness says.
            documents: their values by measure, each with its task.
            measure: which of these values.

        Returns:
            The replicates, [R]; None where the value is neither mean.
        """
        numbers_by_task: dict[str, list[float]] = {}
        for document in documents:
            numbers_by_task.setdefault(document["task"], []).append(document[measure])
        if not numbers_by_task:
            return None
        by_task = {task: np.array(numbers) for task, numbers in numbers_by_task.items()}
        over_documents = np.concatenate(list(by_task.values()))  # [n]
        if np.isclose(over_documents.mean(), value, atol=1e-6):
            return bootstrap.resample_mean(over_documents, name)

        task_means = [numbers.mean() for numbers in by_task.values()]
        if not np.isclose(np.mean(task_means), value, atol=1e-6):
            return None
        replicates_by_task = []
        for task, numbers in by_task.items():
            replicates = bootstrap.resample_mean(numbers, f"{name}/{task}")
            replicates_by_task.append(replicates)
        mean: np.ndarray = np.mean(replicates_by_task, axis=0)  # [T, R] -> [R]
        return mean
