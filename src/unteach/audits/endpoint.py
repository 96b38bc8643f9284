"""An audit of a model that only a server has: asked in conversations, and what it answered is kept.

A server shows no weights and no log-probs of given answers: attacks that need them are absent, with
that reason.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unteach.audits.attacks.base import Attack, AuditContext, TrainingAttack, WeightAttack
from unteach.audits.battery import BatteryPlan, Findings, limit_answers
from unteach.audits.probes import (
    Conversation,
    Outcome,
    Probe,
    RankProbe,
    SampleProbe,
    TextProbe,
    Texts,
)
from unteach.config.schema import TemplateArgs
from unteach.data.template import Template
from unteach.errors import UserError
from unteach.evals.base import Progress
from unteach.evals.measurement_cache import Store
from unteach.lazy import torch, transformers
from unteach.models.loading import LoadedModel
from unteach.models.model_handlers import learn_tokenizer
from unteach.seeds import derive_seed

logger = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
"""About."""
LARGEST_SEED = 2**31 - 1
"""That servers take."""
STAND_IN_CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""A chat template by which conversations are read where there is no model."""


@dataclass(frozen=True)
class Question:
    """One request to a server.

    Attributes:
        number: its index among those of a call.
        seed: of a sample; a server may heed it.
    """

    number: int
    messages: tuple[dict[str, str], ...]
    seed: int


@dataclass(frozen=True)
class Unanswered:
    """Why a server gave no answer."""

    why: str


AskServer = Callable[[str, Sequence[Question], int, bool], Iterator[tuple[int, str | Unanswered]]]
"""(name of the model, questions, most tokens of an answer, whether it is drawn at temperature 1) ->
the answer to each question by its number, once it is there. Raises UserError for what concerns all
questions."""


@dataclass
class EndpointModel:
    """A model by the name that a server knows.

    Attributes:
        address: of the server.
        system_prompt: stands before every question; None: nothing does.
        cache: the folder of measurements: what was answered is never asked again.
        ask: asks the server.
        unanswered: why questions got no answer, one for each.
    """

    name: str
    address: str
    system_prompt: str | None
    cache: Path
    ask: AskServer
    unanswered: list[str] = field(default_factory=list)

    @functools.cached_property
    def store(self) -> Store:
        return Store(self.cache, f"{self.name} at {self.address}", "served")

    def run_battery(
        self, plan: BatteryPlan, context: AuditContext, progress: Progress
    ) -> dict[str, Findings]:
        """Have the server answer all probes of a plan.

        Returns:
            The findings by attack. A question without an answer brought nothing out, and is
            counted.
        """
        everything = [probe for probes in plan.probes.values() for probe in probes]
        said: dict[tuple[Conversation, int | None], str] = {}
        for number, conversations in self.list_passes(everything).items():
            what = "asking" if number is None else f"asking for sample {number + 1}"
            advance = progress(what, len(conversations))
            answers = self._answer(conversations, number, context, advance)
            said |= {(asked, number): text for asked, text in answers.items()}
        findings = {}
        for name, probes in plan.probes.items():
            answered = [(probe, _read_outcome(probe, said)) for probe in probes]
            findings[name] = plan.attacks[name].judge(context, answered)
        return findings

    def list_passes(self, probes: Sequence[Probe]) -> dict[int | None, list[Conversation]]:
        """List what is asked, each conversation once a pass: the likeliest answers (None), then the
        samples by their numbers."""
        passes: dict[int | None, dict[Conversation, None]] = {}
        for probe in probes:
            conversation = find_conversation(probe)
            assert conversation is not None, "attacks that ask in tokens are absent"
            numbers: list[int | None] = [None]
            if isinstance(probe, SampleProbe):
                numbers = list(range(probe.count))
            for number in numbers:
                passes.setdefault(number, {})[conversation] = None
        return {number: list(conversations) for number, conversations in passes.items()}

    def list_missing(
        self, conversations: Sequence[Conversation], number: int | None, context: AuditContext
    ) -> list[Conversation]:
        """List the conversations of a pass that were not answered before."""
        kind = self._name_pass(number, context)
        return [
            conversation
            for conversation in conversations
            if self.store.get(kind, self._spell(conversation)) is None
        ]

    def _answer(
        self,
        conversations: Sequence[Conversation],
        number: int | None,
        context: AuditContext,
        advance: Callable[[int], None],
    ) -> dict[Conversation, str]:
        """Answer one pass: what is in the store, and the rest by the server."""
        kind = self._name_pass(number, context)
        missing = self.list_missing(conversations, number, context)
        advance(len(conversations) - len(missing))
        questions = []
        for index, conversation in enumerate(missing):
            messages = conversation.to_messages(self.system_prompt)
            # By what is asked, so that an audit that goes on draws as one that was not stopped.
            seed = derive_seed(context.seed, "served", number, *messages) % LARGEST_SEED
            questions.append(Question(index, messages, seed))
        texts: dict[Conversation, str] = {}
        failures = []
        if questions:
            limit = limit_answers(context)
            for index, answer in self.ask(self.name, questions, limit, number is not None):
                conversation = missing[index]
                if isinstance(answer, Unanswered):
                    failures.append(answer.why)
                    texts[conversation] = ""
                else:
                    self.store.put(kind, [self._spell(conversation)], [list(answer.encode())])
                    texts[conversation] = answer.strip()
                advance(1)
        if failures and len(failures) == len(conversations):
            raise UserError(f"{self.address} answers no question of this audit: {failures[0]}")
        self.unanswered += failures
        for conversation in conversations:
            if conversation not in texts:
                kept = self.store.get(kind, self._spell(conversation))
                texts[conversation] = bytes(kept).decode().strip()
        return texts

    def _name_pass(self, number: int | None, context: AuditContext) -> str:
        drawn = "likeliest" if number is None else f"sample {context.seed} {number}"
        return f"served, thought and all, {limit_answers(context)} {drawn}"

    def _spell(self, conversation: Conversation) -> list[dict[str, str]]:
        """Spell a conversation as the store finds it."""
        return list(conversation.to_messages(self.system_prompt))


def find_conversation(probe: Probe) -> Conversation | None:
    """Find what a server is asked by a probe; None where a probe asks in tokens."""
    if isinstance(probe, TextProbe | SampleProbe):
        return probe.conversation
    return None


def _read_outcome(probe: Probe, said: Mapping[tuple[Conversation, int | None], str]) -> Outcome:
    conversation = find_conversation(probe)
    assert conversation is not None, "attacks that ask in tokens are absent"
    if isinstance(probe, SampleProbe):
        return Texts(tuple(said[conversation, number] for number in range(probe.count)))
    return Texts((said[conversation, None],))


def drop_unservable(
    plan: BatteryPlan, attacks: Mapping[str, Attack], can_continue: bool
) -> BatteryPlan:
    """Drop the attacks that a server cannot be asked for, each with its reason.

    Args:
        attacks: those that were asked for.
        can_continue: whether the server goes on from words of an answer.
    """
    kept: dict[str, Attack] = {}
    absent = {}
    for name, attack in attacks.items():
        fault = _find_served_fault(attack, plan.probes.get(name, ()), can_continue)
        fault = fault or plan.absent.get(name, "")
        if fault:
            absent[name] = fault
        else:
            kept[name] = attack
    return BatteryPlan(kept, {name: plan.probes[name] for name in kept}, absent)


def _find_served_fault(attack: Attack, probes: Sequence[Probe], can_continue: bool) -> str:
    if isinstance(attack, WeightAttack):
        return "it changes the model, and an endpoint shows no weights"
    if isinstance(attack, TrainingAttack):
        return "it trains a copy of the model, and an endpoint shows no weights"
    if any(isinstance(probe, RankProbe) for probe in probes):
        return "it scores given answers, and an endpoint gives no log-probs of them"
    conversations = [find_conversation(probe) for probe in probes]
    if any(conversation is None for conversation in conversations):
        return "it writes a prompt's tokens itself, and an endpoint has a template of its own"
    begun = any(conversation.words for conversation in conversations if conversation)
    if begun and not can_continue:
        return (
            "it has the model go on from words of its answer; where the server can (vLLM, SGLang), "
            "set backend_args.continue_final_message=true"
        )
    return ""


def describe_requests(
    model: EndpointModel,
    plan: BatteryPlan,
    context: AuditContext,
    prices: Sequence[float] | None,
) -> str:
    """Say how many requests there are still to send, of how many tokens about, and their price."""
    everything = [probe for probes in plan.probes.values() for probe in probes]
    num_requests, num_characters = 0, 0
    for number, conversations in model.list_passes(everything).items():
        for conversation in model.list_missing(conversations, number, context):
            num_requests += 1
            messages = conversation.to_messages(model.system_prompt)
            num_characters += sum(len(message["content"]) for message in messages)
    num_read = num_characters // CHARACTERS_PER_TOKEN
    num_written = num_requests * limit_answers(context)
    said = (
        f"{num_requests:,} requests to {model.name}: about {num_read:,} tokens read, at most "
        f"{num_written:,} written"
    )
    if prices is None:
        return f"{said}; price unknown (audit.price_per_million_tokens=[in,out])"
    price = (num_read * prices[0] + num_written * prices[1]) / 1e6
    return f"{said}; at most about {price:.2f} at {prices[0]:g} and {prices[1]:g} a million"


def refuse_template(args: TemplateArgs) -> None:
    """Raise UserError for what says how a prompt is written: a server writes it itself."""
    if (
        args.kind not in ("auto", "chat")
        or replace(args, kind="auto", system_prompt=None, apply_chat_template=None)
        != TemplateArgs()
    ):
        raise UserError(
            "template: an endpoint is asked in conversations and writes prompts by a template of "
            "its own; leave it and model.template_args out, but for system_prompt"
        )


def warn_of_sending(address: str) -> str:
    """Say what an audit of an endpoint gives away, and what its results are not."""
    return (
        f"the facts are sent to {address}: questions, examples and first words of answers; what it "
        "answers may be another thing next time, so that these results are not reproducible"
    )


def build_stand_in() -> LoadedModel:
    """Build what rows are tokenised with where there is no model: rows are read by datasets, which
    are built with one. A server reads words, and none of these tokens."""
    tokenizer: Any = learn_tokenizer([], 300)
    tokenizer.chat_template = STAND_IN_CHAT
    with torch.device("meta"):
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=1 << 20,
        )
        model = transformers.LlamaForCausalLM(config)
    return LoadedModel(model, tokenizer, Template(tokenizer, TemplateArgs(kind="chat")), "float32")
