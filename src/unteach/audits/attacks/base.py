"""What an attack is: it writes probes, and says what came of them; or it changes the weights before
others are asked; or it reads what a model computes inside."""

import contextlib
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unteach.audits.audited_model import AuditedModel
from unteach.audits.candidates import Candidates
from unteach.audits.fact_rows import Turn
from unteach.audits.facts import Fact
from unteach.audits.judging import SaidText, join_findings, judge_rank, judge_with_thoughts
from unteach.audits.lessons import Lesson
from unteach.audits.probes import (
    Conversation,
    Finding,
    LogProbs,
    Outcome,
    Probe,
    TextProbe,
    Texts,
)
from unteach.data.chat_template import Shots
from unteach.data.template import Template
from unteach.engines.base import Ids
from unteach.engines.hf import HFEngine
from unteach.evals.base import Progress
from unteach.models.loading import LoadedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AUDITED, ORIGINAL, RETAIN = "audited", "original", "retain"
"""The models of an audit, by their part in it."""
OPTIONS = {ORIGINAL: "original=MODEL", RETAIN: "retain_model=MODEL"}
"""What names the models beside the audited one."""


@dataclass(frozen=True)
class AuditContext:
    """What attacks know beside the model.

    Attributes:
        facts: all that are asked for: those that are audited, and behind them controls that no
            model was taught.
        candidates: of each fact, its true value and wrong ones.
        retain: rows that the model was to keep, as facts; none where there are no such rows.
        template: how the model is asked.
        seed: of all that is drawn.
        parts: of the models that are audited, or stand beside that one.
    """

    facts: Sequence[Fact]
    candidates: Sequence[Candidates]
    retain: Sequence[Fact]
    template: Template
    seed: int
    parts: Sequence[str] = (AUDITED,)

    @property
    def audited(self) -> list[Fact]:
        """The facts that are audited."""
        return [fact for fact in self.facts if not fact.never_seen]

    @property
    def never_seen(self) -> list[Fact]:
        """The facts that are controls."""
        return [fact for fact in self.facts if fact.never_seen]

    @functools.cached_property
    def groups(self) -> Mapping[int, str]:
        """Of each fact, by its number, what it is forgotten together with."""
        return {fact.index: fact.group for fact in self.facts}

    @functools.cached_property
    def raw(self) -> Template:
        """How the model goes on with a text, as documents are trained on."""
        return self.template.as_raw()

    def ask(self, fact: Fact, question: str | None = None, shots: Shots = ()) -> Ids:
        """Encode what the model is asked for a fact, in the form in which its row is trained on: of
        a chat after its earlier turns, of a document as the text that it goes on with.

        Args:
            question: in the place of the fact's own.
            shots: questions and answers before it, and before the fact's earlier turns.
        """
        asked = fact.question if question is None else question
        if fact.is_document:
            return self.raw.encode_prompt(asked, shots)
        return encode_after(self.template, asked, shots, fact.earlier)

    def write_answer(self, fact: Fact, answer: str) -> str:
        """Write an answer as it stands behind its question."""
        is_raw = fact.is_document or self.template.kind == "raw"
        return f"{fact.gap}{answer}" if is_raw else answer

    def begin(self, fact: Fact, words: str, question: str | None = None, shots: Shots = ()) -> Ids:
        """Encode a question and the first words of its answer, as both are trained on."""
        return (*self.ask(fact, question, shots), *self.encode_answer(fact, words))

    def write_probe(
        self, fact: Fact, question: str, shots: Shots = (), words: str = "", opening: str = ""
    ) -> TextProbe:
        """Write a probe that asks for a fact.

        Args:
            shots: questions and answers before the question.
            words: what the model goes on from, as if it had begun its answer so.
            opening: those of them that are the true answer's.
        """
        asked = self.ask(fact, question, shots)
        if words:
            asked = self.begin(fact, words, question, shots)
        return TextProbe(fact.index, asked, opening, self.converse(fact, question, shots, words))

    def converse(
        self, fact: Fact, question: str, shots: Shots = (), words: str = ""
    ) -> Conversation | None:
        """Write what is asked as a conversation; None of a document, which is none."""
        if fact.is_document:
            return None
        earlier = tuple((turn.role, turn.content) for turn in fact.earlier)
        return Conversation(question, tuple(shots), words, earlier)

    def encode_answer(self, fact: Fact, words: str) -> Ids:
        """Encode the first words of an answer as they stand behind their question, without the end
        of the turn."""
        written = self.write_answer(fact, words)
        if fact.is_document:
            return self.raw.encode_words(written)
        prompt = self.template.encode_prompt(fact.question)
        encoded = self.template.encode(fact.question, written)
        return tuple(encoded.input_ids[len(prompt) : -1])


def encode_after(
    template: Template, question: str, shots: Shots = (), earlier: Sequence[Turn] = ()
) -> Ids:
    """Encode a question after the turns of its conversation. A template that shows no turns has
    their questions and answers before it, without a system prompt."""
    if template.kind == "chat":
        messages = [{"role": turn.role, "content": turn.content} for turn in earlier]
        return template.encode_prompt(question, shots, messages)
    pairs = list(shots)
    for asked, answered in itertools.pairwise(earlier):
        if (asked.role, answered.role) == ("user", "assistant"):
            pairs.append((asked.content, answered.content))
    return template.encode_prompt(question, pairs)


class Attack:
    """One way to bring out what a model knows. Subclasses are dataclasses registered by `@attack`;
    their fields are their configuration.

    It says which facts it cannot ask for and why (`find_fault`), writes probes of the others
    (`write_probes`), and judges what the model made of them (`judge`). It never runs the model: all
    attacks share passes. The same probes and findings come of every batch size and process count.

    Attributes:
        JOINS_UNION: whether its hits count in the worst case over attacks; not where it does not
            ask for all candidates of a fact.
        ASKS_DOCUMENTS: whether it can ask for a passage of a document, which is no question.
    """

    JOINS_UNION: ClassVar[bool] = True
    ASKS_DOCUMENTS: ClassVar[bool] = False

    def find_fault(self, context: AuditContext) -> str:
        """Say why it cannot be run at all; empty: it can."""
        return ""

    def find_model_fault(self, loaded: LoadedModel) -> str:
        """Say why it cannot be run on a model; empty: it can. The model has no weights yet."""
        return ""

    def write_probes(self, context: AuditContext) -> list[Probe]:
        """Write its probes: any number for a fact, none for one that it cannot ask for."""
        raise NotImplementedError

    def judge(
        self, context: AuditContext, answered: Sequence[tuple[Probe, Outcome]]
    ) -> dict[int, Finding]:
        """Say what came out of each fact that was asked for, by its number: what any of its probes
        brought out."""
        by_fact: dict[int, list[Finding]] = {}
        for finding in self._judge_each(context, answered):
            by_fact.setdefault(finding.fact, []).append(finding)
        return {fact: join_findings(findings) for fact, findings in sorted(by_fact.items())}

    def _judge_each(
        self, context: AuditContext, answered: Sequence[tuple[Probe, Outcome]]
    ) -> list[Finding]:
        findings = []
        said = []
        for probe, outcome in answered:
            if isinstance(outcome, LogProbs):
                findings.append(judge_rank(probe.fact, outcome))
                continue
            assert isinstance(outcome, Texts)
            fact, candidates = context.facts[probe.fact], context.candidates[probe.fact]
            opening = probe.opening if isinstance(probe, TextProbe) else ""
            for text in outcome.texts:
                said.append(SaidText(fact, candidates, opening, text))
        for one, judged in zip(said, judge_with_thoughts(said), strict=True):
            index = one.fact.index
            findings.append(
                Finding(index, judged.hits, text=one.text, in_thought=judged.in_thought)
            )
        return findings


class WeightAttack(Attack):
    """An attack that changes the weights, and has others ask meanwhile.

    Attributes:
        measured: the attacks that ask.
        TAKES_AWAY: whether it takes a part of the model away, so that of a model without such a
            part it finds what is found without it.
    """

    measured: Sequence[str]
    TAKES_AWAY: ClassVar[bool] = False
    ASKS_DOCUMENTS: ClassVar[bool] = True

    def change(self, model: "PreTrainedModel") -> contextlib.AbstractContextManager[object]:
        """Change the model's weights in place, and change them back at the end, bit for bit."""
        raise NotImplementedError

    def write_probes(self, context: AuditContext) -> list[Probe]:
        """Write none of its own."""
        return []


class TrainingAttack(Attack):
    """An attack that trains a copy of the model a little, and has others ask afterwards. The
    audited model is never changed.

    Each training is a result of its own, which counts where the original keeps what it knew under
    it.

    Attributes:
        measured: the attacks that ask.
    """

    measured: Sequence[str]
    ASKS_DOCUMENTS: ClassVar[bool] = True

    def find_model_fault(self, loaded: LoadedModel) -> str:
        if loaded.decoding is None:
            return ""
        return "two models whose logits are combined are not trained as one"

    def write_lessons(self, context: AuditContext) -> list[Lesson]:
        """Write the trainings that are tried."""
        raise NotImplementedError

    def list_asked(self, context: AuditContext) -> list[Fact]:
        """List the facts that are asked for: none of those that are taught."""
        raise NotImplementedError

    def describe_taught(self, context: AuditContext) -> str:
        """Describe what is taught, as results say it."""
        raise NotImplementedError

    def write_probes(self, context: AuditContext) -> list[Probe]:
        """Write none of its own."""
        return []


class InsideAttack(Attack):
    """An attack that reads what a model computes inside: hidden states, and what is made of them.

    It is given each model by itself and leaves it as it was.
    """

    ASKS_DOCUMENTS: ClassVar[bool] = True

    def look_inside(
        self, context: AuditContext, engine: HFEngine, progress: Progress
    ) -> dict[int, Finding]:
        """Say what came out of each fact that it can look for, by its number: of each candidate
        alike, whether it did.

        Args:
            engine: runs the model, which is loaded where it is used for the first time. What its
                passes give is found again in its store.
            progress: shows a pass.
        """
        raise NotImplementedError

    def write_probes(self, context: AuditContext) -> list[Probe]:
        """Write none of its own."""
        return []


class ScoreAttack(Attack):
    """An attack that holds the audited model against the others, and gives each fact a number.

    A number is no leak: it is a result of its own, in no union, without chance to hold it against.

    Attributes:
        NEEDED: the parts of the models that must stand beside the audited one.
        MEANING: what its number says, as the table says it.
    """

    JOINS_UNION: ClassVar[bool] = False
    ASKS_DOCUMENTS: ClassVar[bool] = True
    NEEDED: ClassVar[Sequence[str]] = (ORIGINAL, RETAIN)
    MEANING: ClassVar[str] = ""

    def find_fault(self, context: AuditContext) -> str:
        missing = [OPTIONS[part] for part in self.NEEDED if part not in context.parts]
        return f"it needs {' and '.join(missing)}" if missing else ""

    def score_facts(
        self, context: AuditContext, models: Mapping[str, AuditedModel], progress: Progress
    ) -> dict[int, float | None]:
        """Give each fact its number, None where it has none; facts that cannot be looked for are
        left out.

        Args:
            models: by their part; none is loaded yet. One whose weights were used is to be released
                before the next is.
            progress: shows a pass.
        """
        raise NotImplementedError

    def write_probes(self, context: AuditContext) -> list[Probe]:
        """Write none of its own."""
        return []
