"""Ask a server the questions of an audit, by the backend of `unteach infer`."""

import contextlib
from collections.abc import Iterator, Sequence

from unteach.audits.endpoint import Question, Unanswered
from unteach.config.inference import Sampling
from unteach.config.schema import PATH, ModelConfig
from unteach.data.reasoning import CLOSE, OPEN
from unteach.distributed.process_context import DistContext
from unteach.inference.backends.base import Answer, Failure, Job, Request
from unteach.inference.backends.openai import OpenAI


def ask_server(
    backend: OpenAI,
    dist: DistContext,
    name: str,
    questions: Sequence[Question],
    max_new_tokens: int,
    is_drawn: bool,
) -> Iterator[tuple[int, str | Unanswered]]:
    """Ask a model of a server, as an audit's AskServer.

    Raises:
        UserError: nothing answers there, not to this key, or not of this model.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens)
    if is_drawn:
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0, top_p=1.0)
    requests = []
    for question in questions:
        text = "\n".join(message["content"] for message in question.messages)
        requests.append(
            Request(question.number, text=text, messages=question.messages, seed=question.seed)
        )
    job = Job(ModelConfig({PATH: name}), "generate", sampling, dist)
    with contextlib.closing(backend.open(job)) as session:
        for number, answer in session.generate(requests, sampling, set()):
            if isinstance(answer, Failure) and not answer.reasoning:
                yield number, Unanswered(answer.why)
                continue
            yield number, _read_all(answer)


def _read_all(answer: Answer) -> str:
    """Read what a model said, with what it thought before where the server gives that apart."""
    if isinstance(answer, Failure):
        return f"{OPEN}{answer.reasoning}"
    assert isinstance(answer, list), "a server only generates"
    [completion] = answer
    if not completion.reasoning:
        return completion.text
    return f"{OPEN}{completion.reasoning}{CLOSE}{completion.text}"
