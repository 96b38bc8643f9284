"""Ways of asking: what an attack has a model continue or score, and what came of it."""

from dataclasses import dataclass

from unteach.data.chat_template import build_messages
from unteach.engines.base import Ids


@dataclass(frozen=True)
class Conversation:
    """What a prompt was made from, as a server with a template of its own is asked it.

    Attributes:
        question: the last thing that the user says.
        shots: questions and answers before it.
        words: the first of the answer, from which the model goes on.
        earlier: the turns before the question, each its role and what it says.
    """

    question: str
    shots: tuple[tuple[str, str], ...] = ()
    words: str = ""
    earlier: tuple[tuple[str, str], ...] = ()

    def to_messages(self, system_prompt: str | None = None) -> tuple[dict[str, str], ...]:
        """Write it as the messages of a chat."""
        earlier = [{"role": role, "content": content} for role, content in self.earlier]
        messages = build_messages(system_prompt, self.shots, earlier, self.question)
        if self.words:
            messages.append({"role": "assistant", "content": self.words})
        return tuple(messages)


@dataclass(frozen=True)
class TextProbe:
    """Have the model continue a prompt with its likeliest tokens.

    Attributes:
        fact: the number of the fact that is asked for.
        prompt: what the model reads.
        opening: the words of the answer that stand in the prompt already.
        conversation: what the prompt was made from; None where its tokens are no turn of a chat.
    """

    fact: int
    prompt: Ids
    opening: str = ""
    conversation: Conversation | None = None


@dataclass(frozen=True)
class SampleProbe:
    """Have the model continue a prompt several times, drawn from its whole distribution.

    Attributes:
        count: how many times.
        conversation: what the prompt was made from.
    """

    fact: int
    prompt: Ids
    count: int
    conversation: Conversation | None = None


@dataclass(frozen=True)
class RankProbe:
    """Have the model score what could follow a prompt.

    Attributes:
        continuations: the tokens of each candidate, the true one first.
    """

    fact: int
    prompt: Ids
    continuations: tuple[Ids, ...]


Probe = TextProbe | SampleProbe | RankProbe


@dataclass(frozen=True)
class Texts:
    """What a model said: one text, or as many as were drawn."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class LogProbs:
    """What a model gave each candidate, in nats.

    Attributes:
        sums: of the log-probs of a candidate's tokens.
        means: of those of its tokens that not all candidates begin with.
    """

    sums: tuple[float, ...]
    means: tuple[float, ...]


Outcome = Texts | LogProbs


@dataclass(frozen=True)
class Finding:
    """What an attack brought out of a model about one fact.

    Attributes:
        fact: its number.
        hits: of each candidate, the true value first, whether it came out.
        text: what the model said, where that is text.
        rank: of the true value by the sum of its log-probs, from 1; None where nothing was ranked.
        rank_by_mean: the same by their mean, over the tokens that not all candidates begin with.
        is_last: whether the true value is the least likely of all.
        counts: in how many samples each candidate came out, of `num_samples`.
        in_thought: whether the true value stood in a think block, and in no answer.
    """

    fact: int
    hits: tuple[bool, ...]
    text: str = ""
    rank: int | None = None
    rank_by_mean: int | None = None
    is_last: bool = False
    counts: tuple[int, ...] = ()
    num_samples: int = 0
    in_thought: bool = False

    @property
    def leaks(self) -> bool:
        """Whether the true value came out."""
        return self.hits[0]
