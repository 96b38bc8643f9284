"""What an audited model is after a lesson: taught where something is asked of it that was never
measured, by this audit or by another one."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from unteach.audits.audited_model import AuditedModel
from unteach.audits.lessons import Lesson, Teach, hash_lesson
from unteach.config.schema import ModelConfig
from unteach.models.loading import LoadedModel


@dataclass
class Course:
    """A lesson of one model, given at most once, when the first of its copies is loaded.

    Attributes:
        start: the model that is taught; a copy of it is.
        lesson: what it is taught.
        teach: teaches it.
    """

    start: AuditedModel
    lesson: Lesson
    teach: Teach

    @functools.cached_property
    def copies(self) -> Mapping[int, ModelConfig]:
        """What the copy was at each look, by the number of steps; taught now, where it was not."""
        return self.teach(self.start, self.lesson)


@dataclass
class TaughtCopy(AuditedModel):
    """A copy of a model after some steps of a lesson.

    Attributes:
        course: what it is taught.
        steps: how many of its steps.
    """

    course: Course
    steps: int

    @classmethod
    def build(cls, course: Course, steps: int) -> "TaughtCopy":
        """Build the copy after some steps; nothing is taught before its weights are needed."""
        start = course.start
        return cls(start.config, start.batch_size, start.cache, start.dist, course, steps)

    @functools.cached_property
    def empty(self) -> LoadedModel:
        """The model that is taught, without its weights: its tokenizer and template are the
        copy's."""
        return self.course.start.empty

    @functools.cached_property
    def identity(self) -> str:
        """What tells its weights from all others, whether or not it was taught yet."""
        lesson = replace(self.course.lesson, looks=(self.steps,))
        return f"taught {hash_lesson(self.course.start, lesson)}"

    def find_weights(self) -> ModelConfig:
        """Find its weights; where there are none yet, the copy is taught."""
        return self.course.copies[self.steps]
