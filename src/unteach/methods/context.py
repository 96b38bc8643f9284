"""What a method may know before the first step."""

from dataclasses import dataclass, field

from unteach.data.streams import Stream
from unteach.data.template import Template


@dataclass(frozen=True)
class Context:
    """What a method may know before the first step.

    Attributes:
        seed: the run's.
        width: the size of the model's hidden states.
        labels: a classifier's, in order.
        streams: the rows that the run trains on, by stream.
        template: how the model is asked, and what makes tokens of words.
    """

    seed: int
    width: int
    labels: tuple[str, ...] = ()
    streams: dict[str, Stream] = field(default_factory=dict)
    template: Template | None = None
