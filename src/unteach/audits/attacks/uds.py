"""How deep the forgetting goes: what the model's states say inside the original."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from unteach.audits.answer_tokens import build_value_pair
from unteach.audits.attacks.base import AUDITED, ORIGINAL, RETAIN, AuditContext, ScoreAttack
from unteach.audits.audited_model import AuditedModel
from unteach.audits.depth_score import (
    PLACES,
    THRESHOLD,
    Form,
    compute_depth_score,
    compute_drops,
)
from unteach.audits.patching import RecordedStates, list_unpatched, record_states
from unteach.engines.base import Pair
from unteach.engines.hf import HFEngine
from unteach.evals.base import Progress
from unteach.registry import attack

COST = "2 passes, and for both models 1 more of the original than it has layers"


@attack("uds", cost=COST)
@dataclass
class DepthScoreAttack(ScoreAttack):
    """The unlearning depth score: put the model's hidden states into the original, layer by layer,
    where it predicts a fact's value, and see how much of what the retain model's states take away
    they take away.

    0: the states hold all that the original's do; 1: as little as those of the model that never saw
    the facts. A fact that no layer holds has no score. `published` takes the last layer's states
    behind the final norm, as the authors' code does. The states of each model are kept, and one
    model is loaded at a time. Source: gnueaj/unlearning-depth-score.
    """

    MEANING: ClassVar[str] = "0: all is there inside, 1: as little as in the retain model"

    form: Form = field(
        default="corrected", metadata={"help": "where the last layer's states are taken"}
    )
    threshold: float = field(
        default=THRESHOLD,
        metadata={"help": "nats that a layer must take away to hold a fact"},
    )

    def find_fault(self, context: AuditContext) -> str:
        if not context.template.tokenizer.is_fast:
            return "the tokenizer does not say which characters a token has (tokenizer.json does)"
        return super().find_fault(context)

    def score_facts(
        self, context: AuditContext, models: Mapping[str, AuditedModel], progress: Progress
    ) -> dict[int, float | None]:
        pairs = self.list_pairs(context)
        asked = list(pairs.values())
        original = models[ORIGINAL]
        others = {part: models[part] for part in (RETAIN, AUDITED)}

        # The states of both come first, so that no two models are loaded at once.
        states = {}
        for part, model in others.items():
            with original.open_engine() as engine:
                assert isinstance(engine, HFEngine)
                missing = list_unpatched(engine, asked, PLACES[self.form], model.identity)
            states[part] = self._record(model, missing, progress) if missing else None
        drops = {}
        for part, model in others.items():
            with original.open_engine() as engine:
                assert isinstance(engine, HFEngine)
                advance = progress(f"the original with the {part} model's states", len(asked))
                drops[part] = compute_drops(
                    engine, states[part], asked, self.form, model.identity, advance
                )
        original.release()
        score = compute_depth_score(drops[RETAIN], drops[AUDITED], self.threshold)
        return dict(zip(pairs, score.by_fact, strict=True))

    def list_pairs(self, context: AuditContext) -> dict[int, Pair]:
        """List what stands before each fact's value, and the value, by the number of the fact."""
        pairs = {}
        for fact in context.audited:
            pair = build_value_pair(
                context.template.tokenizer,
                context.ask(fact),
                context.write_answer(fact, fact.answer),
                fact.value,
            )
            if pair is not None:
                pairs[fact.index] = pair
        return pairs

    def _record(self, model: AuditedModel, pairs: list[Pair], progress: Progress) -> RecordedStates:
        with model.open_engine() as engine:
            assert isinstance(engine, HFEngine)
            advance = progress("recording states", len(pairs))
            states = record_states(engine, pairs, PLACES[self.form], advance)
        model.release()
        return states
