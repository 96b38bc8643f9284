"""The protocol between `unteach infer` and what answers its rows.

A backend is a dataclass, registered under its name (`@backend("hf")`): its fields are the keys of
`backend_args`. It says what it can do, so that all else is refused by name before anything starts,
and opens a Session, which answers. A row that cannot be answered has a Failure in place of its
answer, and the others go on.
"""

import bisect
import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from unteach.config.inference import Sampling
from unteach.config.schema import ModelConfig
from unteach.distributed.process_context import DistContext
from unteach.engines.base import Ids

Kind = Literal["generate", "score", "classify"]
Modality = Literal["lm", "vlm"]
FinishReason = Literal["eos", "stop", "length"]
"""The model ended a text itself, a stop string did, or it was out of room."""


@dataclass(frozen=True)
class Request:
    """One row to be answered.

    Attributes:
        number: its index in the table, which answers are keyed by.
        prompt: token ids, built by the template that was saved with the model; () where the backend
            is not local or the row has images.
        text: the prompt as text, and what a classifier reads.
        messages: the conversation, where the template is a chat or the row is one (with images,
            content is a list of parts, as processors take it); None for a prompt in plain words.
        images: what the row's column holds, each a path, a URL or an image.
        answer: what is scored, as ids that include the end of turn.
        answer_text: the same as text.
        seed: of this row alone; whatever is drawn for it must depend on nothing else.
    """

    number: int
    prompt: Ids = ()
    text: str = ""
    messages: tuple[dict[str, Any], ...] | None = None
    images: tuple[Any, ...] = ()
    answer: Ids = ()
    answer_text: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One continuation.

    Attributes:
        text: up to a stop string and without it.
        tokens: how many the text has, without the end of sequence; None where a server does not
            say, and where it does, as it counts.
        logprobs: one a token, of the model itself, where Sampling.perplexity asks for them.
        prompt_tokens: where the backend made them itself.
        reasoning: what a server gave apart, of what the model thought before.
        ids: of the text, where a backend gives them.
    """

    text: str
    finish: FinishReason
    tokens: int | None
    logprobs: tuple[float, ...] | None = None
    prompt_tokens: int | None = None
    reasoning: str = ""
    ids: Ids = ()


@dataclass(frozen=True)
class AnswerScore:
    """log p of each token of a given answer, in nats."""

    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class ClassScores:
    """A classifier's logits, one a class, and the probability of each, in the order of the model's
    labels."""

    logits: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Failure:
    """Why a row has no answer, in a sentence. A run that is repeated tries it again.

    Attributes:
        reasoning: what the model thought, where it thought only.
    """

    why: str
    reasoning: str = ""


Answer = list[Completion] | AnswerScore | ClassScores | Failure
"""A list of Completions has one for each of Sampling.num_return_sequences."""
Answered = Iterator[tuple[int, Answer]]
"""(number of the row, its answer), each once it is there, in any order."""


@dataclass(frozen=True)
class Job:
    """What a Session is opened for.

    Attributes:
        longest: tokens of the longest prompt and what may follow it; 0 if unknown.
    """

    model: ModelConfig
    kind: Kind
    sampling: Sampling
    dist: DistContext
    modality: Modality = "lm"
    longest: int = 0


class Session(Protocol):
    """An open model or server. Each call answers every request whose number is not in `done`, once.

    All requests of the run are given, so that batches may be planned as if nothing were done
    before: what a row gets must not depend on where an earlier run was stopped. Where several
    processes share the work, each answers a part.

    Attributes:
        labels: the names of a classifier's classes.
    """

    labels: Sequence[str]

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Set[int],
    ) -> Answered: ...
    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered: ...
    def classify(self, requests: Sequence[Request], done: Set[int]) -> Answered: ...
    def close(self) -> None: ...


class Backend(Protocol):
    """What a backend's class says of itself.

    Attributes:
        OPTIONS: the names of Sampling's fields that it can do beside max_new_tokens.
        LOCAL: it runs the model's files here, so that requests come as token ids; otherwise
            `model=` is the name that a server knows.
        FREE: those of its own fields that change no answer (batch sizes, keys, time-outs) and may
            differ between two calls of one run.
        DECODES (optional): it reads a folder of two models whose logits are combined
            (models/decoding_folder.py); a backend that does not say so is given none.
    """

    OPTIONS: ClassVar[frozenset[str]]
    KINDS: ClassVar[frozenset[str]]
    MODALITIES: ClassVar[frozenset[str]]
    LOCAL: ClassVar[bool]
    FREE: ClassVar[frozenset[str]]

    def check(self) -> None:
        """Raise UserError for what cannot work (an absent package, a wrong address) before anything
        is loaded."""

    def open(self, job: Job) -> Session: ...


@dataclass(frozen=True)
class Cut:
    """A continuation up to a stop string.

    Attributes:
        tokens: how many of its ids begin before the cut.
        stopped: whether there was a stop string.
    """

    text: str
    tokens: int
    stopped: bool = field(default=False)


def cut(
    ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    stop_strings: Sequence[str],
) -> Cut:
    """Cut the text of `ids` at the first of the stop strings in it, for all backends alike."""
    text = decode(ids)
    starts = [text.find(stop) for stop in stop_strings]
    starts = [start for start in starts if start >= 0]
    if not starts:
        return Cut(text, len(ids))
    end = min(starts)
    # The fewest ids whose text reaches the cut.
    num_ids = bisect.bisect_left(
        range(len(ids)),
        end,
        key=lambda num_first: len(decode(ids[:num_first])),
    )
    return Cut(text[:end], num_ids, stopped=True)


def perplexity(logprobs: Sequence[float]) -> float | None:
    """Return exp of the mean of -log p; None of nothing."""
    return math.exp(-sum(logprobs) / len(logprobs)) if logprobs else None
