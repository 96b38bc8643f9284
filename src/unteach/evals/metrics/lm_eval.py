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
        return {"found": Task(self.task)}

    def compute(self, name: str, found: list[TaskResult], **_: object) -> Value:
        [result] = found
        named = self.measure or (
            "acc" if "acc" in result.values else next(iter(result.values), None)
        )
        if named not in result.values:
            raise UserError(
                f"{name}: {self.task} has no measure {named!r}; it has {', '.join(result.values)}"
            )
        agg = result.values[named]
        documents = [one for one in result.documents if named in one]
        extra: dict[str, Any] = {"task": self.task, "measure": named, "all": result.values}
        extra |= {"prompts_cut": result.cut} if result.cut else {}
        replicates = self.replicates(name, agg, documents, named)
        return Value(agg, dict(enumerate(documents)), len(documents), replicates, extra)

    def replicates(
        self, name: str, agg: float, documents: list[dict[str, Any]], named: str
    ) -> np.ndarray | None:
        """Of a mean over documents, or of the mean over a group's tasks; None where the value is
        neither."""
        tasks: dict[str, list[float]] = {}
        for one in documents:
            tasks.setdefault(one["task"], []).append(one[named])
        if not tasks:
            return None
        every = np.concatenate([np.array(values) for values in tasks.values()])
        if np.isclose(every.mean(), agg, atol=1e-6):
            return bootstrap.of_mean(every, name)
        if np.isclose(np.mean([np.mean(values) for values in tasks.values()]), agg, atol=1e-6):
            return np.mean(
                [bootstrap.of_mean(np.array(v), f"{name}/{task}") for task, v in tasks.items()],
                axis=0,
            )
        return None
