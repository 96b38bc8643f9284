"""What `unteach infer` is told: how text is continued, and all that a run of it needs to know."""

from dataclasses import dataclass, field, fields
from typing import Any

from unteach.errors import UserError

DRAWN = ("temperature", "top_p", "top_k", "min_p")
"""Options that say how a token is drawn; any of them means do_sample."""


@dataclass(frozen=True)
class Sampling:
    """How a prompt is continued, by transformers' names. What is null is off; a model's own defaults are not used.

    do_sample: null draws where temperature, top_p, top_k or min_p is given, and otherwise takes the likeliest token.
    stop_strings: end a text, and are cut from it with all that follows. perplexity: the log-probs of the continuation
    are kept, those of the model itself: before temperature, penalties and cuts.
    """

    max_new_tokens: int = 256
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    num_beams: int | None = None
    num_return_sequences: int = 1
    stop_strings: list[str] = field(default_factory=list)
    perplexity: bool = False

    @property
    def drawn(self) -> bool:
        """Whether tokens are drawn at random."""
        return any(getattr(self, name) is not None for name in DRAWN) if self.do_sample is None else self.do_sample

    def asked(self) -> dict[str, Any]:
        """The options that are not at their defaults: what a backend must be able to do."""
        plain = Sampling()
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {name: value for name, value in given.items() if value != getattr(plain, name)}
        return changed | ({"do_sample": True} if self.drawn else {})

    def __post_init__(self) -> None:
        problems = list(_wrong(self))
        if problems:
            raise UserError("; ".join(problems))


def _wrong(asked: Sampling) -> list[str]:
    """A sentence for each value that is impossible, alone or beside another."""
    found = []
    least = {"max_new_tokens": 1, "num_return_sequences": 1, "num_beams": 1, "top_k": 1}
    for name, bound in least.items():
        if (value := getattr(asked, name)) is not None and value < bound:
            found.append(f"{name} must be {bound} or more, got {value}")
    if asked.temperature is not None and asked.temperature <= 0:
        found.append(f"temperature must be more than 0, got {asked.temperature}; do_sample=false takes the likeliest")
    for name in ("top_p", "min_p"):
        if (value := getattr(asked, name)) is not None and not 0 < value <= 1:
            found.append(f"{name} must be more than 0 and at most 1, got {value}")
    if asked.repetition_penalty is not None and asked.repetition_penalty <= 0:
        found.append(f"repetition_penalty must be more than 0 (1 is none), got {asked.repetition_penalty}")
    if any(not stop for stop in asked.stop_strings):
        found.append("stop_strings must not be empty texts")
    said = [name for name in DRAWN if getattr(asked, name) is not None]
    if asked.do_sample is False and said:
        found.append(f"{', '.join(said)} say how tokens are drawn, and do_sample=false draws none; leave one out")
    beams, several = asked.num_beams or 1, asked.num_return_sequences
    if beams > 1 and asked.drawn:
        found.append("num_beams searches for the likeliest text and draws none; leave out do_sample or num_beams")
    if several > beams and not asked.drawn:
        found.append(
            f"num_return_sequences={several} would be one text {several} times: set do_sample=true, or num_beams "
            f"to {several} or more"
        )
    return found
