"""Which answer is the likeliest inside the model, before its last layer says another."""

from dataclasses import dataclass, field

import numpy as np

from unteach.audits.answer_tokens import count_shared_tokens
from unteach.audits.attacks.base import AuditContext, InsideAttack
from unteach.audits.attacks.rank import Rank
from unteach.audits.logit_lens import compute_logit_lens
from unteach.audits.probes import Finding, RankProbe
from unteach.engines.base import Pair
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals.base import Progress
from unteach.models.layers import refuse_no_lens, unwrap_model
from unteach.models.loading import LoadedModel
from unteach.registry import attack


@attack("logit_lens", cost="1 pass a fact over its candidates, with the head once a layer")
@dataclass
class LogitLens(InsideAttack):
    """Read each layer of the upper half as the last one is read, and rank the candidates there.

    A candidate came out where it alone is the likeliest at any of these layers, after the question
    and the answer up to the value; the true one and the wrong ones by the same rule, so that as
    many layers bring out more of both. The last layer is among them: there it is the attack `rank`.
    What only the top of a model suppresses stands in the layers below. Source: the logit lens,
    nostalgebraist 2020.
    """

    depth: float = field(
        default=0.5, metadata={"help": "the share of the layers, from below, that is not read"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.depth < 1:
            raise UserError(f"depth must be at least 0 and below 1, got {self.depth:g}")

    def find_fault(self, context: AuditContext) -> str:
        return Rank().find_fault(context)

    def find_model_fault(self, loaded: LoadedModel) -> str:
        if loaded.decoding is not None:
            return "the model forgets in its decoding and is two models, of which none is read"
        try:
            refuse_no_lens(unwrap_model(loaded.model))
        except UserError:
            return (
                "no one norm is known between the last layer and the head of this kind of model, "
                "so that no other layer is read as words"
            )
        return ""

    def look_inside(
        self, context: AuditContext, engine: HFEngine, progress: Progress
    ) -> dict[int, Finding]:
        probes = []
        pairs: list[Pair] = []
        for probe in Rank().write_probes(context):
            assert isinstance(probe, RankProbe)
            probes.append(probe)
            # Only the tokens in which candidates differ need a head at every layer.
            num_shared = count_shared_tokens(probe.continuations)
            for ids in probe.continuations:
                pairs.append(((*probe.prompt, *ids[:num_shared]), ids[num_shared:]))
        means = compute_logit_lens(
            engine, pairs, self.depth, progress("reading layers", len(pairs))
        )
        lengths = np.array([len(answer) for _, answer in pairs])
        sums = means * lengths[:, None]  # [candidates of all facts, layers]

        findings = {}
        start = 0
        for probe in probes:
            stop = start + len(probe.continuations)
            findings[probe.fact] = judge_layers(probe.fact, sums[start:stop])
            start = stop
        return findings


def judge_layers(fact: int, sums: np.ndarray) -> Finding:
    """Say which candidates are the likeliest at some layer; a tie brings out none.

    Args:
        sums: log-probs of the candidates, the true one first: [candidates, layers].
    """
    is_best = sums == sums.max(axis=0)
    is_first = is_best & (is_best.sum(axis=0) == 1)  # [candidates, layers]
    hits = tuple(bool(hit) for hit in is_first.any(axis=1))
    return Finding(fact, hits)
